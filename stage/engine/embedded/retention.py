"""Retention: sagas that are over for longer than the compensation window are closed (rule 21)."""

from __future__ import annotations

import asyncio

from stage.core.errors import StoreUnavailable
from stage.engine.clock import STEADY_SECONDS_MIN, jump_of
from stage.engine.embedded.limits import (
    CLOSE_PAUSE_SECONDS_MAX,
    CLOSE_PAUSE_SECONDS_MIN,
    CLOSE_SAGAS_MAX,
    CLOSE_SHARE,
)
from stage.ports.clock import Clock
from stage.ports.observer import Observer, TraceContext
from stage.ports.store import Store, Unit


class Retention:
    """Closes sagas in bounded batches. A round goes on after any error."""

    def __init__(
        self, store: Store, observer: Observer, clock: Clock, window_seconds: float
    ) -> None:
        """`window_seconds` is the compensation window."""
        self._store = store
        self._observer = observer
        self._clock = clock
        self._window_seconds = window_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.get_running_loop().create_task(self._close())

    def stop(self) -> None:
        """Begin no further round."""
        if self._task is not None:
            self._task.cancel()

    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        # A process may have been started while the clock was wrong.
        await self._clock.sleep(min(self._window_seconds, STEADY_SECONDS_MIN))
        while True:
            began = loop.time()
            if jump_of(self._clock):  # what is dropped by a wrong clock is gone (rule 34)
                await self._clock.sleep(CLOSE_PAUSE_SECONDS_MAX)
                continue
            try:
                closed = await self._store.transact(self._close_batch)
            except StoreUnavailable:
                closed = 0
            except Exception as error:
                closed = 0
                self._observer.defect("retention", "", TraceContext(), error)
            if closed < CLOSE_SAGAS_MAX:
                pause = min(CLOSE_PAUSE_SECONDS_MAX, self._window_seconds / 10)
                await self._clock.sleep(max(CLOSE_PAUSE_SECONDS_MIN, pause))
            else:
                took = loop.time() - began
                await self._clock.sleep(took * (1.0 / CLOSE_SHARE - 1.0))

    async def _close_batch(self, unit: Unit) -> int:
        now = self._clock.now()
        return await unit.close_ended(now - self._window_seconds, now, CLOSE_SAGAS_MAX)
