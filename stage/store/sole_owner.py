"""Ownership of a store that one process has for itself: everything in it is ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from stage.core.events import Event
from stage.core.steps import VERSION_MAX
from stage.ports.ownership import Mail, Posted, Share

Due = Callable[[float, int, int], Awaitable[list[str]]]
"""Ids of sagas that need a run by an instant, at most so many, up to a version: `Store.due`."""


class SoleOwner:
    """ports.ownership.Ownership without other replicas. A claim is a query for what is due.

    `processes` serve the stage, each with a store of its own, and share the limits of its peers.
    """

    def __init__(self, due: Due, processes: int = 1) -> None:
        self._due = due
        self._share = Share(replicas=processes)
        self._claimed = False
        """True once the sagas of the process before have been claimed."""

    @property
    def sure(self) -> bool:
        """See ports.ownership.Ownership: no other process can write."""
        return True

    async def assured(self) -> None:
        """See ports.ownership.Ownership."""

    @property
    def renew_seconds(self) -> float | None:
        """See ports.ownership.Ownership."""
        return None

    async def renew(self) -> bool:
        """See ports.ownership.Ownership."""
        return True

    @property
    def time(self) -> float | None:
        """See ports.ownership.Ownership: the clock of the machine is as good as any."""
        return None

    @property
    def share(self) -> Share:
        """See ports.ownership.Ownership: all of what is in the store."""
        return self._share

    async def claim(self, now: float, limit: int, version: int = VERSION_MAX) -> dict[str, int]:
        """See ports.ownership.Ownership. The first claim finds all that the process before left."""
        found = await self._due(now if self._claimed else float("inf"), limit, version)
        self._claimed = True
        return dict.fromkeys(found, 0)

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """See ports.ownership.Ownership."""

    async def leave(self) -> None:
        """See ports.ownership.Ownership."""
        self._claimed = False

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """See ports.ownership.Ownership: there is no other replica to wait for."""
        return False

    async def post(self, saga_id: str, event: Event) -> Posted | None:
        """See ports.ownership.Ownership."""
        return None

    async def unreceived(self, number: int) -> bool:
        """See ports.ownership.Ownership."""
        return False

    async def mail(self) -> list[Mail]:
        """See ports.ownership.Ownership."""
        return []
