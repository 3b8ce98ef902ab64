"""The scheduler of an engine: it opens the sagas that no caller opens, when it is time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stage.engine.embedded.limits import EngineLimits
from stage.engine.embedded.live_sagas import LiveSagas
from stage.ports.clock import Clock
from stage.ports.observer import Observer
from stage.ports.ownership import Ownership


class Scheduler(Protocol):
    """Opens sagas as recovered ones; every saga, where it has set `LiveSagas.deposited`."""

    @property
    def recovered(self) -> bool:
        """True once it is known which sagas are unfinished."""
        ...

    async def start(self) -> None:
        """Claim every unfinished saga, and begin to work."""
        ...

    def stop(self) -> None:
        """Open no further saga."""
        ...

    async def close(self) -> None:
        """Return when nothing of it runs any more; called when no saga is live."""
        ...


MakeScheduler = Callable[[LiveSagas, Ownership, Observer, Clock, EngineLimits, int], Scheduler]
"""Makes the scheduler of an engine, which may set the hooks of the sagas. The number is the version
of the stage (rule 32)."""
