"""Makes a span of ours the current one of OpenTelemetry while a function of the author runs.

A span that the author starts there is then a child of ours, in the trace of the saga. Our span
itself is not handed out: what is current carries its ids and records nothing, so that no function
of the author can end it or write into it.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import trace as otel
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext

from stage.telemetry.span_context import parse_context

_SPAN_KEY: Final[str] = next(iter(otel.set_span_in_context(INVALID_SPAN, Context())))
"""The key under which a context holds its span."""


class OwnSpan(NonRecordingSpan):
    """The ids of a span of this process. They are parsed when somebody asks, as few do."""

    __slots__ = ("_traceparent", "_tracestate")

    def __init__(self, traceparent: str, tracestate: str) -> None:
        self._traceparent = traceparent
        self._tracestate = tracestate

    def get_span_context(self) -> SpanContext:
        """See `opentelemetry.trace.Span`."""
        named = parse_context(self._traceparent, self._tracestate)
        if named is None:
            return INVALID_SPAN_CONTEXT
        return SpanContext(
            named.trace_id,
            named.span_id,
            is_remote=False,
            trace_flags=named.trace_flags,
            trace_state=named.trace_state,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._traceparent!r})"


class CurrentSpan:
    """A context manager; to be entered once, and left in the context in which it was entered.

    The author's function finds the same context when the saga runs and when it is recovered:
    nothing of the request that happened to start this process's work on it.
    """

    __slots__ = ("_span", "_token")

    def __init__(self, span: NonRecordingSpan) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = attach(Context({_SPAN_KEY: self._span}))

    def __exit__(self, *_: object) -> None:
        detach(self._token)
