"""Asks every neighbour for the sagas that it shares with this stage, and adopts what was lost.

For a database that was restored (rule 33), whether the stage is stopped or up. Nothing of a saga
that is in the database is changed; where a neighbour says something else of it, that is reported.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush

import msgspec
from msgspec.structs import replace

from stage.core.errors import ConfigurationError, NewerJournal
from stage.core.events import StepStarted
from stage.core.lost import Word
from stage.core.states import SagaState
from stage.core.unseen import may_be_dropped
from stage.engine.saga.adoption import Adoption, Testimony, as_it_came
from stage.engine.saga.context import context_of
from stage.ports.clock import Clock
from stage.ports.neighbour import Neighbours
from stage.ports.reconcile import UNREADABLE, Difference
from stage.ports.stage import Lost
from stage.ports.store import LOST_SAGAS_MAX, UNKEPT, Changes, SagaRow, Store
from stage.wire.envelope import Envelope, parse_instant
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.shared import SharedSaga, Side

ASK_SECONDS_MAX = 30.0
"""For one page of one neighbour."""
NEWEST = 20
"""The newest sagas of the database, of which one shows under which names calls were made."""
PAGE = 50
"""Sagas of our own that are read at a time."""
TURN_BYTES = 65_536
"""Of envelopes that are decoded before others have their turn in the event loop."""
MARGIN_SECONDS = 3600.0
"""Neighbours are asked from this long before the backup: their clocks are others."""
LOST_MAX = 100_000
"""Lost sagas of one reconciliation, which are held in memory until all neighbours were asked."""
NOTHING_STANDS = frozenset({Outcome.COMPENSATED, Outcome.NOT_EXECUTED})

Belongs = Callable[[str], Awaitable[bool]]


async def all_belong(_saga_id: str) -> bool:
    """The database is the only one of its stage."""
    return True


class Reconciliation(msgspec.Struct, kw_only=True):
    """The answers of the neighbours. `unanswered` has the reason why one could not be asked."""

    since: float = 0.0
    """No saga is missing from before that instant, whatever the clock of a neighbour says."""
    asked: dict[str, int] = {}
    """How many sagas each neighbour listed."""
    unanswered: dict[str, str] = {}
    unnamed: dict[str, int] = {}
    """How many sagas of the database were opened by each name that is no configured neighbour."""
    dropped: dict[str, set[str]] = {}
    """The sagas that each neighbour lists, or asks for, and that are not in the database because
    they were dropped for their age. That was before the backup: no saga with such an id was
    accepted since (decision 0080)."""
    lost: list[Testimony] = []
    elsewhere: set[str] = set()
    """The sagas that somebody asked to compensate, and that belong to another database."""
    differences: list[Difference] = []
    formerly: dict[str, str] = {}
    """The name of today by each name that one of the neighbours had before."""
    called_otherwise: str = ""
    """Why lost sagas may have made calls under other keys than this release looks under."""
    whole: bool = True
    """False where the neighbours were asked from later than the backup: then no release follows."""


def answers_of(
    found: Reconciliation, without: Mapping[str, str], *, left_out: int = 0
) -> dict[str, str]:
    """The answers to keep for a release; a name that nobody could ask gets an empty one.

    With lost sagas `left_out` every answer is empty, in place of those that were kept before too:
    a release would say of these sagas that they were never here.
    """
    listed = {peer: f"{count} sagas" for peer, count in found.asked.items()}
    answers = {**dict.fromkeys(found.unnamed, ""), **listed, **without}
    if left_out:
        return dict.fromkeys(answers, "")
    for former, today in found.formerly.items():  # one may have been kept before the rename
        if today in answers:
            answers.setdefault(former, answers[today])
    return answers if found.whole else {}


def check_names(found: Reconciliation, word: str) -> None:
    """Raise ConfigurationError where lost sagas may have run under other names; `word` is the way
    in which a person says that they did not."""
    if found.lost and found.called_otherwise:
        raise ConfigurationError(
            f"{found.called_otherwise}: an effect of a lost saga would be looked for, and undone,"
            " under a key that it may never have had. Reconcile with the release that ran before,"
            f" or say {word} where all of them ran under the names of this one"
        )


class Reconciler:
    """Reconciles one database with its neighbours."""

    def __init__(
        self,
        names: tuple[str, ...],
        store: Store,
        neighbours: Neighbours,
        adoption: Adoption,
        clock: Clock,
        *,
        belongs: Belongs = all_belong,
    ) -> None:
        """`names` are those of the stage, also of before: neighbours know older sagas by these.

        `belongs` says whether a saga that the database lacks would be in it.
        """
        self._belongs = belongs
        self._names = names
        self._store = store
        self._neighbours = neighbours
        self._adoption = adoption
        self._clock = clock
        self._newest: list[tuple[float, str]] = []
        """When the newest sagas of the database were accepted, and their ids: a heap."""

    async def reconcile(
        self, peers: Sequence[str], as_of: float, without: Mapping[str, str]
    ) -> Reconciliation:
        """Ask each but those `without`, and look who else has opened sagas. Changes nothing.

        `as_of` is the instant from which sagas may be missing. Raises ConfigurationError.
        """
        openers: Counter[str] = Counter()
        for name, count in (await self.openers()).items():
            openers[self._neighbours.name_of_today(name)] += count
        kept = await self._store.answers(self._store.identity.generation)
        known = {*peers, *openers, *kept}  # a release waits for each name that was kept
        unknown = sorted(without.keys() - known)
        if unknown and self._belongs is all_belong:  # otherwise the file of another may know it
            raise ConfigurationError(
                f"{', '.join(unknown)} is no neighbour; the neighbours are"
                f" {', '.join(sorted(known))}"
            )
        asked = [peer for peer in peers if peer not in without]
        found = await self.ask(asked, max(0.0, as_of - MARGIN_SECONDS))
        found.unnamed = {
            name: count for name, count in openers.items() if name not in (*peers, *without)
        }
        found.formerly = {
            former: peer for peer in peers for former in self._neighbours.names_of(peer)[1:]
        }
        found.called_otherwise = await self._called_otherwise()
        restored_as_of = self._store.identity.restored_as_of
        found.whole = restored_as_of is None or as_of <= restored_as_of
        return found

    async def ask(self, peers: Sequence[str], since: float) -> Reconciliation:
        """Ask each neighbour for the sagas that changed since then. Changes nothing."""
        found = Reconciliation(since=since)
        lost: dict[str, Testimony] = {}
        for peer in peers:
            await self._ask_one(peer, since, found, lost)
        await self._requested(found, lost)
        found.lost = sorted(lost.values(), key=lambda saga: saga.id)
        found.differences = list(dict.fromkeys(found.differences))
        return found

    async def openers(self) -> dict[str, int]:
        """How many sagas of the database each neighbour opened, closed ones aside.

        Sagas whose envelope cannot be read are counted as UNREADABLE.
        """
        found: Counter[str] = Counter()
        size = 0
        since = Changes(at=0.0, saga_id="", limit=PAGE)
        while rows := await self._store.changed(since):
            for row in rows:
                found.update(self._opener(row))
                heappush(self._newest, (row.accepted_at, row.id))
                if len(self._newest) > NEWEST:
                    heappop(self._newest)
                size += len(row.envelope)
                if size > TURN_BYTES:
                    size = 0
                    await asyncio.sleep(0)
            since = replace(since, at=rows[-1].updated_at, saga_id=rows[-1].id)
        return dict(found)

    async def _called_otherwise(self) -> str:
        """Whether the newest saga that made a call made it under names that this release lacks."""
        for _, saga_id in sorted(self._newest, reverse=True):
            try:
                entries = await self._store.entries(saga_id)
            except (ValueError, NewerJournal, msgspec.MsgspecError):
                continue  # it cannot be read, as `openers` says
            if names := self._adoption.called_otherwise(saga_id, entries):
                return (
                    f"saga {saga_id}, of the newest of the database, called"
                    f" {', '.join(map(repr, names))}, which this release names otherwise or lacks"
                )
            if any(isinstance(entry.event, StepStarted) for entry in entries):
                return ""
        return ""

    def _opener(self, row: SagaRow) -> tuple[str, ...]:
        """The name of the neighbour that opened it; nothing where none is known."""
        try:
            return context_of(row, self._store.codec).trail[-1:]
        except (ValueError, WireError, msgspec.MsgspecError):
            return (UNREADABLE,)

    async def adopt(self, found: Reconciliation) -> int:
        """Write every lost saga; how many were written."""
        written = 0
        for saga in found.lost:
            unit = partial(self._adoption.write, lost=saga, now=self._clock.now())
            written += await self._store.transact(unit)
        return written

    async def _ask_one(
        self, peer: str, since: float, found: Reconciliation, lost: dict[str, Testimony]
    ) -> None:
        listed = 0
        for name in self._names:
            after: str | None = ""
            while after is not None:
                page = await self._neighbours.get_shared(
                    peer, name, since=since, after=after, timeout=ASK_SECONDS_MAX
                )
                if isinstance(page, Lost):
                    found.unanswered[peer] = page.reason
                    return
                for saga in page.sagas:
                    await self._hear(peer, saga, found, lost)
                listed += len(page.sagas)
                if page.next == after:
                    found.unanswered[peer] = "gives the same page again"
                    return
                after = page.next
        found.asked[peer] = listed

    async def _hear(
        self, peer: str, saga: SharedSaga, found: Reconciliation, lost: dict[str, Testimony]
    ) -> None:
        """Take in what a neighbour says of one saga."""
        try:
            row = await self._store.get(saga.saga_id)
        except NewerJournal:
            return  # it is here; only the release that can read it could compare it
        if row is not None:
            if _differs(row, saga):
                found.differences.append(
                    Difference(saga_id=row.id, state=row.state, neighbour=peer, said=saga.outcome)
                )
            return
        if not await self._belongs(saga.saga_id):
            return
        if await self._was_dropped(saga.saga_id):
            found.dropped.setdefault(peer, set()).add(saga.saga_id)
            return
        given, opener = self._envelope(saga)
        word = Word(
            neighbour=peer,
            from_upstream=self._is_upstream(peer, saga) and opener in ("", peer),
            said=saga.outcome.value,
            nothing_stands=saga.outcome in NOTHING_STANDS,
        )
        if self._neighbours.is_upstream(peer) and not word.from_upstream:
            # It went through no other upstream: nothing is read from it of whose the saga is.
            given, opener = None if self._neighbours.is_upstream(opener) else given, ""
        known = lost.get(saga.saga_id) or Testimony(id=saga.saga_id)
        if saga.saga_id not in lost and len(lost) >= LOST_MAX:
            raise ConfigurationError(
                f"more than {LOST_MAX} sagas were lost: put a newer backup back, or reconcile from"
                " a later --since first, and then once more without it, which a release asks for"
            )
        heard = known.heard(word, given, opener)
        passed = () if given is None else (entry.at for entry in given.trail[-1:])
        for said in (saga.accepted_at, *passed):
            heard = heard.known_since(_instant(said, found.since))
        lost[saga.saga_id] = heard

    def _is_upstream(self, peer: str, saga: SharedSaga) -> bool:
        """Whether it speaks as upstream of the saga: only one that is configured can have it so."""
        return saga.side is Side.UPSTREAM and self._neighbours.is_upstream(peer)

    def _envelope(self, saga: SharedSaga) -> tuple[Envelope | None, str]:
        """The envelope as it came here, and the name of today of its sender; None without one."""
        try:
            sent = saga.sent
        except WireError:
            return None, ""  # it cannot be read
        if sent is None:
            return None, ""
        given = as_it_came(sent, self._names)
        return given, self._neighbours.name_of_today(given.upstream)

    async def _was_dropped(self, saga_id: str) -> bool:
        """Whether a saga that is not here was dropped for its age before the backup."""
        return may_be_dropped(saga_id, (await self._store.dropped()).ids_until)

    async def _requested(self, found: Reconciliation, lost: dict[str, Testimony]) -> None:
        """Take in the requests to compensate that came while a saga was not known."""
        for kept in await self._store.lost_sagas(LOST_SAGAS_MAX + 1):
            if kept.saga_id == UNKEPT:
                continue  # of sagas that nobody here can name
            if await self._was_dropped(kept.saga_id):
                found.dropped.setdefault(kept.requested_by, set()).add(kept.saga_id)
                continue
            if await self._store.seen([kept.saga_id]):
                continue
            if kept.saga_id not in lost and not await self._belongs(kept.saga_id):
                found.elsewhere.add(kept.saga_id)
                continue
            known = lost.get(kept.saga_id) or Testimony(id=kept.saga_id)
            lost[kept.saga_id] = self._adoption.asked_for(known, kept, self._clock.now())


def _instant(said: str, earliest: float) -> float | None:
    try:
        return max(earliest, parse_instant(said))
    except ValueError:
        return None


def _differs(row: SagaRow, saga: SharedSaga) -> bool:
    """Whether the outcome there and the state here contradict each other.

    `unknown` there contradicts `completed` here: the upstream may have been answered, after the
    backup was made, that a part of the saga stands.
    """
    if row.state is SagaState.COMPLETED and saga.outcome is Outcome.UNKNOWN:
        return True
    here = row.state in (SagaState.ACTIVE, SagaState.COMPLETED)
    there = saga.outcome not in NOTHING_STANDS
    return here != there and row.state is not SagaState.COMPENSATING
