"""The clock of a real process: the wall clock, as long as it does not jump (rule 34).

Replicas of one database go by the wall clock of its server, so that no two of them differ.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Final

from stage.ports.clock import Clock
from stage.ports.ownership import Ownership

JUMP_SECONDS: Final = 1.0
"""A wall clock that moves further than that against the monotonic one was set. Clocks that are
slewed move by half a thousandth (ntpd's limit), so between two reads by much less."""
CLOSE_SECONDS: Final = 0.05
"""So close to what is believed the wall clock is the time here as it is."""
STEADY_SECONDS_MIN: Final = 600.0
STEADY_SECONDS_MAX: Final = 86_400.0
"""After a jump the wall clock is believed again when it was steady for as long as it jumped, within
these bounds. A clock that is wrong for some minutes is never believed."""
LOOK_SECONDS: Final = 0.01
"""The wall clock is looked at so often: a dozen reads a saga need one clock then, and not two."""
SLEW: Final = 0.5
"""How much slower the time here runs while it is ahead of a wall clock that is believed again: a
wait becomes at most twice as long, and never as long as the jump."""


class SystemClock:
    """The system's wall clock and the event loop's timer."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Return after at least that many seconds."""
        await asyncio.sleep(seconds)


_STEADY_ID: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_monotonic: Final[Callable[[], float]] = partial(time.clock_gettime, _STEADY_ID)
"""Seconds since the start of the machine, those that it was suspended included."""


class SteadyClock(SystemClock):
    """The wall clock without its jumps: time goes on by the monotonic clock until they are proven.

    So a wall clock that is wrong for a while closes no saga, and makes none wait. Slow corrections
    are followed at once.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = _monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = Lock()
        self._ahead = 0.0
        """By how much the wall clock was ahead of the monotonic one when it was looked at."""
        self.begin()

    def begin(self) -> None:
        """Believe the wall clock as it is: nothing was measured by the time before."""
        self._read_at = self._steady_since = self._monotonic()
        self._believed = self._seen = self._wall() - self._read_at
        """The distance to the monotonic clock: as it is believed, and as the wall clock has it."""
        self._agreed = self._seen
        """The distance while both agree, or no number while they do not."""
        self._sure_until = self._read_at
        """Until then, by the monotonic clock, the wall clock is not looked at."""

    @property
    def jump(self) -> float:
        """How far the wall clock is ahead of the time here, in seconds; 0.0 while they agree."""
        ahead = self._seen - self._believed
        return ahead if abs(ahead) > JUMP_SECONDS else 0.0

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        at = self._monotonic()
        if at < self._sure_until:
            return at + self._ahead
        wall = self._wall()
        ahead = wall - at
        if not -CLOSE_SECONDS < ahead - self._agreed < CLOSE_SECONDS:
            return self._follow(at, ahead)
        self._ahead, self._sure_until = ahead, at + LOOK_SECONDS
        return wall  # nothing but these two is written, so nothing is locked

    def _follow(self, at: float, seen: float) -> float:
        """The time here when the wall clock has moved against the monotonic one, or is ahead."""
        with self._lock:
            self._sure_until = at
            if abs(seen - self._seen) > JUMP_SECONDS:
                self._steady_since = at
            self._seen = seen
            self._believed += self._correction(at, seen - self._believed)
            self._read_at = at
            self._agreed = seen if abs(seen - self._believed) < CLOSE_SECONDS else math.nan
            return at + self._believed

    def _correction(self, at: float, ahead: float) -> float:
        """The seconds by which the time here follows the wall clock now."""
        if abs(ahead) <= JUMP_SECONDS:
            return ahead
        patience = min(max(abs(ahead), STEADY_SECONDS_MIN), STEADY_SECONDS_MAX)
        if at - self._steady_since < patience:
            return 0.0
        if ahead > 0:
            return ahead
        return -min(-ahead, SLEW * (at - self._read_at))


def wall_of(ownership: Ownership) -> Callable[[], float]:
    """The wall clock that the owner of sagas goes by: that of all replicas, where there are any."""
    if ownership.renew_seconds is None:  # there is never another replica
        return time.time

    def shared() -> float:
        at = ownership.time
        return time.time() if at is None else at

    return shared


def begin(clock: Clock) -> None:
    """Believe a clock that watches for jumps as it is, once its database is open."""
    if isinstance(clock, SteadyClock):
        clock.begin()


def jump_of(clock: Clock) -> float:
    """How far the wall clock jumped, in seconds; 0.0 for a clock that does not watch it."""
    return clock.jump if isinstance(clock, SteadyClock) else 0.0
