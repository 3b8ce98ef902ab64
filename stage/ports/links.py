"""The links to the world: external APIs and neighbours. Everything that may be lost is a value.

The law: nothing is raised for what the other side or the network does; an implementation sends a
request at most once, follows no redirect, reads no more than its limit, and returns within the
timeout.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from stage.core.events import Request
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.wire.chain import ChainView


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """Downstream is done: what it and those behind it added, by stage name (a JSON object)."""

    data: msgspec.Raw


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The neighbour took it over durably and still works on it."""

    retry_after: float | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A no: nothing of it stands at the neighbour, but what an earlier request may have done.

    `over` says that the saga itself is over there, and not only that this request was turned away.
    """

    reason: str
    over: bool = False


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """Downstream shows the saga as executed; what was added has to be asked for."""


class Compensated(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of the saga stands at the neighbour."""


class Cannot(msgspec.Struct, frozen=True, kw_only=True):
    """The neighbour cannot compensate; `stands` is its list of what remains."""

    reason: str
    stands: tuple[str, ...] = ()


ForwardReply = Executed | Accepted | Refused | Lost
LookReply = Done | Accepted | Refused | Lost
CompensateReply = Compensated | Accepted | Cannot | Lost


class Links(Protocol):
    """All that a stage talks to, by configured name."""

    def is_upstream(self, peer: str) -> bool:
        """True when an upstream of that name is configured, so that it can be told."""
        ...

    async def exchange(
        self,
        peer: str,
        request: Request,
        *,
        key: str,
        trace: TraceContext,
        budget: float | None,
        timeout: float,
        breakable: bool,
    ) -> Answer | Lost:
        """Send one request to an external API under an idempotency key. Times in seconds.

        `breakable` says that it may be held back while the API keeps failing; it is then `Lost`
        for certain.
        """
        ...

    async def forward(
        self,
        peer: str,
        saga_id: str,
        body: bytes,
        *,
        trace: TraceContext,
        budget: float | None,
        timeout: float,
    ) -> ForwardReply:
        """Hand the context on downstream: `POST /sagas`."""
        ...

    async def look(
        self, peer: str, saga_id: str, *, trace: TraceContext, timeout: float
    ) -> LookReply:
        """Look what became of a saga downstream: `GET /sagas/{id}`, which starts nothing.

        `Accepted` while it runs there, `Refused` for the neighbour's own no, or when it shows no
        sagas; all else is `Lost`.
        """
        ...

    async def compensate(
        self,
        peer: str,
        saga_id: str,
        *,
        requested_by: str,
        reason: str,
        trace: TraceContext,
        timeout: float,
    ) -> CompensateReply:
        """Ask a neighbour to compensate: `POST /sagas/{id}/compensate`."""
        ...


class Neighbours(Protocol):
    """The neighbours as those who know their part of a saga's story. The same law holds."""

    def is_upstream(self, peer: str) -> bool:
        """True when an upstream of that name is configured."""
        ...

    async def chain(
        self,
        peer: str,
        saga_id: str,
        *,
        asked: tuple[str, ...],
        hops: int,
        timeout: float,
        trace: TraceContext,
    ) -> ChainView | Lost:
        """Ask for the story of the chain as that neighbour sees it: `GET …?view=chain`.

        `asked` are the stages that were asked already, `hops` how many further it may pass.
        """
        ...
