"""Recovery: claim the sagas that no process runs, and open them at a bounded pace."""

from __future__ import annotations

import asyncio
from collections import deque

from stage.core.errors import StoreUnavailable
from stage.core.steps import VERSION_MAX
from stage.engine.embedded.limits import (
    DUE_IDS_MAX,
    NEWER_IDS_MAX,
    NEWER_SECONDS,
    RECOVERY_BURST,
    RECOVERY_IDS_MAX,
    RECOVERY_PAUSE_SECONDS,
    RECOVERY_SCAN_SECONDS,
    RECOVERY_SHARE,
    EngineLimits,
)
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.saga.opening import OpenRequest
from stage.ports.clock import Clock
from stage.ports.engine import LeftToNewer
from stage.ports.observer import Observer, TraceContext
from stage.ports.ownership import Ownership


class Recovery:
    """Opens what is due and not in memory. A round goes on after any error."""

    def __init__(
        self,
        sagas: LiveSagas,
        ownership: Ownership,
        observer: Observer,
        clock: Clock,
        limits: EngineLimits,
        version: int = VERSION_MAX,
    ) -> None:
        """Sagas of a newer `version` than that of this release are left alone (rule 32)."""
        self._sagas = sagas
        self._ownership = ownership
        self._observer = observer
        self._clock = clock
        self._limits = limits
        self._version = version
        self._backlog: deque[str] = deque()
        """Claimed sagas, to be opened as soon as there is room."""
        self._newer: dict[str, float] = {}
        """Sagas that are left to a newer release, and until when, by the event loop's clock."""
        self._more = asyncio.Event()
        """Set when there may be something to open, and room for it."""
        self._recovering = 0
        """Sagas in memory that recovery opened."""
        self._tasks: list[asyncio.Task[None]] = []
        self.recovered = False
        """True once it is known which sagas are unfinished."""
        sagas.left = self._left
        sagas.crowded = self._crowded

    async def start(self) -> None:
        """Claim every unfinished saga, begin to open them, and begin the rounds."""
        self._backlog.extend(await self._claim(RECOVERY_IDS_MAX))
        self.recovered = True
        self._open_some()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in (self._recover(), self._scan())]

    async def _claim(self, limit: int) -> list[str]:
        now = asyncio.get_running_loop().time()
        self._newer = {saga_id: until for saga_id, until in self._newer.items() if until > now}
        most = limit + len(self._newer)
        found = await self._ownership.claim(self._clock.now(), most, self._version)
        if newer := [each for each in found if each in self._newer]:
            await self._ownership.release(dict.fromkeys(newer))
        return [saga_id for saga_id in found if saga_id not in self._newer]

    def stop(self) -> None:
        """Begin no further round."""
        for each in self._tasks:
            each.cancel()

    async def close(self) -> None:
        """See `scheduler.Scheduler`: there is nothing to wait for."""

    def _crowded(self) -> bool:
        return bool(self._backlog) and self._room() <= 0

    def _left(self, live: LiveSaga) -> None:
        if isinstance(live.refusal, LeftToNewer) and len(self._newer) < NEWER_IDS_MAX:
            self._newer[live.saga_id] = asyncio.get_running_loop().time() + NEWER_SECONDS
        if live.recovered:
            self._recovering -= 1
            self._more.set()

    def _open_some(self) -> None:
        """Open a few of the claimed sagas, as far as there is room beside new ones."""
        burst = min(self._room(), RECOVERY_BURST)
        while self._backlog and burst > 0 and not self._sagas.draining:
            saga_id = self._backlog.popleft()
            if saga_id not in self._sagas:
                self._recovering += 1
                burst -= 1
                self._sagas.open(OpenRequest(saga_id=saga_id), recovered=True)

    async def _recover(self) -> None:
        """Open the claimed sagas at a pace that leaves time for new ones."""
        while True:
            if not self._backlog or not self._room():
                self._more.clear()
                await self._more.wait()
            await self._clock.sleep(RECOVERY_PAUSE_SECONDS)
            try:
                self._open_some()
            except Exception as error:
                self._observer.defect("recovery", "", TraceContext(), error)

    def _room(self) -> int:
        """How many more sagas recovery may open beside new ones."""
        return max(1, int(self._limits.sagas_max * RECOVERY_SHARE)) - self._recovering

    async def _scan(self) -> None:
        """Claim what is due and not in memory."""
        while True:
            await self._clock.sleep(RECOVERY_SCAN_SECONDS)
            if self._backlog:
                continue
            try:
                self._backlog.extend(await self._claim(DUE_IDS_MAX))
                self._more.set()
            except StoreUnavailable:
                pass  # it is looked for again
            except Exception as error:
                self._observer.defect("scan", "", TraceContext(), error)
