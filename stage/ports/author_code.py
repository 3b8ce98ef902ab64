"""Author code as it is watched: which function runs, and whose function ran at a death (rule 35).

A function of an author can block a thread for ever, and it can end the process before anything of
its saga is journaled. Both are seen from outside alone: each function is marked while it runs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec

Mark = tuple[str, str]
"""A saga id and a step; the id is empty where no saga is known yet."""


class Suspicion(msgspec.Struct, frozen=True, kw_only=True):
    """`deaths` processes died while the function of `step` ran for a saga, and it never ended."""

    step: str
    deaths: int


class Thread(StrEnum):
    """Which thread is stuck: all sagas wait for it."""

    WRITER = "writer"
    LOOP = "loop"


class StuckCode(msgspec.Struct, frozen=True, kw_only=True):
    """Code that does not come to an end. `saga_id` and `step` are empty for code of no saga."""

    thread: Thread
    saga_id: str
    step: str
    seconds: float
    stack: tuple[str, ...]


class AuthorCode(Protocol):
    """The record of the functions that run. No method raises; all return at once.

    `entered` and `left` are called in the thread that runs the function, as a pair.
    """

    def entered(self, saga_id: str, step: str) -> None:
        """A function begins or goes on. `saga_id` is empty where no saga is known yet."""
        ...

    def left(self, saga_id: str, step: str, *, ended: bool) -> None:
        """It returned, raised or awaits something. `ended` says that it is over."""
        ...

    @property
    def stuck(self) -> bool:
        """True while a function, or other code in the event loop, does not come to an end."""
        ...

    def suspicion(self, saga_id: str) -> Suspicion | None:
        """The suspicion against a saga; None for one whose functions no process died in."""
        ...

    def innocent(self, saga_id: str) -> bool:
        """True when the process before died in the function of another saga."""
        ...


class _Unwatched:
    """Nothing is marked and nobody is suspected: memory stores, simulations, tests."""

    stuck = False

    def entered(self, saga_id: str, step: str) -> None:
        """See AuthorCode."""

    def left(self, saga_id: str, step: str, *, ended: bool) -> None:
        """See AuthorCode."""

    def suspicion(self, saga_id: str) -> Suspicion | None:
        """See AuthorCode."""
        return None

    def innocent(self, saga_id: str) -> bool:
        """See AuthorCode."""
        return False


UNWATCHED: Final[AuthorCode] = _Unwatched()
