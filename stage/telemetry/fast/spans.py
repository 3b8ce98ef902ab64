"""The provider of our own entry point: the SDK's, which makes our own spans in a third of the time.

A span of the SDK has four locks and two queues for uses that we have not: events, several writers
at a time, limits that are never reached. A fast span has none of them. It is sampled as the SDK's
sampler decides, has ids of the SDK's generator, and ends as a span that the SDK's processors take.

Where somebody could see the difference no fast span is made, and the SDK makes one of its own:
with more processors, samplers that look at more than the parent, limits that were set, and the
figures that the SDK counts of its own spans. `FastProvider.off` gives the reason.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from stage.core.version import __version__
from stage.ports.observer import TraceContext
from stage.telemetry import names
from stage.telemetry.current_span import CurrentSpan
from stage.telemetry.span_context import FLAGS, LINKS_MAX, parse_context, parse_links
from stage.telemetry.span_end import SpanType, span_end

_ONLY_SDK_KEEPS = ("span_limits", "active_span_processor", "_tracer_configurator")
"""Arguments of the SDK's provider that only its own spans keep."""
INTERNAL_METRICS_VARIABLE = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_EMPTY = Context()
_UNSET = Status(StatusCode.UNSET)


def _ignore(_reason: str) -> None:
    """Report nothing."""


class FastProvider(TracerProvider):
    """A provider of the SDK that can begin a fast span while it has one processor.

    `report` is called with the reason when a processor that is added puts an end to that.
    """

    def __init__(self, *, report: Callable[[str], None] = _ignore, **arguments: Any) -> None:
        super().__init__(**arguments)
        tracer = self.get_tracer(names.SCOPE, __version__)
        self._scope = tracer._instrumentation_scope if isinstance(tracer, Tracer) else None
        self._processors: tuple[SpanProcessor, ...] = ()
        self._report = report
        self.off = self._reason(arguments)
        """Why no span is a fast one, whatever the processors; empty while they may be."""

    def _reason(self, arguments: Mapping[str, Any]) -> str:
        if self._scope is None:
            return "the SDK is disabled"
        for variable in os.environ:
            if _changes_spans(variable):
                return f"{variable} is set, which the SDK's own spans keep"
        for argument in _ONLY_SDK_KEEPS:
            if argument in arguments:
                return f"the provider has {argument}, which the SDK's own spans keep"
        if not _follows_parent(self.sampler):
            return f"the sampler {self.sampler.get_description()} looks at more than the parent"
        if not hasattr(self.id_generator, "is_trace_id_random"):  # not before 1.42
            return "the id generator does not say whether its trace ids are random"
        return ""

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """See the SDK: it holds for spans that start from then on."""
        super().add_span_processor(span_processor)
        self._processors += (span_processor,)
        if len(self._processors) == 2 and not self.off:
            self._report("another span processor was added, which may change spans at their start")

    def begin_fast(
        self,
        name: str,
        span_type: SpanType,
        parent: TraceContext,
        links: Sequence[str],
        attributes: dict[str, Any],
    ) -> FastSpan | None:
        """A span below `parent`; None where the SDK is to make it.

        Attributes are text or numbers. The dictionary becomes the span's own.
        """
        if self.off or len(self._processors) != 1:
            return None
        return FastSpan(self, name, span_type, parent, links, attributes)

    def ids(
        self, name: str, span_type: SpanType, below: SpanContext | None, attributes: dict[str, Any]
    ) -> SpanContext:
        """The ids of a new span: of the trace of its parent, or of a trace that it begins."""
        if below is not None:
            trace_id, flags = below.trace_id, below.trace_flags & 3
        else:
            trace_id = self.id_generator.generate_trace_id()
            sampling = self.sampler.should_sample(
                _EMPTY, trace_id, name, span_type.kind, attributes
            )
            sampled = sampling.decision is Decision.RECORD_AND_SAMPLE
            flags = sampled | self.id_generator.is_trace_id_random() << 1
        return SpanContext(
            trace_id,
            self.id_generator.generate_span_id(),
            is_remote=False,
            trace_flags=FLAGS[flags],
            trace_state=below.trace_state if below is not None else None,
        )

    def end_fast(self, span: FastSpan, status: Status, end_time: int) -> None:
        """Give a span that ended to the processor."""
        ended = EndedSpan(self.resource, self._scope, span, status, end_time)
        for each in self._processors:
            each.on_end(ended)


