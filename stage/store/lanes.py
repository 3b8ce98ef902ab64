"""Writers beside the first one, for units whose rows somebody else holds.

The first writer serves all sagas, one batch after the other: it must not wait for a lock. A unit
that met one goes to a lane, waits there in a transaction of its own, and keeps only its like.
"""

from __future__ import annotations

from collections.abc import Sequence

from stage.store.queue import Waiting
from stage.store.writer import Writer


class Lanes:
    """Takes units over from the first writer. Each lane runs one unit at a time."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers

    def take(self, waiting: Waiting) -> bool:
        """Run the unit in the emptiest lane; False when all are full or closed."""
        return min(self._writers, key=lambda each: each.queued).adopt(waiting)

    @property
    def queued(self) -> int:
        """How many units wait in all lanes."""
        return sum(each.queued for each in self._writers)

    async def close(self) -> None:
        """Run what is queued and stop. Call it once the first writer has stopped."""
        for each in self._writers:
            await each.close()
