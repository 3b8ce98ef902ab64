"""The span that is open now, whoever opened it, as the trace context of a request that leaves."""

from __future__ import annotations

from opentelemetry import trace

from stage.ports.observer import TraceContext
from stage.telemetry.propagation import NOTHING, Ids, format_traceparent


def current_trace() -> TraceContext:
    """Its trace context; nothing without one."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return NOTHING
    ids = Ids(context.trace_id, context.span_id, int(context.trace_flags))
    return TraceContext(
        traceparent=format_traceparent(ids), tracestate=context.trace_state.to_header()
    )
