"""The observer that makes spans: for a request, a run of a saga, an attempt of a step.

It makes them by the OpenTelemetry API, or faster by the provider of our own entry point
(`telemetry.fast`).

Parents are explicit, taken from the stored context and never from the task that happens to run:
a saga outlives its request and its process. A span links to those that it continues or compensates
(rule 23).

Where no SDK is set up the API makes no spans. Then the trace is passed on as it came, with the id
of the span that came with it: an id of ours would name a span that nobody can find. A request that
comes without a trace gets one all the same, so that logs, headers and the journal always hold a
trace id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from msgspec.structs import replace
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from stage.core.commands import AttemptKind
from stage.core.events import Event
from stage.core.version import __version__
from stage.ports.observer import Attempt, DroppedKind, Span, TraceContext
from stage.telemetry import names, propagation
from stage.telemetry.current_span import CurrentSpan
from stage.telemetry.null import PassthroughSpan
from stage.telemetry.span_context import SPAN_ID, parse_context, parse_links
from stage.telemetry.span_id_override import override_span_id
from stage.telemetry.span_parts import (
    CLIENT,
    INTERNAL,
    SERVER,
    SpanTemplate,
    SpanType,
    end_of,
)


@runtime_checkable
class FastTracing(Protocol):
    """A provider that may begin spans without the API: `telemetry.fast.spans.FastProvider`."""

    begin_fast: Callable[[SpanTemplate, str, TraceContext, Sequence[str]], Span] | None
    """None while the API is to make all spans."""


TEMPLATES_CACHED_MAX = 1_024
"""Of each type of span: the same few come again and again."""
_EMPTY = Context()
_PROXY = otel.ProxyTracerProvider()
"""Makes tracers that wait for a provider, until there is one."""


class RecordedSpan:
    """A span of the SDK's, sampled or not (ports.observer.Span)."""

    __slots__ = ("_ended", "_span", "_type", "context", "span_id", "trace_id")

    def __init__(self, span: otel.Span, span_type: SpanType, baggage: str = "") -> None:
        ids = span.get_span_context()
        self.span_id = f"{ids.span_id:016x}"
        """See `ports.observer.Span`."""
        self.trace_id = f"{ids.trace_id:032x}"
        """See `ports.observer.Span`."""
        flags = ids.trace_flags & propagation.KNOWN_FLAGS
        self.context = TraceContext(
            traceparent=f"00-{self.trace_id}-{self.span_id}-{flags:02x}",
            tracestate=ids.trace_state.to_header() if ids.trace_state else "",
            baggage=baggage,
        )
        """See `ports.observer.Span`."""
        self._span = span
        self._type = span_type
        self._ended = False

    def current(self) -> CurrentSpan:
        """See `ports.observer.Span`."""
        return CurrentSpan(NonRecordingSpan(self._span.get_span_context()))

    def about(self, saga_id: str) -> None:
        """See `ports.observer.Span`."""
        if self._span.is_recording():
            self._span.set_attribute(names.SAGA_ID, saga_id)

    def link(self, traceparent: str) -> None:
        """See `ports.observer.Span`."""
        if self._span.is_recording():
            for link in parse_links(None, (traceparent,)):
                self._span.add_link(link.context)

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """See `ports.observer.Span`."""
        if self._ended:
            return
        self._ended = True
        if self._span.is_recording():
            end = end_of(self._type, outcome, error)
            self._span.set_attributes(end.attributes)
            if end.status is not None:
                self._span.set_status(end.status)
        if at is None:
            self._span.end()
        else:  # a float is coarser than the nanoseconds of the start, which it must not precede
            began = getattr(self._span, "start_time", None) or 0
            self._span.end(max(int(at * 1e9), began))


class UnrecordedSpan(PassthroughSpan):
    """A span that is not made although somebody traces: the queue is full, say.

    Spans of the author stand below the span that its context names.
    """

    def current(self) -> AbstractContextManager[None]:
        """See `ports.observer.Span`."""
        named = parse_context(self.context.traceparent, self.context.tracestate)
        return super().current() if named is None else CurrentSpan(NonRecordingSpan(named))


