"""The provider of our own entry point: the SDK's, with spans of ours in an eighth of its time.

A span of the SDK has four locks and two queues for uses that we have not: events, several writers
at a time, limits that are never reached. A fast span has none of them. It is sampled as the SDK's
sampler decides, and has ids of the SDK's dice. Its ids stay text, and the part that all spans of
its sort share stays in one place (`telemetry.span_parts`), until the thread of the exporter encodes
it. A processor that knows the spans of the SDK alone is given one.

Where somebody could see the difference no fast span is made, and the SDK makes one of its own:
with more processors, samplers that look at more than the parent, limits that were set, and the
figures that the SDK counts of its own spans. `FastProvider.off` gives the reason.
"""

from __future__ import annotations

import inspect
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from time import time_ns
from typing import Any, Final, Protocol, runtime_checkable

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.trace.status import Status, StatusCode

from stage.core.version import __version__
from stage.ports.observer import TraceContext
from stage.telemetry import names, propagation
from stage.telemetry.current_span import CurrentSpan, OwnSpan
from stage.telemetry.id_generator import StageIdGenerator
from stage.telemetry.span_context import LINKS_MAX, parse_context, parse_links
from stage.telemetry.span_parts import SpanEnd, SpanTemplate, end_of, usual_end

_ONLY_SDK_KEEPS = ("span_limits", "active_span_processor", "_tracer_configurator")
"""Arguments of the SDK's provider that only its own spans keep."""
INTERNAL_METRICS_VARIABLE = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_EMPTY = Context()
_NO_LINKS: Final[Sequence[Link]] = ()
UNSET = Status(StatusCode.UNSET)
"""The status of a span that did not fail."""
_UNSAMPLED: Final = "02"
"""The last digit of a traceparent that is not sampled."""
_WRITTEN: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]").fullmatch
"""Finds a traceparent as we write one, which needs no parsing."""


@runtime_checkable
class FastProcessor(Protocol):
    """A processor that takes fast spans as they are."""

    def take(self, span: FastSpan) -> None:
        """Take a span that ended, and is sampled."""
        ...


BeginFast = Callable[[SpanTemplate, str, TraceContext, Sequence[str]], "FastSpan"]


def _ignore(_reason: str) -> None:
    """Report nothing."""


class FastProvider(TracerProvider):
    """A provider of the SDK that can begin a fast span while it has one processor.

    `report` is called with the reason when a processor that is added puts an end to that.
    """

    def __init__(self, *, report: Callable[[str], None] = _ignore, **arguments: Any) -> None:
        super().__init__(**arguments)
        tracer = self.get_tracer(names.SCOPE, __version__)
        self.scope = tracer._instrumentation_scope if isinstance(tracer, Tracer) else None
        """The instrumentation scope of our spans."""
        self._processors: tuple[SpanProcessor, ...] = ()
        self._report = report
        self.draw_span_id: Callable[[], int] = self.id_generator.generate_span_id
        """Draws the id of a span."""
        if type(self.id_generator) in (RandomIdGenerator, StageIdGenerator):
            # The generator of the SDK draws so too. Only spans of the SDK ask for overridden ids.
            self.draw_span_id = partial(random.getrandbits, 64)
        self.begin_fast: BeginFast | None = None
        """Begins a fast span; None while the SDK is to make all spans."""
        self.take: Callable[[FastSpan], None] = self._give
        """Gives a span that ended to the processors."""
        self.off = self._reason(arguments)
        """Why no span is a fast one, whatever the processors; empty while they may be."""

    def _reason(self, arguments: Mapping[str, Any]) -> str:
        if self.scope is None:
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
        alone = len(self._processors) == 1
        self.begin_fast = partial(FastSpan, self) if alone and not self.off else None
        if alone and isinstance(span_processor, FastProcessor):
            self.take = span_processor.take
        else:
            self.take = self._give
        if len(self._processors) == 2 and not self.off:
            self._report("another span processor was added, which may change spans at their start")

    def begin_trace(self, template: SpanTemplate, saga_id: str) -> tuple[int, int]:
        """The id and the flags of a new trace, sampled as the sampler decides."""
        trace_id = self.id_generator.generate_trace_id()
        sampled = True
        if self.sampler is not DEFAULT_ON:  # which says so of every trace that begins
            sampling = self.sampler.should_sample(
                *(_EMPTY, trace_id, template.name, template.span_type.kind),
                attributes=template.attributes(saga_id),
            )
            sampled = sampling.decision is Decision.RECORD_AND_SAMPLE
        return trace_id, sampled | self.id_generator.is_trace_id_random() << 1

    def _give(self, span: FastSpan) -> None:
        """Give a span to the processors, readable as the SDK's own."""
        ended = span.readable()
        for each in self._processors:
            each.on_end(ended)


def _changes_spans(variable: str) -> bool:
    limit = variable.startswith("OTEL_") and variable.endswith("_LIMIT")
    return limit or variable == INTERNAL_METRICS_VARIABLE


def _follows_parent(sampler: Sampler) -> bool:
    """Whether it is one of the SDK's that decide as the parent did."""
    return sampler in (DEFAULT_ON, DEFAULT_OFF) or type(sampler) is ParentBasedTraceIdRatio


