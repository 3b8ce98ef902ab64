"""The provider of our own entry point: the SDK's, whose tracer of our scope makes lean spans.

A span of the SDK has four locks and two queues for what we never do: events, several writers at a
time, limits that are never reached. Making and ending a lean one takes some two thirds of the time.

A lean span is below a parent, sampled as the SDK's sampler says, with ids of the SDK's generator,
and ends as what the SDK's processors take. Whenever somebody may see the difference (more
processors, limits that were set, figures that the SDK tells of itself) the SDK's tracer is asked;
and so it is for a span that begins a trace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import time_ns
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, Tracer, TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import names

LINKS_MAX = 128
"""As the SDK by default: beyond it the oldest go."""

_COUNTS_ITSELF = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_UNSET = Status(StatusCode.UNSET)


class LeanProvider(TracerProvider):
    """A provider of the SDK with one processor; with more of them its spans are the SDK's."""

    processors = 0

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """See the SDK: it holds for spans that start from then on."""
        super().add_span_processor(span_processor)
        self.processors += 1

    def get_tracer(self, instrumenting_module_name: str, *told: Any, **more: Any) -> otel.Tracer:
        """Of our scope one that makes lean spans, of any other the SDK's."""
        tracer = super().get_tracer(instrumenting_module_name, *told, **more)
        plain = isinstance(tracer, Tracer) and not any(map(_changes_spans, os.environ))
        if plain and instrumenting_module_name == names.SCOPE:
            return LeanTracer(self, tracer)
        return tracer


def _changes_spans(variable: str) -> bool:
    limit = variable.startswith("OTEL_") and variable.endswith("_LIMIT")
    return limit or variable == _COUNTS_ITSELF


class LeanTracer(otel.Tracer):
    """A tracer of the SDK's that makes lean spans below a parent."""

    def __init__(self, provider: LeanProvider, tracer: Any) -> None:
        self._provider = provider
        self._tracer = tracer
        self.scope = tracer._instrumentation_scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> otel.Span:
        """See the SDK. Attributes are text or numbers, and the caller's no more."""
        parent = otel.get_current_span(context).get_span_context()
        tracer = self._tracer
        if self._provider.processors != 1 or not parent.is_valid:
            span: otel.Span = tracer.start_span(name, context, kind, attributes, links, start_time)
            return span
        decided = tracer.sampler.should_sample(
            context, parent.trace_id, name, kind, attributes, links or ()
        )
        flags = parent.trace_flags & TraceFlags.RANDOM_TRACE_ID
        if decided.decision.is_sampled():
            flags |= TraceFlags.SAMPLED
        span_id = tracer.id_generator.generate_span_id()
        told = SpanContext(parent.trace_id, span_id, False, TraceFlags(flags), decided.trace_state)
        if not decided.decision.is_recording():
            return NonRecordingSpan(told)
        return LeanSpan(self, name, told, parent, kind, decided.attributes, links, start_time)

    def start_as_current_span(self, *told: Any, **more: Any) -> Any:
        """See the SDK, whose span it is."""
        return self._tracer.start_as_current_span(*told, **more)

    def report(self, **told: Any) -> None:
        """Give a span that ended to the processor."""
        tracer = self._tracer
        tracer.span_processor.on_end(
            ReadableSpan(resource=tracer.resource, instrumentation_scope=self.scope, **told)
        )


class LeanSpan(NonRecordingSpan):
    """A span of ours: it has no events and keeps its name. Only one thread at a time writes."""

    def __init__(
        self,
        tracer: LeanTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext,
        kind: SpanKind,
        attributes: Any,
        links: Sequence[Link] | None,
        start_time: int | None,
    ) -> None:
        self._context = context
        self._tracer = tracer
        self._name = name
        self._parent = parent
        self._kind = kind
        self._attributes = dict(attributes) if attributes else {}
        self._links = list(links) if links else []
        self._status = _UNSET
        self._recording = True
        self.start_time = time_ns() if start_time is None else start_time

    def is_recording(self) -> bool:
        """True until it is ended."""
        return self._recording

    def set_attribute(self, key: str, value: Any) -> None:
        """See the API."""
        self._attributes[key] = value

    def set_attributes(self, attributes: Any) -> None:
        """See the API."""
        self._attributes.update(attributes)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """See the API."""
        if len(self._links) >= LINKS_MAX:
            del self._links[0]
        self._links.append(Link(context, attributes))

    def set_status(self, status: Any, description: str | None = None) -> None:
        """See the API."""
        self._status = status if isinstance(status, Status) else Status(status, description)

    def end(self, end_time: int | None = None) -> None:
        """See the API; it is ended once."""
        if not self._recording:
            return
        self._recording = False
        self._tracer.report(
            name=self._name,
            context=self._context,
            parent=self._parent,
            attributes=self._attributes,
            links=self._links,
            kind=self._kind,
            status=self._status,
            start_time=self.start_time,
            end_time=time_ns() if end_time is None else end_time,
        )