class OtelObserver:
    """ports.observer.Observer that makes spans.

    It takes the provider of the process where no `tracer_provider` is given, also one that is set
    up later. It passes on the members of the baggage that have one of the `baggage_keys`. While
    `full` returns True it makes no spans, and passes traces on as they came.
    """

    def __init__(
        self,
        tracer_provider: otel.TracerProvider | None = None,
        *,
        baggage_keys: Collection[str] = (),
        full: Callable[[], bool] | None = None,
    ) -> None:
        self._baggage_keys = frozenset(baggage_keys)
        provider = tracer_provider if tracer_provider is not None else otel.get_tracer_provider()
        self._tracer = provider.get_tracer(names.SCOPE, __version__)
        self._fast = provider if isinstance(provider, FastTracing) else None
        self._waits = isinstance(provider, otel.ProxyTracerProvider)
        self._full = full or _never
        """True while no span would reach anybody: it would cost as much as one that does."""

    def _still_waits(self) -> bool:
        """Whether no provider is set yet, which is asked once a request and once a run.

        Asked for the provider itself, OpenTelemetry reads the environment each time.
        """
        if self._waits:
            self._waits = isinstance(_PROXY.get_tracer(names.SCOPE), otel.ProxyTracer)
        return self._waits

    def _passed_on(self, parent: TraceContext) -> PassthroughSpan:
        # A context that was read or stored is valid, or empty.
        if not parent.traceparent:
            parent = replace(propagation.new_trace(), baggage=parent.baggage)
        return PassthroughSpan(parent) if self._waits else UnrecordedSpan(parent)

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
    ) -> Span:
        """See `ports.observer.Observer`."""
        named = propagation.read(headers)
        incoming = named if joined else propagation.NOTHING
        if self._baggage_keys and joined:
            baggage = propagation.read_baggage(headers, self._baggage_keys)
            incoming = replace(incoming, baggage=baggage)
        if self._still_waits() or self._full() or route.endswith(names.UNTRACED_ROUTES):
            return self._passed_on(incoming)

        links = () if joined or not named.traceparent else (named.traceparent,)
        return self._start(_request(method, route, path, scheme), saga_id, incoming, links)

    def client(self, method: str, url: str, *, peer: str, route: str, parent: TraceContext) -> Span:
        """See `ports.observer.Observer`."""
        if self._waits or self._full():
            return self._passed_on(parent)
        # The query is the author's, and may hold a secret.
        bare, mark, _ = url.partition("?")
        try:
            template = _client(method, bare, bool(mark), peer, route)
        except ValueError:  # no URL; the transport will raise for it
            return self._passed_on(parent)
        return self._start(template, "", parent, ())

    def run(self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]) -> Span:
        """See `ports.observer.Observer`."""
        if self._still_waits() or self._full():
            return self._passed_on(parent)
        return self._start(_run(stage), saga_id, parent, links)

    def attempt(self, attempt: Attempt) -> Span:
        """See `ports.observer.Observer`."""
        if self._waits or self._full():
            return self._passed_on(attempt.parent)
        # As in `cut_off`: a function of its own would cost four calls a saga.
        template = _attempt(attempt.stage, attempt.step, attempt.kind, attempt.number, attempt.peer)
        return self._start(template, attempt.saga_id, attempt.parent, attempt.links)

    def cut_off(self, attempt: Attempt, *, span_id: str, began: float, ended: float) -> None:
        """See `ports.observer.Observer`."""
        below = parse_context(attempt.parent.traceparent, attempt.parent.tracestate)
        if below is None or not SPAN_ID.fullmatch(span_id):
            return
        with suppress(Exception), override_span_id(int(span_id, 16)):
            template = _attempt(
                attempt.stage, attempt.step, attempt.kind, attempt.number, attempt.peer
            )
            span = self._tracer.start_span(
                template.name,
                context=_context(below),
                kind=template.span_type.kind,
                links=parse_links(below, attempt.links),
                attributes=template.attributes(attempt.saga_id),
                start_time=int(began * 1e9),
            )
            # A provider of the host may give it an id of its own: then it is never ended.
            if span.is_recording() and span.get_span_context().span_id == int(span_id, 16):
                RecordedSpan(span, INTERNAL).end(names.CUT_OFF, at=ended)

    def bind(self, saga_id: str, trace: TraceContext) -> None:
        """Spans have explicit parents: nothing to do."""

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """Defects are logged and counted: nothing to do."""

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """They are logged and counted: nothing to do."""

    def contradicted(self, saga_id: str, step: str, trace: TraceContext) -> None:
        """It is logged: nothing to do."""

    def wants(self, kind: type[Event]) -> bool:
        """See `telemetry.compose.SelectiveListener`: spans show attempts and not events."""
        return False

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """Spans show attempts and not events: nothing to do."""

    def _start(
        self, template: SpanTemplate, saga_id: str, parent: TraceContext, links: Sequence[str]
    ) -> Span:
        """A span below `parent`, or the parent passed on when nothing here makes spans."""
        try:
            if self._fast is not None and (begin := self._fast.begin_fast) is not None:
                return begin(template, saga_id, parent, links)
            below = parse_context(parent.traceparent, parent.tracestate)
            span = self._tracer.start_span(
                template.name,
                context=_context(below),
                kind=template.span_type.kind,
                attributes=template.attributes(saga_id),
                links=parse_links(below, links) if links else None,
            )
            ids = span.get_span_context()
            if not ids.is_valid or (below is not None and ids.span_id == below.span_id):
                return self._passed_on(parent)
            return RecordedSpan(span, template.span_type, parent.baggage)
        except Exception:  # of a sampler or processor of the host; telemetry never fails a saga
            return self._passed_on(parent)