class FastSpan:
    """A span under way (ports.observer.Span). Only one thread at a time writes.

    Its ids stay text, and its constant part stays apart, until it is encoded.
    """

    __slots__ = (
        "_context", "_over",
        "above", "end_time", "ended", "links", "parent", "provider", "saga_id", "span_id",
        "start_time", "template", "traceparent",
    )  # fmt: skip

    end_time: int
    ended: SpanEnd

    def __init__(
        self,
        provider: FastProvider,
        template: SpanTemplate,
        saga_id: str,
        parent: TraceContext,
        links: Sequence[str],
    ) -> None:
        above = parent.traceparent
        if above and not _WRITTEN(above):
            ids = propagation.parse(above)
            above = "" if ids is None else propagation.format_traceparent(ids)
        if above:
            span_id = (provider.draw_span_id() or 1).to_bytes(8, "big").hex()
            traceparent = f"{above[:36]}{span_id}{above[52:]}"  # of the same trace, as sampled
        else:
            trace_id, flags = provider.begin_trace(template, saga_id)
            span_id = (provider.draw_span_id() or 1).to_bytes(8, "big").hex()
            traceparent = f"00-{trace_id:032x}-{span_id}-{flags:02x}"
        self.span_id = span_id
        """See `ports.observer.Span`."""
        self.traceparent = traceparent
        self.above = above
        """The traceparent of its parent; empty without one."""
        self.parent = parent
        self.template = template
        self.saga_id = saga_id
        self.links: Sequence[Link] = (
            parse_links(parse_context(above, ""), links) if links else _NO_LINKS
        )
        self.provider = provider
        self._context: TraceContext | None = None
        self._over = traceparent[-1] in _UNSAMPLED  # such a span is never reported
        self.start_time = time_ns()

    @property
    def trace_id(self) -> str:
        """See `ports.observer.Span`."""
        return self.traceparent[3:35]

    @property
    def context(self) -> TraceContext:
        """See `ports.observer.Span`."""
        context = self._context
        if context is None:
            context = self._context = TraceContext(
                traceparent=self.traceparent,
                tracestate=self.tracestate if self.parent.tracestate else "",
                baggage=self.parent.baggage,
            )
        return context

    @property
    def tracestate(self) -> str:
        """The tracestate of its trace, as the SDK passes it on."""
        if not (self.above and self.parent.tracestate):
            return ""
        below = parse_context(self.above, self.parent.tracestate)
        return "" if below is None else below.trace_state.to_header()

    def current(self) -> AbstractContextManager[None]:
        """See `ports.observer.Span`."""
        tracestate = self.tracestate if self.parent.tracestate else ""
        return CurrentSpan(OwnSpan(self.traceparent, tracestate))

    def about(self, saga_id: str) -> None:
        """See `ports.observer.Span`."""
        if not self._over:
            self.saga_id = saga_id

    def link(self, traceparent: str) -> None:
        """See `ports.observer.Span`."""
        if not self._over:
            self.links = [*self.links, *parse_links(None, (traceparent,))][-LINKS_MAX:]

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """See `ports.observer.Span`."""
        if self._over:
            return
        self._over = True
        span_type = self.template.span_type
        self.ended = end_of(span_type, outcome, error) if error else usual_end(span_type, outcome)
        # A float is coarser than the nanoseconds of the start, which it must not precede.
        self.end_time = time_ns() if at is None else max(int(at * 1e9), self.start_time)
        self.provider.take(self)

    @property
    def resource(self) -> Resource:
        """The resource of its provider."""
        return self.provider.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope | None:
        """The scope of all spans of ours."""
        return self.provider.scope

    def readable(self) -> EndedSpan:
        """The span, which ended, as processors and exporters of the SDK read it."""
        return EndedSpan(self, self.provider.resource, self.provider.scope)


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
    status = UNSET
    start_time = end_time = 0
    dropped_attributes = dropped_events = dropped_links = 0
    _instrumentation_info = None

    def __init__(
        self, span: FastSpan, resource: Resource, scope: InstrumentationScope | None
    ) -> None:
        template, state = span.template, span.parent.tracestate if span.above else ""
        named = parse_context(span.traceparent, state)
        assert named is not None, "a fast span has ids"
        self.resource = resource
        self.instrumentation_scope = scope
        self.name = template.name
        self.context = SpanContext(
            named.trace_id,
            named.span_id,
            is_remote=False,
            trace_flags=named.trace_flags,
            trace_state=named.trace_state,
        )
        self.parent = parse_context(span.above, state) if span.above else None
        self.kind = template.span_type.kind
        self.attributes = {**template.attributes(span.saga_id), **span.ended.attributes}
        self.links = span.links
        self.status = span.ended.status or UNSET
        self.start_time = span.start_time
        self.end_time = span.end_time

    def __getattr__(self, name: str) -> Any:
        """For the methods of the SDK's class, which read private names such as `_name`."""
        if name.startswith("_") and name[1:] in _READ:
            return getattr(self, name[1:])
        raise AttributeError(name)


_READ = frozenset(inspect.signature(ReadableSpan).parameters) & vars(EndedSpan).keys()
