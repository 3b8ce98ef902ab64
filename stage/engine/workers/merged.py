"""One list out of the lists of all workers, one count out of their counts."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from msgspec.structs import replace

from stage.ports.engine import SharedSagas
from stage.ports.figures import Figures, Lately, Places
from stage.ports.peers import PeerStanding
from stage.ports.reconcile import Findings
from stage.ports.store import Act, Approvals, Backlog, Group, SagaRow, each_place_once

K = TypeVar("K", bound=Hashable)


def page(pages: Iterable[Sequence[SagaRow]], limit: int) -> list[SagaRow]:
    """The first rows in the order of ids, in which each page is."""
    return list(heapq.merge(*pages, key=lambda row: row.id))[:limit]


def groups(lists: Iterable[Sequence[Group]]) -> list[Group]:
    """Each place once, in the order of a store."""
    return each_place_once(chain.from_iterable(lists))


def acts(lists: Iterable[Sequence[Act]], limit: int) -> list[Act]:
    """The newest acts. Their numbers are instants, and a page ends between two of them.

    An order to all files at once, such as a pause, is one act.
    """
    everything = sorted((act for acts_ in lists for act in acts_), key=lambda act: -act.number)
    once = list({(a.number, a.act, a.target, a.actor): a for a in everything}.values())
    if len(once) <= limit:
        return once
    last = once[limit - 1].number
    return [act for act in once if act.number >= last]


def shared(pages: Sequence[SharedSagas]) -> SharedSagas:
    """A page that ends where the first of the pages ends: behind it not all is known."""
    ends = [each.next for each in pages if each.next is not None]
    end = min(ends, key=lambda each: (each.at, each.saga_id), default=None)
    found = sorted(
        (
            (place, saga)
            for each in pages
            for place, saga in zip(each.places, each.sagas, strict=True)
            if end is None or place <= (end.at, end.saga_id)
        ),
        key=lambda each: each[0],
    )
    return SharedSagas(
        sagas=[saga for _, saga in found], next=end, places=[place for place, _ in found]
    )


def counts(all_: Iterable[Mapping[K, int]]) -> dict[K, int]:
    """The sums by key; a key that every worker counts as none stays."""
    found: dict[K, int] = {}
    for each in all_:
        for key, count in each.items():
            found[key] = found.get(key, 0) + count
    return found


def backlog(all_: Sequence[Backlog]) -> Backlog:
    """The sums, and the oldest of each kind."""
    return Backlog(
        parked=counts(each.parked for each in all_),
        oldest_accepted_at=_oldest(each.oldest_accepted_at for each in all_),
        longest_due_at=_oldest(each.longest_due_at for each in all_),
        oldest_compensation_at=_oldest(each.oldest_compensation_at for each in all_),
        newer=sum(each.newer for each in all_),
        lost=sum(each.lost for each in all_),
        approvals=_approvals(all_),
        sizes=counts(each.sizes for each in all_),
    )


def _approvals(all_: Iterable[Backlog]) -> tuple[Approvals, ...]:
    found: dict[str, Approvals] = {}
    for each in (approvals for backlog_ in all_ for approvals in backlog_.approvals):
        known = found.get(each.step, Approvals(step=each.step))
        found[each.step] = Approvals(
            step=each.step,
            sagas=known.sagas + each.sagas,
            oldest_asked_at=_oldest((known.oldest_asked_at, each.oldest_asked_at)),
            first_ends_at=_oldest((known.first_ends_at, each.first_ends_at)),
        )
    return tuple(found[step] for step in sorted(found))


def _oldest(instants: Iterable[float | None]) -> float | None:
    return min((each for each in instants if each is not None), default=None)


def peers(lists: Iterable[Sequence[PeerStanding]]) -> list[PeerStanding]:
    """Each peer once: what all workers send to it together, and what came last from it."""
    found: dict[str, PeerStanding] = {}
    for peer in (each for peers_ in lists for each in peers_):
        known = found.get(peer.peer)
        found[peer.peer] = peer if known is None else _together(known, peer)
    return list(found.values())


def _together(one: PeerStanding, other: PeerStanding) -> PeerStanding:
    failed = max(one, other, key=lambda each: each.failed_at or 0.0)
    rates = [each.rate_per_second for each in (one, other) if each.rate_per_second is not None]
    answered = [each.answered_at for each in (one, other) if each.answered_at is not None]
    return replace(
        one,
        under_way=one.under_way + other.under_way,
        queued=one.queued + other.queued,
        places=one.places + other.places,
        places_max=one.places_max + other.places_max,
        rate_per_second=sum(rates) if rates else None,
        answered_at=max(answered, default=None),
        failed_at=failed.failed_at,
        failure=failed.failure,
    )


def figures(all_: Sequence[Figures]) -> Figures:
    """The sums. The seconds are those of the worker that has counted longest."""
    places: dict[str, Places] = {}
    for each in all_:
        for place in each.places:
            known = places.get(place.what, Places(place.what, 0, 0))
            limit, in_use = known.limit + place.limit, known.in_use + place.in_use
            places[place.what] = Places(place.what, limit, in_use)
    lately = Lately(
        seconds=max(each.lately.seconds for each in all_),
        ended=counts(each.lately.ended for each in all_),
        refused=counts(each.lately.refused for each in all_),
    )
    return replace(all_[0], lately=lately, places=tuple(places.values()))


def findings(all_: Sequence[Findings]) -> Findings:
    """The sagas that all files lack. Every neighbour was asked by each, and lists the same."""
    return replace(
        all_[0],
        since=min(each.since for each in all_),
        asked={name: count for each in all_ for name, count in each.asked.items()},
        unanswered={name: why for each in all_ for name, why in each.unanswered.items()},
        unnamed=counts(each.unnamed for each in all_),
        dropped=counts(each.dropped for each in all_),
        missing=tuple(one for each in all_ for one in each.missing),
        differences=tuple(one for each in all_ for one in each.differences),
        adopted=tuple(one for each in all_ for one in each.adopted),
        called_otherwise=next((why for each in all_ if (why := each.called_otherwise)), ""),
    )
