"""The observer: told what happens, asked for spans. The core and the engine log nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from stage.core.commands import Activity
from stage.core.events import Event


class TraceContext(msgspec.Struct, frozen=True, kw_only=True):
    """A W3C trace context as it is stored with a saga; empty strings when there is none."""

    traceparent: str = ""
    tracestate: str = ""


class Span(Protocol):
    """One span under way. It is ended once; a span that is never ended is never reported."""

    @property
    def span_id(self) -> str:
        """16 hex digits; empty when nothing is traced."""
        ...

    @property
    def trace_id(self) -> str:
        """32 hex digits; empty when nothing is traced."""
        ...

    @property
    def context(self) -> TraceContext:
        """What is stored, or sent in the headers of a request made under this span."""
        ...

    def end(self, outcome: str, error: str = "") -> None:
        """End the span. `outcome` is the event's name, such as `step_in_doubt`, or a code."""
        ...


class Observer(Protocol):
    """Every method returns at once, may be called from any thread and never raises."""

    def request(
        self, method: str, route: str, headers: Sequence[tuple[str, str]], saga_id: str
    ) -> Span:
        """A server span for a request that came in, within the trace its headers name."""
        ...

    def run(self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]) -> Span:
        """A span for one run of a saga. `links` are span ids that it continues (rule 23)."""
        ...

    def attempt(
        self,
        saga_id: str,
        stage: str,
        step: str,
        activity: Activity,
        attempt: int,
        *,
        peer: str,
        parent: TraceContext,
        links: Sequence[str],
    ) -> Span:
        """A span for one attempt, linked to the attempts that it repeats, probes or undoes."""
        ...

    def happened(self, saga_id: str, stage: str, event: Event, trace: TraceContext) -> None:
        """An event is durable. Told once an event, never again on replay."""
        ...
