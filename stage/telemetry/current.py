"""The span that is open now, whoever opened it, as the trace context of a request that leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from stage.ports.observer import TraceContext
from stage.telemetry.propagation import NOTHING, Ids, format_traceparent, parse, read


def current_trace() -> TraceContext:
    """Its trace context; nothing without one."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return NOTHING
    ids = Ids(context.trace_id, context.span_id, int(context.trace_flags))
    return TraceContext(
        traceparent=format_traceparent(ids), tracestate=context.trace_state.to_header()
    )


@contextmanager
def joined(headers: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Have spans that begin within stand below the one that the headers name, if they name one."""
    found = read(headers)
    ids = parse(found.traceparent)
    if ids is None:
        yield
        return
    above = SpanContext(
        ids.trace_id,
        ids.span_id,
        is_remote=True,
        trace_flags=TraceFlags(ids.flags),
        trace_state=TraceState.from_header([found.tracestate]) if found.tracestate else None,
    )
    with trace.use_span(NonRecordingSpan(above)):
        yield
