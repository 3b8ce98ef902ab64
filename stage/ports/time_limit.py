"""A time limit that an answer which has arrived beats (rule 35).

A process that was frozen, or whose event loop was blocked, finds the timer over and the answer in
the socket at once. `asyncio.timeout` cancels first, and takes an answer for lost that was there.
Rooms on both sides of a port share this one, so that the outer limit never undoes what the inner
one allows.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

LATE_SECONDS: Final = 0.1
"""A timer that fires so late says nothing of the peer: this process did not run meanwhile."""
ARRIVED_SECONDS_MAX: Final = 0.25
"""Then: time to read what has arrived."""


class TimeLimit:
    """`with TimeLimit(seconds)`: raises TimeoutError like `asyncio.timeout`.

    `arrived_seconds_max` is longer for an outer limit than for those within it.
    """

    __slots__ = ("_arrived", "_cancelling", "_over", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float, arrived_seconds_max: float = ARRIVED_SECONDS_MAX) -> None:
        self._seconds = seconds
        self._arrived = arrived_seconds_max
        self._over = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a time limit is of a task"
        self._task, self._cancelling = task, task.cancelling()
        seconds = self._seconds
        # uvloop makes a delay of an instant by itself, in half the time of all this.
        self._timer: asyncio.Handle = loop.call_later(seconds, self._is_due, loop.time() + seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        # As `asyncio.timeout` has it: a task that others cancelled too is not late, but stopped.
        late = self._over and self._task.uncancel() <= self._cancelling
        if late and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _is_due(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - due > LATE_SECONDS:
            self._timer = loop.call_later(self._arrived, self._is_over)
        else:
            self._is_over()

    def _is_over(self) -> None:
        """Cancel in the next round of the loop: what this round has read is passed on before."""
        self._timer = asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        self._over = True
        self._task.cancel()
