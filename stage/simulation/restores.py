"""Older copies of a stage's database, put back while sagas are in flight (rule 33).

The whole way of an operator: the stage is stopped, the copy put back and named as restored; the
stage serves and answers unknown ids with 503; `stage reconcile` asks every neighbour until all
have answered; the database is released; and what a neighbour has undone is undone here as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from stage.core.states import SagaState
from stage.engine.reconcile import NOTHING_STANDS, Reconciliation
from stage.simulation.books import Books
from stage.simulation.copies import Copy, copy_of
from stage.simulation.facts import Copied
from stage.simulation.faults import LOST, UNDONE_ELSEWHERE, Faults
from stage.simulation.loop import EPOCH, VirtualLoop
from stage.simulation.node import Node
from stage.wire.outcome import Outcome

AGE_SECONDS = (0.2, 20.0)
"""How long after the copy was made it is put back."""
SERVED_SECONDS = (0.0, 10.0)
"""How long the stage serves before it is reconciled, and between two tries."""
STILL_SERVED_SECONDS = 600.0
"""How long, while a neighbour is out for hours: nobody stops a stage every five seconds for it."""
SINCE_SECONDS = 7_200.0
"""Neighbours are asked from so long before the copy: their clocks may be wrong by an hour."""
ASKS_MAX = 200
"""Tries to have one saga compensated."""


class Kept(NamedTuple):
    """A copy of the database of a node, with the facts of the books about it."""

    copy: Copy
    books: Copied
    made_at: float


class Restores:
    """Restores databases, one at a time, as often as the seed says."""

    def __init__(
        self,
        nodes: Sequence[Node],
        loop: VirtualLoop,
        random: Random,
        faults: Faults,
        books: Books,
    ) -> None:
        self._nodes = nodes
        self._loop = loop
        self._random = random
        self._faults = faults
        self._books = books
        self.busy = False
        """Whether a database was put back and is not released."""
        self.alone = asyncio.Lock()
        """Held by whoever is about to put one back."""

    async def strike(self) -> None:
        """One restore, from the copy to the release."""
        node = self._random.choice(self._nodes)
        async with self.alone:
            kept = self.keep(node)
            await asyncio.sleep(self._random.uniform(*AGE_SECONDS))
            if not self._faults.on:
                return
            self.busy = True
            await self.recover(node, kept)

    def keep(self, node: Node) -> Kept:
        """A copy of the database of a node as it is now."""
        return Kept(copy_of(node.disk), self._books.copy_of(node.name), self._now)

    async def recover(
        self, node: Node, kept: Kept, accepted: Callable[[], None] = lambda: None
    ) -> None:
        """The stage is stopped, the copy put back, and the stage reconciled and released.

        `accepted` is notified when the copy stands there, and nothing runs.
        """
        copy, books, made_at = kept
        node.go_down()
        self._books.tell("", node.name, f"a copy of {made_at - EPOCH:.1f} s is put back")
        with self._faults.spared():
            if not await copy.put_back(made_at, self._now):
                self._books.violate("I1", "", f"{node.name} served an older copy without a word")
        self._books.put_back(node.name, books)
        accepted()
        found = await self._reconciled(node, made_at - SINCE_SECONDS)
        with self._faults.spared():
            await copy.release(self._now)
        self._books.tell("", node.name, f"is released; {len(found.lost)} sagas were lost")
        self._faults.struck[LOST] += len(found.lost)
        node.come_up()
        for difference in found.differences:
            forward = difference.state in (SagaState.ACTIVE, SagaState.COMPLETED)
            if forward and difference.said in (*NOTHING_STANDS, Outcome.UNKNOWN):
                self._faults.struck[UNDONE_ELSEWHERE] += 1
                await self._compensated(node, difference.saga_id)
        self.busy = False

    @property
    def _now(self) -> float:
        return EPOCH + self._loop.time()

    async def _reconciled(self, node: Node, since: float) -> Reconciliation:
        """Ask until every neighbour has answered; the stage serves between the tries."""
        while True:
            node.come_up()
            served = self._random.uniform(*SERVED_SECONDS)
            await asyncio.sleep(STILL_SERVED_SECONDS if self._loop.still else served)
            node.go_down()
            found = await node.reconcile(since)
            if found is not None and not found.unanswered:
                return found

    async def _compensated(self, node: Node, saga: str) -> None:
        """An operator has one saga undone that a neighbour says does not stand."""
        for _ in range(ASKS_MAX):
            work = node.compensate(saga)
            if work is not None:
                await asyncio.wait([work])
                if not work.cancelled() and work.exception() is None:
                    return
            await asyncio.sleep(1.0)


__all__ = ["Kept", "Restores"]
