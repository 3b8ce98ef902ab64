"""Reconciles the database of a stage that is up, as far as a person orders it (rule 33).

Until the database is released no saga that it lacks is opened here, so that what a neighbour lists
and the database lacks was lost, and is not on its way. Afterwards nothing is adopted any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from stage.core.errors import ConfigurationError
from stage.engine.reconcile import (
    Belongs,
    Reconciler,
    Reconciliation,
    all_belong,
    answers_of,
    check_names,
)
from stage.engine.saga.adoption import Adoption, Testimony
from stage.ports.clock import Clock
from stage.ports.neighbour import Neighbours
from stage.ports.reconcile import Adopt, Findings, Missing, NotReconcilable
from stage.ports.store import Store, Unit


class Reconciling:
    """`ports.reconcile.Reconciles` of one process."""

    def __init__(
        self,
        names: tuple[str, ...],
        store: Store,
        neighbours: Neighbours,
        peers: tuple[str, ...],
        clock: Clock,
        adoption: Callable[[], Adoption],
    ) -> None:
        """`adoption` is asked for when the store is open, and writes to it."""
        self.belongs: Belongs = all_belong
        """Whether a saga that the store lacks would be in it, and in no other one of the stage."""
        self._names = names
        self._store = store
        self._neighbours = neighbours
        self._peers = peers
        self._clock = clock
        self._adoption = adoption
        self._asking = asyncio.Lock()

    async def __call__(
        self, *, since: float | None, without: Mapping[str, str], adopt: Adopt | None
    ) -> Findings:
        """See `ports.reconcile.Reconciles`."""
        as_of = self._as_of(since)
        if adopt is not None and not self._store.identity.awaits_release:
            raise NotReconcilable(
                "the database awaits no release, so that a saga it lacks may be on its way here:"
                " stop the stage, and say `stage db restored --as-of TIME` first"
            )
        if self._asking.locked():
            raise NotReconcilable("the neighbours are being asked already: wait for their answers")
        async with self._asking:
            adoption = self._adoption()
            reconciler = Reconciler(
                *(self._names, self._store, self._neighbours, adoption, self._clock),
                belongs=self.belongs,
            )
            try:
                found = await reconciler.reconcile(self._peers, as_of, without)
                if adopt is not None and not adopt.under_these_names:
                    check_names(found, "`under_these_names`")
            except ConfigurationError as error:
                raise NotReconcilable(str(error)) from error
            if adopt is not None:
                _check_whole(found, adopt)
            adopted = [] if adopt is None else await self._adopt(adoption, found, adopt)
            if adopt is not None:
                left_out = len(found.lost) - len(adopted)
                await self._keep(answers_of(found, without, left_out=left_out))
            return _findings(as_of, found, adopted)

    def _as_of(self, since: float | None) -> float:
        """The instant from which sagas may be missing. Raises NotReconcilable."""
        if not self._peers:
            raise NotReconcilable(
                "no neighbour is configured, so that nobody would be asked: configure every"
                " upstream and downstream of the stage"
            )
        as_of = self._store.identity.restored_as_of if since is None else since
        if as_of is None:
            raise NotReconcilable(
                "the database was not restored: give `since`, the instant from which sagas are"
                " missing"
            )
        return as_of

    async def _adopt(self, adoption: Adoption, found: Reconciliation, order: Adopt) -> list[str]:
        """Write the lost sagas that the order names; the ids of those that are here by now."""
        wanted = found.lost
        if order.saga_ids is not None:
            named = frozenset(order.saga_ids)
            wanted = [lost for lost in found.lost if lost.id in named]
        for lost in wanted:
            unit = partial(
                adoption.write,
                lost=lost,
                now=self._clock.now(),
                actor=order.actor,
                reason=order.reason,
            )
            with suppress(KeyError):  # another replica wrote it at the same moment
                await self._store.transact(unit)
        return [lost.id for lost in wanted]

    async def _keep(self, answers: Mapping[str, str]) -> None:
        """Remember who was asked, for the release."""
        generation, now = self._store.identity.generation, self._clock.now()

        async def keep(unit: Unit) -> None:
            for neighbour, answer in answers.items():
                await unit.keep_answer(generation, neighbour, answer, now)

        await self._store.transact(keep)


def _check_whole(found: Reconciliation, order: Adopt) -> None:
    """Raise NotReconcilable for an order for all that may take over the sagas of other shards."""
    if order.saga_ids is None and found.lost and not order.no_other_shard:
        raise NotReconcilable(
            f"{len(found.lost)} sagas are missing, and the order is for all of them: a saga of"
            " another shard is well there, and an undo here would refund its charge. Give"
            " `no_other_shard: true` where the stage has none; otherwise give the own sagas of this"
            " one by `saga_ids`, or stop it and run `stage reconcile --beside URL`, which asks the"
            " others"
        )


def _findings(as_of: float, found: Reconciliation, adopted: list[str]) -> Findings:
    return Findings(
        since=as_of,
        asked=found.asked,
        dropped={peer: len(ids) for peer, ids in found.dropped.items()},
        unanswered=found.unanswered,
        unnamed=found.unnamed,
        missing=tuple(_missing(lost) for lost in found.lost),
        differences=tuple(found.differences),
        adopted=tuple(adopted),
        counts=found.whole,
        called_otherwise=found.called_otherwise if found.lost else "",
    )


def _missing(lost: Testimony) -> Missing:
    return Missing(
        saga_id=lost.id,
        words=lost.words,
        asked_by="" if lost.asked is None else lost.asked.requested_by,
        may_stand=lost.may_stand,
    )
