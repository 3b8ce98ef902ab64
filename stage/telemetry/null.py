"""An observer that observes nothing: for tests and simulations.

It hands the trace on as it came and draws no random number, so that a run with one seed stays the
same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from stage.core.events import Event
from stage.ports.observer import Attempt, DroppedKind, TraceContext
from stage.telemetry import propagation

_NOTHING_CURRENT: Final = nullcontext()


class PassthroughSpan:
    """A span that is never recorded: its context is the one it was given (ports.observer.Span)."""

    __slots__ = ("context",)

    span_id = ""
    """Empty: no span of ours will ever be found under an id."""

    def __init__(self, context: TraceContext) -> None:
        self.context = context
        """The context that came in."""

    @property
    def trace_id(self) -> str:
        """The trace that is passed on; empty when there is none."""
        return self.context.trace_id

    def current(self) -> AbstractContextManager[None]:
        """Nothing is traced: nothing becomes current."""
        return _NOTHING_CURRENT

    def about(self, saga_id: str) -> None:
        """Nothing is recorded."""

    def link(self, traceparent: str) -> None:
        """Nothing is recorded."""

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """Nothing is recorded."""


class NullObserver:
    """ports.observer.Observer that only passes the trace on."""

    # Many because a value for each request would cost time and say no more.
    def request(
        self,
        method: str,
        route: str,
        headers: Sequence[tuple[str, str]],
        saga_id: str,
        *,
        path: str = "",
        scheme: str = "",
        joined: bool = True,
    ) -> PassthroughSpan:
        """See `ports.observer.Observer`."""
        return PassthroughSpan(propagation.read(headers) if joined else propagation.NOTHING)

    def client(
        self, method: str, url: str, *, peer: str, route: str, parent: TraceContext
    ) -> PassthroughSpan:
        """See `ports.observer.Observer`."""
        return PassthroughSpan(parent)

    def run(
        self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]
    ) -> PassthroughSpan:
        """See `ports.observer.Observer`."""
        return PassthroughSpan(parent)

    def attempt(self, attempt: Attempt) -> PassthroughSpan:
        """See `ports.observer.Observer`."""
        return PassthroughSpan(attempt.parent)

    def cut_off(self, attempt: Attempt, *, span_id: str, began: float, ended: float) -> None:
        """See `ports.observer.Observer`."""

    def bind(self, saga_id: str, trace: TraceContext) -> None:
        """See `ports.observer.Observer`."""

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See `ports.observer.Observer`."""

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """See `ports.observer.Observer`."""

    def contradicted(self, saga_id: str, step: str, trace: TraceContext) -> None:
        """See `ports.observer.Observer`."""

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """See `ports.observer.Observer`."""
