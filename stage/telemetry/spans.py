"""Spans by the OpenTelemetry API, or leaner ones by the provider of our own entry point.

For a request, for a run of a saga, for an attempt of a step.

Parents are explicit, taken from the stored context and never from the task that happens to run:
a saga outlives its request and its process. What a span continues or undoes is a link (rule 23).

Where no SDK is set up the API makes no spans. Then the trace is passed on as it came, with the id
of the span that came with it: an id of ours would name a span that nobody can find. A request that
comes without a trace gets one all the same, so that logs, headers and the journal always hold a
trace id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from stage.core.events import Event
from stage.core.version import __version__
from stage.ports.observer import Attempt, Span, TraceContext
from stage.telemetry import names, propagation
from stage.telemetry.chosen import chosen_span_id
from stage.telemetry.fast.endings import CLIENT, INTERNAL, SERVER, Sort, ending
from stage.telemetry.fast.parents import SPAN_ID, links_of, parent_of
from stage.telemetry.null import PassedOn

Begin = Callable[[str, Sort, TraceContext, Sequence[str], dict[str, Any]], Span | None]
"""What makes spans without the API, as the provider of our own entry point does (lean.py)."""

_EMPTY = Context()


class RecordedSpan:
    """A span of the SDK's, sampled or not (ports.observer.Span)."""

    __slots__ = ("_ended", "_sort", "_span", "context", "span_id", "trace_id")

    def __init__(self, span: otel.Span, sort: Sort, baggage: str = "") -> None:
        told = span.get_span_context()
        self.span_id = f"{told.span_id:016x}"
        """See `ports.observer.Span`."""
        self.trace_id = f"{told.trace_id:032x}"
        """See `ports.observer.Span`."""
        flags = told.trace_flags & propagation.KNOWN_FLAGS
        self.context = TraceContext(
            traceparent=f"00-{self.trace_id}-{self.span_id}-{flags:02x}",
            tracestate=told.trace_state.to_header() if told.trace_state else "",
            baggage=baggage,
        )
        """See `ports.observer.Span`."""
        self._span = span
        self._sort = sort
        self._ended = False

    def about(self, saga_id: str) -> None:
        """See `ports.observer.Span`."""
        if self._span.is_recording():
            self._span.set_attribute(names.SAGA_ID, saga_id)

    def link(self, traceparent: str) -> None:
        """See `ports.observer.Span`."""
        if self._span.is_recording():
            for link in links_of(None, (traceparent,)):
                self._span.add_link(link.context)

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """See `ports.observer.Span`."""
        if self._ended:
            return
        self._ended = True
        if self._span.is_recording():
            told = ending(self._sort, outcome, error)
            self._span.set_attributes(told.attributes)
            if told.status is not None:
                self._span.set_status(told.status)
        if at is None:
            self._span.end()
        else:  # a float is coarser than the nanoseconds of the start, which it must not precede
            began = getattr(self._span, "start_time", None) or 0
            self._span.end(max(int(at * 1e9), began))


