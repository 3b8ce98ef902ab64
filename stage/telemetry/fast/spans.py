"""The provider of our own entry point: the SDK's, which makes our own spans in a leaner way.

A span of the SDK has four locks and two queues for what we never do: events, several writers at a
time, limits that are never reached. Making and ending a lean one takes a third of the time.

A lean span is sampled as the SDK's sampler would say, has ids of the SDK's generator, and ends as
what the SDK's processors take. Whenever somebody may see the difference (more processors, samplers
that look at more than the parent, limits that were set, figures that the SDK tells of itself) none
is made, and the SDK is asked for one of its own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
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
from stage.telemetry.fast.endings import Sort, ending
from stage.telemetry.fast.parents import LINKS_MAX, links_of, parent_of

_TOLD_TO_SPANS = {"span_limits", "active_span_processor", "_tracer_configurator"}
"""What the SDK may be told at its making and only its own spans keep to."""
_COUNTS_ITSELF = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_EMPTY = Context()
_FLAGS = tuple(map(TraceFlags, range(4)))
"""Sampled (1), random trace id (2), and both."""
_UNSET = Status(StatusCode.UNSET)


class LeanProvider(TracerProvider):
    """A provider of the SDK that can begin a lean span while it has one processor."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        tracer = self.get_tracer(names.SCOPE, __version__)
        self._usual = isinstance(tracer, Tracer) and not any(map(_changes_spans, os.environ))
        self._usual &= _follows_parent(self.sampler)
        self._usual &= hasattr(self.id_generator, "is_trace_id_random")  # not before 1.42
        self._usual &= not told.keys() & _TOLD_TO_SPANS
        self._scope = tracer._instrumentation_scope if isinstance(tracer, Tracer) else None
        self._processors: tuple[SpanProcessor, ...] = ()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """See the SDK: it holds for spans that start from then on."""
        super().add_span_processor(span_processor)
        self._processors += (span_processor,)

    def begin_lean(
        self,
        name: str,
        sort: Sort,
        parent: TraceContext,
        links: Sequence[str],
        attributes: dict[str, Any],
    ) -> LeanSpan | None:
        """A span below `parent`; None where the SDK is to make it. The attributes become its own.

        Attributes are text or numbers.
        """
        if not self._usual or len(self._processors) != 1:
            return None
        below = parent_of(parent.traceparent, parent.tracestate)
        tracestate = ""
        if below is not None:
            trace_id, flags = below.trace_id, below.trace_flags & 3
            if parent.tracestate:
                tracestate = below.trace_state.to_header()
        else:
            trace_id = self.id_generator.generate_trace_id()
            said = self.sampler.should_sample(_EMPTY, trace_id, name, sort.kind, attributes)
            sampled = said.decision is Decision.RECORD_AND_SAMPLE
            flags = sampled | self.id_generator.is_trace_id_random() << 1
        ids = SpanContext(
            trace_id,
            self.id_generator.generate_span_id(),
            is_remote=False,
            trace_flags=_FLAGS[flags],
            trace_state=below.trace_state if below is not None else None,
        )
        linked = links_of(below, links) if links else []
        return LeanSpan(
            self, name, sort, ids, below, tracestate, parent.baggage, attributes, linked
        )

    def end_lean(self, *told: Any) -> None:
        """Give a span that ended to the processor."""
        span = EndedSpan(self.resource, self._scope, *told)
        for each in self._processors:
            each.on_end(span)


def _changes_spans(variable: str) -> bool:
    limit = variable.startswith("OTEL_") and variable.endswith("_LIMIT")
    return limit or variable == _COUNTS_ITSELF


def _follows_parent(sampler: Sampler) -> bool:
    """Whether it is one of the SDK's that keep to what a parent says."""
    return sampler in (DEFAULT_ON, DEFAULT_OFF) or type(sampler) is ParentBasedTraceIdRatio


class LeanSpan:
    """A span under way (ports.observer.Span). Only one thread at a time writes."""

    __slots__ = (
        "_attributes", "_below", "_ended", "_ids", "_links", "_name", "_provider",
        "_sort", "_start_time", "context", "span_id", "trace_id",
    )  # fmt: skip

    def __init__(
        self,
        provider: LeanProvider,
        name: str,
        sort: Sort,
        ids: SpanContext,
        below: SpanContext | None,
        tracestate: str,
        baggage: str,
        attributes: dict[str, Any],
        links: list[Link],
    ) -> None:
        trace_id, span_id, _, flags, *_ = ids
        self.span_id = f"{span_id:016x}"
        """See `ports.observer.Span`."""
        self.trace_id = f"{trace_id:032x}"
        """See `ports.observer.Span`."""
        self.context = TraceContext(
            traceparent=f"00-{self.trace_id}-{self.span_id}-{flags:02x}",
            tracestate=tracestate,
            baggage=baggage,
        )
        """See `ports.observer.Span`."""
        self._provider = provider
        self._name = name
        self._sort = sort
        self._ids = ids
        self._below = below
        self._attributes = attributes
        self._links = links
        self._ended = not flags & TraceFlags.SAMPLED  # then nobody is ever told of it
        self._start_time = time_ns()

    def about(self, saga_id: str) -> None:
        """See `ports.observer.Span`."""
        if not self._ended:
            self._attributes[names.SAGA_ID] = saga_id

    def link(self, traceparent: str) -> None:
        """See `ports.observer.Span`."""
        if not self._ended:
            self._links = (self._links + links_of(None, (traceparent,)))[-LINKS_MAX:]

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """See `ports.observer.Span`."""
        if self._ended:
            return
        self._ended = True
        told = ending(self._sort, outcome, error)
        self._attributes.update(told.attributes)
        # A float is coarser than the nanoseconds of the start, which it must not precede.
        end_time = time_ns() if at is None else max(int(at * 1e9), self._start_time)
        self._provider.end_lean(
            self._name,
            self._ids,
            self._below,
            self._sort.kind,
            self._attributes,
            self._links,
            told.status or _UNSET,
            self._start_time,
            end_time,
        )


class EndedSpan(ReadableSpan):
    """A span as processors and exporters of the SDK read it. Those of ours have no events.

    What the SDK's class has properties for are attributes here: an exporter reads each of them.
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
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        links: Sequence[Link],
        status: Status,
        start_time: int,
        end_time: int,
    ) -> None:
        self.resource = resource
        self.instrumentation_scope = scope
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.attributes = attributes
        self.links = links
        self.status = status
        self.start_time = start_time
        self.end_time = end_time

    def __getattr__(self, name: str) -> Any:
        """What the methods of the SDK's class call by names of its own, such as `_name`."""
        if name.startswith("_") and name[1:] in _READ:
            return getattr(self, name[1:])
        raise AttributeError(name)


_READ = frozenset(inspect.signature(ReadableSpan).parameters) & vars(EndedSpan).keys()
