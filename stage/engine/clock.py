"""The clock of a real process."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The system's wall clock and the event loop's timer."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Return after at least that many seconds."""
        await asyncio.sleep(seconds)
