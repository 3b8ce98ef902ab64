"""SIGKILL, SIGSTOP past the lease and SIGTERM, at any replica, as the client's sagas finish."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from tests.acceptance.kills.load import Load
from tests.acceptance.kills.processes import Server

UNDER_LOAD = 0.95
"""The last strike falls when this share of the sagas is finished."""
STALLED_SECONDS_MAX = 5.0
STOPPED_LEASES = (1.1, 2.0)
"""How long a replica is stopped, in leases."""


class Strike(StrEnum):
    """A fault of one replica."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP"
    TERM = "SIGTERM"


class Striker:
    """Strikes until there were so many; at least one replica is always left alone."""

    def __init__(
        self, replicas: Sequence[Server], load: Load, *, strikes: int, sagas: int, seed: int,
        lease_seconds: float,
    ) -> None:  # fmt: skip
        self._replicas = replicas
        self._load = load
        self._most = strikes
        self._sagas = sagas
        self._lease_seconds = lease_seconds
        self._dice = random.Random(f"{seed}/striker")
        self._struck: dict[Server, asyncio.Task[None]] = {}
        self._dealt: list[Strike] = []
        self.strikes: Counter[str] = Counter()
        self.exits: list[int] = []
        """The exit statuses of those that were told to stop."""

    async def strike(self) -> None:
        """Return when all have been struck and serve again. Raises DidNotStart."""
        for number in range(self._most):
            if not await self._until(UNDER_LOAD * self._sagas * (number + 1) / (self._most + 1)):
                break
            while len(self._struck) > 1:
                await asyncio.wait(self._struck.values(), return_when=asyncio.FIRST_COMPLETED)
                self._tidy()
            server = self._dice.choice([each for each in self._replicas if self._up(each)])
            kind = self._dealt.pop() if self._dealt else self._deal()
            self.strikes[kind] += 1
            self._struck[server] = asyncio.create_task(self._one(server, kind))
            self._tidy()
        await asyncio.gather(*self._struck.values())

    def _deal(self) -> Strike:
        """Every kind as often as any other, in any order."""
        self._dealt = self._dice.sample(list(Strike), len(Strike))
        return self._dealt.pop()

    def _up(self, server: Server) -> bool:
        return server not in self._struck

    def _tidy(self) -> None:
        for server, task in list(self._struck.items()):
            if task.done():
                task.result()
                del self._struck[server]

    async def _one(self, server: Server, kind: Strike) -> None:
        match kind:
            case Strike.KILL:
                await server.kill()
                await server.start()
            case Strike.STOP:
                server.send(signal.SIGSTOP)
                await asyncio.sleep(self._lease_seconds * self._dice.uniform(*STOPPED_LEASES))
                server.send(signal.SIGCONT)
            case Strike.TERM:
                status = await server.stop()
                self.exits.append(-1 if status is None else status)
                await server.start()

    async def _until(self, finished: float) -> bool:
        """Wait for so many finished sagas, or for a stall; False when the load is over."""
        loop = asyncio.get_running_loop()
        before, since = self._load.finished, loop.time()
        while self._load.finished < finished:
            self._tidy()
            if self._load.stopped:
                return False
            if self._load.finished > before:
                before, since = self._load.finished, loop.time()
            elif loop.time() - since > STALLED_SECONDS_MAX:
                return True
            await asyncio.sleep(0.01)
        return not self._load.stopped
