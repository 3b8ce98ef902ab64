"""Starts that are shed before they are parsed, and held back until they are answered (rule 37).

A client that is refused at once asks again at once. At five times the load the refusals alone took
all time there was, so they leave at a bounded rate: what it costs to refuse is known beforehand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from stage.inbound.lookups import Lookups

HELD_SECONDS = 0.5
"""How long, at least, a start that is shed waits for its answer."""
TICK_SECONDS = 0.05
PER_TICK = 40
"""800 a second at most: 660 took 11 % of what a stage can do. More than that wait longer."""

Answered = Callable[[bool | None], None]
"""Called with whether the saga was seen; None when that is not known."""


class HeldStarts:
    """Touched from the event loop only. As many are held as connections may be open."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._held: deque[tuple[float, str, Answered]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        """Whether a start is held."""
        return self._task is not None

    def hold(self, saga_id: str, answered: Answered) -> None:
        """Call `answered` once its turn has come. `saga_id` is empty where it is not known."""
        loop = asyncio.get_running_loop()
        self._held.append((loop.time() + HELD_SECONDS, saga_id, answered))
        if self._task is None:
            self._task = loop.create_task(self._release())

    async def _release(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._held:
                await asyncio.sleep(TICK_SECONDS)
                now, due = loop.time(), list[tuple[str, Answered]]()
                while self._held and self._held[0][0] <= now and len(due) < PER_TICK:
                    _, saga_id, answered = self._held.popleft()
                    due.append((saga_id, answered))
                named = tuple(saga_id for saga_id, _ in due if saga_id)
                seen = await self._lookups.which(named) if named else None
                for saga_id, answered in due:
                    answered(saga_id in seen if saga_id and seen is not None else None)
        finally:
            self._task = None
