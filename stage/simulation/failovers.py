"""The loss of a primary while sagas are in flight, and an operator's part where commits are lost.

With synchronous replication the processes go on by themselves. Without, those that lack something
of their own refuse the standby until an operator accepts it as he would a backup.
"""

from __future__ import annotations

import asyncio
from random import Random

from stage.simulation.books import Books
from stage.simulation.faults import Faults
from stage.simulation.node import Node
from stage.simulation.replicas import SharedDatabase
from stage.simulation.restores import Restores

FAILOVER_SECONDS = (0.2, 8.0)
"""From the loss of the primary until the standby is there."""
BEHIND_SECONDS = (0.1, 3.0)
"""How far an asynchronous standby may be behind."""
NOTICED_SECONDS = (0.5, 10.0)
"""How long it stands there until an operator stops the stage."""
IN_COMMIT_SHARE = 0.8
"""The share of losses that strike while a COMMIT is under way."""


class Failovers:
    """Takes the primary away from a node whose processes share a database."""

    def __init__(self, restores: Restores, random: Random, faults: Faults, books: Books) -> None:
        self._restores = restores
        self._random = random
        self._faults = faults
        self._books = books

    async def promote(self, node: Node, shared: SharedDatabase) -> None:
        """The standby has every commit that was answered."""
        async with shared.primary.alone:
            if self._faults.on:
                await self._lose(node, shared)
                shared.primary.promote(older=False)
                self._books.tell("", node.name, "its standby is the primary")

    async def lose_commits(self, node: Node, shared: SharedDatabase) -> None:
        """The standby lacks the last commits, and takes the place of the primary all the same."""
        primary = shared.primary
        async with self._restores.alone, primary.alone:
            kept = self._restores.keep(node)
            primary.cut()
            await asyncio.sleep(self._random.uniform(*BEHIND_SECONDS))
            if not self._faults.on:
                return
            self._restores.busy = True
            await self._lose(node, shared)
            node.stop_unwitting(primary.cannot_know)
            primary.promote(older=True)
            self._books.tell("", node.name, "an older standby is the primary")
            await asyncio.sleep(self._random.uniform(*NOTICED_SECONDS))
            await self._restores.recover(node, kept, accepted=primary.accept)

    async def _lose(self, node: Node, shared: SharedDatabase) -> None:
        if self._random.random() < IN_COMMIT_SHARE:
            await shared.primary.next_commit()
        self._books.tell("", node.name, "its primary is lost")
        shared.primary.lose()
        await asyncio.sleep(self._random.uniform(*FAILOVER_SECONDS))
