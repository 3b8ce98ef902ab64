"""What the engine does by itself, round after round: take over what is due, close what is over."""

from __future__ import annotations

import asyncio
from collections import deque

from stage.core.errors import StoreUnavailable
from stage.engine.embedded.limits import (
    CLOSE_SAGAS_MAX,
    CLOSE_SHARE,
    DUE_IDS_MAX,
    RECOVERY_BURST,
    RECOVERY_IDS_MAX,
    RECOVERY_PAUSE_SECONDS,
    RECOVERY_SCAN_SECONDS,
    RECOVERY_SHARE,
    TIDY_SECONDS_MAX,
    TIDY_SECONDS_MIN,
    EngineLimits,
)
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.live_sagas import LiveSagas
from stage.ports.clock import Clock
from stage.ports.observer import Observer, TraceContext
from stage.ports.store import Store, Unit


class Recovery:
    """Recovery, and the end of the compensation window. A round goes on after any error."""

    def __init__(
        self, runs: LiveSagas, store: Store, observer: Observer, clock: Clock, limits: EngineLimits
    ) -> None:
        self._runs = runs
        self._store = store
        self._observer = observer
        self._clock = clock
        self._limits = limits
        self._backlog: deque[str] = deque()
        """Sagas to take over as soon as there is room."""
        self._more = asyncio.Event()
        """Set when there may be something to take over, and room for it."""
        self._resumed = 0
        """Runs in memory that nobody asked for: those taken over."""
        self._tasks: list[asyncio.Task[None]] = []
        self.recovered = False
        """True once it is known which sagas are unfinished."""
        runs.left = self._left
        runs.crowded = self._crowded

    async def start(self) -> None:
        """Find every unfinished saga, begin to take them over, and begin the rounds."""
        self._backlog.extend(await self._store.due(float("inf"), RECOVERY_IDS_MAX))
        self.recovered = True
        self._take_over()
        rounds = (self._recover(), self._scan(), self._tidy())
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in rounds]

    def stop(self) -> None:
        """Begin no further round."""
        for each in self._tasks:
            each.cancel()

    def _crowded(self) -> bool:
        return bool(self._backlog) and self._room() <= 0

    def _left(self, run: LiveSaga) -> None:
        if run.resumed:
            self._resumed -= 1
            self._more.set()

    def _take_over(self) -> None:
        """Take over a few of what is waiting for it, as far as there is room beside new sagas."""
        burst = min(self._room(), RECOVERY_BURST)
        while self._backlog and burst > 0 and not self._runs.draining:
            saga_id = self._backlog.popleft()
            if saga_id not in self._runs:
                run = self._runs.open(saga_id)
                run.resumed = True
                self._resumed += 1
                burst -= 1
                self._runs.launch(run)

    async def _recover(self) -> None:
        """Take over what is waiting for it, at a pace that leaves time for new sagas."""
        while True:
            if not self._backlog or not self._room():
                self._more.clear()
                await self._more.wait()
            await self._clock.sleep(RECOVERY_PAUSE_SECONDS)
            self._take_over()

    def _room(self) -> int:
        """How many more may be taken over beside new sagas."""
        return max(1, int(self._limits.sagas_max * RECOVERY_SHARE)) - self._resumed

    async def _scan(self) -> None:
        """Bring back what is due and not in memory."""
        while True:
            await self._clock.sleep(RECOVERY_SCAN_SECONDS)
            if self._backlog:
                continue
            try:
                self._backlog.extend(await self._store.due(self._clock.now(), DUE_IDS_MAX))
                self._more.set()
            except StoreUnavailable:
                pass  # it is looked for again
            except Exception as error:
                self._observer.defect("scan", "", TraceContext(), error)

    async def _tidy(self) -> None:
        """Close what is over for longer than the compensation window, in bounded batches."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                closed = await self._store.transact(self._close_batch)
            except StoreUnavailable:
                closed = 0
            except Exception as error:
                closed = 0
                self._observer.defect("tidy", "", TraceContext(), error)
            if closed < CLOSE_SAGAS_MAX:
                window = self._limits.compensation_window_seconds
                await self._clock.sleep(max(TIDY_SECONDS_MIN, min(TIDY_SECONDS_MAX, window / 10)))
            else:
                took = loop.time() - began
                await self._clock.sleep(took * (1.0 / CLOSE_SHARE - 1.0))

    async def _close_batch(self, unit: Unit) -> int:
        now = self._clock.now()
        before = now - self._limits.compensation_window_seconds
        return await unit.close_ended(before, now, CLOSE_SAGAS_MAX)
