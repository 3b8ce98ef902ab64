"""How many sagas are in each state: a query that reads every saga there ever was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stage.core.states import SagaState

LONG_SECONDS = 0.5
"""A query that took no longer is made again whenever somebody asks."""
MANY_SAGAS = 100_000
"""Nor one that counted no more: beyond it the query takes most of the time of a page."""
PAUSE_FACTOR = 20.0
"""Any other is not repeated for so many times as long: it takes a twentieth of the time."""

Counts = dict[SagaState, int]


class Census:
    """Counts the sagas of a store. All that ask during a query share it."""

    def __init__(
        self, query: Callable[[], Awaitable[Counts]], loop_time: Callable[[], float]
    ) -> None:
        self._query = query
        self._loop_time = loop_time
        self._counts: Counts = {}
        self._counts_until = 0.0
        """Until then the counts of the last query are given."""
        self._counting: asyncio.Task[Counts] | None = None

    async def read(self) -> Counts:
        """The counts, as old as `PAUSE_FACTOR` allows. Raises StoreUnavailable."""
        if self._loop_time() < self._counts_until:
            return self._counts
        if self._counting is None or self._counting.done():
            self._counting = asyncio.get_running_loop().create_task(self._count())
        return await asyncio.shield(self._counting)

    async def _count(self) -> Counts:
        began = self._loop_time()
        counts = self._counts = await self._query()
        ended = self._loop_time()
        if ended - began > LONG_SECONDS or sum(counts.values()) > MANY_SAGAS:
            self._counts_until = ended + PAUSE_FACTOR * (ended - began)
        return counts
