"""Queries: live sagas as they are in memory, all others as they are stored."""

from __future__ import annotations

import asyncio

from stage.core.states import SagaState
from stage.engine.embedded import limits as limited
from stage.engine.embedded.live_sagas import snapshot
from stage.engine.embedded.parts import Parts
from stage.ports.engine import Snapshot
from stage.ports.store import Backlog, Entry, Filter, SagaRow


class EmbeddedQueries:
    """ports.engine.Queries."""

    def __init__(self, parts: Parts) -> None:
        self._sagas = parts.sagas
        self._units = parts.units
        self._elsewhere = parts.elsewhere
        self._store = parts.store
        self._clock = parts.clock

    async def get_saga(self, saga_id: str, wait_seconds: float = 0.0) -> Snapshot | None:
        """See `ports.engine.Queries`."""
        live, until = self._sagas.get(saga_id), loop_time() + wait_seconds
        if live is not None and wait_seconds > 0 and not live.over:
            await live.watch(until, lambda _: True)
        if live is not None and live.saga is not None and not live.lost:
            return snapshot(live)
        found = await self._elsewhere.stored(saga_id)
        if wait_seconds > 0 and live is None and found is not None and found.row.due_at is not None:
            await self._elsewhere.next_change(found.row, until)
            found = await self._elsewhere.stored(saga_id)
        return found

    async def journal(self, saga_id: str) -> list[Entry]:
        """See `ports.engine.Queries`."""
        await self._written()
        return await self._store.entries(saga_id)

    async def page(self, which: Filter) -> list[SagaRow]:
        """See `ports.engine.Queries`."""
        await self._written()
        return await self._store.page(which)

    async def count(self) -> dict[SagaState, int]:
        """See `ports.engine.Queries`."""
        await self._written()
        return await self._store.count()

    async def backlog(self) -> Backlog:
        """See `ports.engine.Queries`."""
        return await self._store.backlog(self._clock.now())

    async def _written(self) -> None:
        """Let a query find what was answered before, unless that takes long.

        While the database is away it would take as long as that lasts.
        """
        if self._store.available:
            await self._units.written(loop_time() + limited.WRITTEN_SECONDS_MAX)


def loop_time() -> float:
    """The event loop's clock, by which waits are measured."""
    return asyncio.get_running_loop().time()
