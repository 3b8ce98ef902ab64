"""How long a test waits for what comes in the end, on a machine that is busy with other tests."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

HANG_SECONDS = 20.0
"""A wait as long is taken for one without an end. A shorter limit judges the machine."""
START_SECONDS_MAX = 60.0
"""A process that is started by exec imports all that it needs first."""
LOOK_SECONDS = 0.01


async def until(
    holds: Callable[[], object | Awaitable[object]], seconds_max: float = HANG_SECONDS
) -> None:
    """Return once something holds that no event announces. Raises TimeoutError."""
    async with asyncio.timeout(seconds_max):
        while True:
            found = holds()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(LOOK_SECONDS)
