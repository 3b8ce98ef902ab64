"""The neighbours, upstream and downstream. A loss is a value.

The law: nothing is raised for what the neighbour or the network does. An implementation sends a
request at most once, follows no redirect, reads no more than its limit, and returns within the
timeout. Timeouts and budgets are in seconds.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from stage.ports.observer import TraceContext
from stage.ports.stage import Lost
from stage.wire.chain import ChainView
from stage.wire.replies import CompensateRequest
from stage.wire.shared import SharedPage


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """Downstream is done. `data` is what it and those behind it added, a JSON object by stage."""

    data: msgspec.Raw


class InProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The neighbour took the request over durably and still works on it."""

    retry_after: float | None = None


class NotExecuted(msgspec.Struct, frozen=True, kw_only=True):
    """A no in the neighbour's own word: this request left nothing there. An earlier one may have.

    `saga_over` is True when the neighbour says that the saga itself is over there.
    """

    reason: str
    saga_over: bool = False


class NoInDoubt(msgspec.Struct, frozen=True, kw_only=True):
    """A no that may not be the neighbour's: it is not repeated, and an effect may stand there."""

    reason: str


class ShownExecuted(msgspec.Struct, frozen=True, kw_only=True):
    """Downstream shows the saga as executed. Only `forward` gives what was added."""


class Compensated(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of the saga stands at the neighbour."""


class CannotCompensate(msgspec.Struct, frozen=True, kw_only=True):
    """The neighbour cannot compensate; `stands` is its list of what remains."""

    reason: str
    stands: tuple[str, ...] = ()


class NotUnderstood(msgspec.Struct, frozen=True, kw_only=True):
    """Something answered that does not speak for the neighbour, such as a login page."""

    reason: str
    retry_after: float | None = None


ForwardReply = Executed | InProgress | NotExecuted | NoInDoubt | Lost
OutcomeReply = ShownExecuted | InProgress | NotExecuted | Lost
CompensateReply = Compensated | InProgress | CannotCompensate | NotUnderstood | Lost


class Neighbours(Protocol):
    """The neighbours, by configured name. No name in a body becomes an address.

    No method raises for what the network or a neighbour does: that is a reply. `timeout` is in
    seconds and covers the whole exchange. `budget` is what is left to the saga, in seconds; None
    without a deadline.
    """

    def name_of_today(self, peer: str) -> str:
        """The configured name of a neighbour that had the name `peer` before, or has it."""
        ...

    def names_of(self, peer: str) -> tuple[str, ...]:
        """All names of that neighbour: the one of today first, then those of before."""
        ...

    def is_upstream(self, peer: str) -> bool:
        """True when an upstream of that name is configured, so that it can be notified."""
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

    async def get_outcome(
        self, peer: str, saga_id: str, *, trace: TraceContext, timeout: float
    ) -> OutcomeReply:
        """Ask downstream what became of a saga: `GET /sagas/{id}`, which starts nothing.

        `NotExecuted` is the neighbour's own no, or says that it serves no sagas. An answer
        that does not speak of the saga is `Lost`.
        """
        ...

    async def compensate(
        self,
        peer: str,
        saga_id: str,
        request: CompensateRequest,
        *,
        trace: TraceContext,
        timeout: float,
    ) -> CompensateReply:
        """Ask a neighbour to compensate: `POST /sagas/{id}/compensate`."""
        ...

    async def get_shared(
        self, peer: str, asker: str, *, since: float, after: str, timeout: float
    ) -> SharedPage | Lost:
        """Get a page of the sagas that this stage, `asker`, shares with a neighbour (3.8)."""
        ...

    async def get_chain(
        self,
        peer: str,
        saga_id: str,
        *,
        asked: tuple[str, ...],
        hops: int,
        timeout: float,
        trace: TraceContext,
    ) -> ChainView | Lost:
        """Get the chain as that neighbour sees it: `GET /sagas/{id}?view=chain`.

        `asked` are the stages that were asked already, `hops` how many further it may pass.
        """
        ...