def _changes_spans(variable: str) -> bool:
    limit = variable.startswith("OTEL_") and variable.endswith("_LIMIT")
    return limit or variable == INTERNAL_METRICS_VARIABLE


def _follows_parent(sampler: Sampler) -> bool:
    """Whether it is one of the SDK's that decide as the parent did."""
    return sampler in (DEFAULT_ON, DEFAULT_OFF) or type(sampler) is ParentBasedTraceIdRatio


class FastSpan:
    """A span under way (ports.observer.Span). Only one thread at a time writes."""

    __slots__ = (
        "_ended", "_provider", "_type",
        "attributes", "below", "context", "ids", "kind", "links", "name", "span_id", "start_time",
        "trace_id",
    )  # fmt: skip

    def __init__(
        self,
        provider: FastProvider,
        name: str,
        span_type: SpanType,
        parent: TraceContext,
        links: Sequence[str],
        attributes: dict[str, Any],
    ) -> None:
        below = parse_context(parent.traceparent, parent.tracestate)
        self.below = below
        self.ids = provider.ids(name, span_type, below, attributes)
        trace_id, span_id, _, flags, *_ = self.ids
        self.span_id = f"{span_id:016x}"
        """See `ports.observer.Span`."""
        self.trace_id = f"{trace_id:032x}"
        """See `ports.observer.Span`."""
        tracestate = ""
        if below is not None and parent.tracestate:
            tracestate = below.trace_state.to_header()
        self.context = TraceContext(
            traceparent=f"00-{self.trace_id}-{self.span_id}-{flags:02x}",
            tracestate=tracestate,
            baggage=parent.baggage,
        )
        """See `ports.observer.Span`."""
        self._provider = provider
        self._type = span_type
        self.name = name
        self.kind = span_type.kind
        self.attributes = attributes
        self.links = parse_links(below, links) if links else []
        self._ended = not flags & TraceFlags.SAMPLED  # an unsampled one is never reported
        self.start_time = time_ns()

    def current(self) -> AbstractContextManager[None]:
        """See `ports.observer.Span`."""
        return CurrentSpan(self.ids)

    def about(self, saga_id: str) -> None:
        """See `ports.observer.Span`."""
        if not self._ended:
            self.attributes[names.SAGA_ID] = saga_id

    def link(self, traceparent: str) -> None:
        """See `ports.observer.Span`."""
        if not self._ended:
            self.links = (self.links + parse_links(None, (traceparent,)))[-LINKS_MAX:]

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """See `ports.observer.Span`."""
        if self._ended:
            return
        self._ended = True
        end = span_end(self._type, outcome, error)
        self.attributes.update(end.attributes)
        # A float is coarser than the nanoseconds of the start, which it must not precede.
        end_time = time_ns() if at is None else max(int(at * 1e9), self.start_time)
        self._provider.end_fast(self, end.status or _UNSET, end_time)


class EndedSpan(ReadableSpan):
    """A span as processors and exporters of the SDK read it. Spans of ours have no events.

    The properties of the SDK's class are attributes here: an exporter reads each of them.
    """

    name = ""
    context: SpanContext | None = None
    parent: SpanContext | None = None
    resource = Resource.get_empty()
    instrumentation_scope: InstrumentationScope | None = None
    kind = SpanKind.INTERNAL
    attributes: Mapping[str, Any] = {}
    links: Sequence[Link] = ()
    events: Sequence[Event] = ()
    status = _UNSET
    start_time = end_time = 0
    dropped_attributes = dropped_events = dropped_links = 0
    _instrumentation_info = None

    def __init__(
        self,
        resource: Resource,
        scope: InstrumentationScope | None,
        span: FastSpan,
        status: Status,
        end_time: int,
    ) -> None:
        self.resource = resource
        self.instrumentation_scope = scope
        self.name = span.name
        self.context = span.ids
        self.parent = span.below
        self.kind = span.kind
        self.attributes = span.attributes
        self.links = span.links
        self.status = status
        self.start_time = span.start_time
        self.end_time = end_time

    def __getattr__(self, name: str) -> Any:
        """For the methods of the SDK's class, which read private names such as `_name`."""
        if name.startswith("_") and name[1:] in _READ:
            return getattr(self, name[1:])
        raise AttributeError(name)


_READ = frozenset(inspect.signature(ReadableSpan).parameters) & vars(EndedSpan).keys()