def _never() -> bool:
    return False


def _context(parent: SpanContext | None) -> Context:
    if parent is None:
        return _EMPTY
    return otel.set_span_in_context(NonRecordingSpan(parent), _EMPTY)


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _request(method: str, route: str, path: str, scheme: str) -> SpanTemplate:
    """The constant part of the spans of requests to one path."""
    attributes = _method(method)
    if path:
        attributes[names.URL_PATH] = path
        attributes[names.URL_SCHEME] = scheme
    if route != names.UNMATCHED_ROUTE:
        attributes[names.HTTP_ROUTE] = route
    return SpanTemplate(names.request_span(method, route), SERVER, attributes)


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _run(stage: str) -> SpanTemplate:
    """The constant part of the spans of all runs of a stage."""
    return SpanTemplate(names.run_span(stage), INTERNAL, {}, {names.STAGE: stage})


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _attempt(stage: str, step: str, kind: AttemptKind, number: int, peer: str) -> SpanTemplate:
    """The constant part of the spans of one attempt of a step, in every saga."""
    attributes: dict[str, Any] = {
        names.STAGE: stage,
        names.STEP: step,
        names.ACTIVITY: kind.value,
        names.ATTEMPT: number,
    }
    if peer:
        attributes[names.PEER] = peer
    # Internal: the requests that it sends have client spans below it.
    return SpanTemplate(names.attempt_span(kind, step, peer), INTERNAL, {}, attributes)


def _method(method: str) -> dict[str, Any]:
    """A method out of the list becomes `_OTHER`: its sender chooses the word."""
    if method in names.HTTP_METHODS:
        return {names.HTTP_METHOD: method}
    return {names.HTTP_METHOD: names.OTHER_METHOD, names.HTTP_METHOD_ORIGINAL: method[:100]}


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _client(method: str, url: str, query: bool, peer: str, route: str) -> SpanTemplate:
    """The constant part of the spans of requests to one URL. Raises ValueError where it is none."""
    parts = urlsplit(url)
    if "@" in parts.netloc:  # credentials of the operator's
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    attributes = _method(method)
    attributes[names.URL_FULL] = url + ("?REDACTED" if query else "")
    attributes[names.SERVER_ADDRESS] = parts.hostname or ""
    attributes[names.SERVER_PORT] = parts.port or (443 if parts.scheme == "https" else 80)
    if route:
        attributes[names.URL_TEMPLATE] = route
    attributes[names.PEER] = peer
    return SpanTemplate(names.client_span(method, route, peer), CLIENT, attributes)
