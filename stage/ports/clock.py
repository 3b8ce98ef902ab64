"""The clock: the only source of the present."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits.

    `now` is in seconds since the epoch, UTC, and may be read from any thread. It never goes
    backward by more than the system clock does; nobody may assume that it grows.
    """

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after at least that many seconds; 0 or less yields once."""
        ...