class OtelObserver:
    """ports.observer.Observer that makes spans.

    Without a `tracer_provider` it is the process's, also one that is set up later. Of the baggage
    that comes in, the members with these keys are passed on. While `full` says that nobody takes
    spans, none are made, and traces are passed on as they came.
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
        self._begin_lean: Begin | None = getattr(provider, "begin_lean", None)
        self._waits = isinstance(provider, otel.ProxyTracerProvider)
        self._full = full

    def _idle(self, look: bool = False) -> bool:
        """True while nobody would get a span: it would cost as much as one that somebody gets.

        `look` whether there is a provider by now: OpenTelemetry reads the environment each time.
        """
        if self._waits and look:
            self._waits = isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider)
        return self._waits or (self._full is not None and self._full())

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
        if route.endswith(names.QUIET_ROUTES) or self._idle(look=True):
            return _passed_on(incoming)

        told = _method(method)
        if path:
            told[names.URL_PATH] = path
            told[names.URL_SCHEME] = scheme
        if route != names.UNMATCHED_ROUTE:
            told[names.HTTP_ROUTE] = route
        if saga_id:
            told[names.SAGA_ID] = saga_id
        name = names.request_span(method, route)
        links = () if joined or not named.traceparent else (named.traceparent,)
        return self._start(name, SERVER, incoming, links, told)

    def client(self, method: str, url: str, *, peer: str, route: str, parent: TraceContext) -> Span:
        """See `ports.observer.Observer`."""
        if self._idle():
            return _passed_on(parent)
        # What stands behind the question mark is the author's, and may be a secret.
        bare, mark, _ = url.partition("?")
        try:
            name, told = _client(method, bare, bool(mark), peer, route)
        except ValueError:  # no URL; whoever sends the request will say so
            return _passed_on(parent)
        return self._start(name, CLIENT, parent, (), told.copy())

    def run(self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]) -> Span:
        """See `ports.observer.Observer`."""
        if self._idle(look=True):
            return _passed_on(parent)
        told = {names.SAGA_ID: saga_id, names.STAGE: stage}
        return self._start(names.run_span(stage), INTERNAL, parent, links, told)

    def attempt(self, attempt: Attempt) -> Span:
        """See `ports.observer.Observer`."""
        if self._idle():
            return _passed_on(attempt.parent)
        # What leaves for it has client spans of its own below.
        name = names.attempt_span(attempt.activity, attempt.step, attempt.peer)
        return self._start(name, INTERNAL, attempt.parent, attempt.links, _attempt(attempt))

    def cut_off(self, attempt: Attempt, *, span_id: str, began: float, ended: float) -> None:
        """See `ports.observer.Observer`."""
        below = parent_of(attempt.parent.traceparent, attempt.parent.tracestate)
        if below is None or not SPAN_ID.fullmatch(span_id):
            return
        with suppress(Exception), chosen_span_id(int(span_id, 16)):
            span = self._tracer.start_span(
                names.attempt_span(attempt.activity, attempt.step, attempt.peer),
                context=_context(below),
                kind=INTERNAL.kind,
                links=links_of(below, attempt.links),
                attributes=_attempt(attempt),
                start_time=int(began * 1e9),
            )
            # A provider of somebody else's gives it an id of its own: then it is never ended.
            if span.is_recording() and span.get_span_context().span_id == int(span_id, 16):
                RecordedSpan(span, INTERNAL).end(names.CUT_OFF, at=ended)

    def bind(self, saga_id: str, trace: TraceContext) -> None:
        """Lines carry ids, and spans their own: nothing to do."""

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """Lines tell of it: nothing to do."""

    def hears(self, kind: type[Event]) -> bool:
        """See `telemetry.compose.ChoosyListener`: spans tell of attempts and not of events."""
        return False

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """Spans tell of attempts and not of events: nothing to do."""

    def _start(
        self,
        name: str,
        sort: Sort,
        parent: TraceContext,
        links: Sequence[str],
        attributes: dict[str, Any],
    ) -> Span:
        """A span below `parent`, or the parent passed on when nothing here makes spans."""
        try:
            if self._begin_lean is not None:
                lean = self._begin_lean(name, sort, parent, links, attributes)
                if lean is not None:
                    return lean
            below = parent_of(parent.traceparent, parent.tracestate)
            span = self._tracer.start_span(
                name,
                context=_context(below),
                kind=sort.kind,
                attributes=attributes,
                links=links_of(below, links) if links else None,
            )
            told = span.get_span_context()
            if not told.is_valid or (below is not None and told.span_id == below.span_id):
                return _passed_on(parent)
            return RecordedSpan(span, sort, parent.baggage)
        except Exception:  # somebody's sampler or processor; a saga never fails for its telemetry
            return _passed_on(parent)


def _passed_on(parent: TraceContext) -> PassedOn:
    # What was read or stored is valid, or empty.
    if not parent.traceparent:
        parent = replace(propagation.new_trace(), baggage=parent.baggage)
    return PassedOn(parent)


def _context(parent: SpanContext | None) -> Context:
    if parent is None:
        return _EMPTY
    return otel.set_span_in_context(NonRecordingSpan(parent), _EMPTY)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        names.SAGA_ID: attempt.saga_id,
        names.STAGE: attempt.stage,
        names.STEP: attempt.step,
        names.ACTIVITY: attempt.activity.value,
        names.ATTEMPT: attempt.number,
    }
    if attempt.peer:
        attributes[names.PEER] = attempt.peer
    return attributes


def _method(method: str) -> dict[str, Any]:
    """A method out of the list is told apart: whoever sends it chooses the word."""
    if method in names.HTTP_METHODS:
        return {names.HTTP_METHOD: method}
    return {names.HTTP_METHOD: names.OTHER_METHOD, names.HTTP_METHOD_ORIGINAL: method[:100]}


@lru_cache(maxsize=1_024)
def _client(
    method: str, url: str, query: bool, peer: str, route: str
) -> tuple[str, dict[str, Any]]:
    """The name and the attributes of a request that leaves; many go where others went before."""
    parts = urlsplit(url)
    if "@" in parts.netloc:  # credentials of the operator's
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    told = _method(method)
    told[names.URL_FULL] = url + ("?REDACTED" if query else "")
    told[names.SERVER_ADDRESS] = parts.hostname or ""
    told[names.SERVER_PORT] = parts.port or (443 if parts.scheme == "https" else 80)
    if route:
        told[names.URL_TEMPLATE] = route
    told[names.PEER] = peer
    return names.client_span(method, route, peer), told
