"""Spans of this neighbour, sent by OTLP: what it is asked, and what it asks.

Without a collector none is made, and the trace of a saga is passed on all the same. It is as much
as a small service needs, on the OpenTelemetry API alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from upstream_stub.trace import Trace, trace_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

BATCH_DELAY_MS = 500
SHUTDOWN_SECONDS_MAX = 2.0
"""How long a collector that is slow or gone may hold the exit."""
TRACES_PATH = "/v1/traces"


class Asking:
    """One request on its way out: the headers it takes along, and how it ended."""

    def __init__(self, trace: Trace, span: otel.Span | None) -> None:
        self.headers = trace.headers() if span is None else trace.below(*_ids(span)).headers()
        self._span = span

    def ended(self, outcome: int | str) -> None:
        """Tell the code of the answer, or in a word why there was none."""
        if self._span is not None:
            _tell(self._span, outcome, error_code_min=400)


class Spans:
    """Makes spans with a tracer provider, or none without."""

    def __init__(self, provider: otel.TracerProvider | None = None) -> None:
        self._tracer = None if provider is None else provider.get_tracer(__package__ or "stub")

    @contextmanager
    def asked(self, request: web.Request) -> Iterator[tuple[Trace, otel.Span | None]]:
        """A server span around a request that came in, and the trace that its work belongs to."""
        trace = trace_of(request.headers)
        if self._tracer is None:
            yield trace, None
            return
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        with self._tracer.start_as_current_span(
            f"{request.method} {route}".rstrip(),
            context=_context(trace),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "http.route": route,
                "url.path": request.rel_url.raw_path,
                "url.scheme": request.scheme,
            },
        ) as span:
            yield trace.below(*_ids(span)), span

    @contextmanager
    def asking(self, method: str, url: str, route: str, trace: Trace) -> Iterator[Asking]:
        """A client span around a request that leaves."""
        if self._tracer is None:
            yield Asking(trace, None)
            return
        with self._tracer.start_as_current_span(
            f"{method} {route}",
            context=_context(trace),
            kind=SpanKind.CLIENT,
            attributes={
                "http.request.method": method,
                "url.full": url,
                "url.template": route,
            },
        ) as span:
            yield Asking(trace, span)


SPANS = web.AppKey("SPANS", Spans)
TRACE = web.RequestKey("TRACE", Trace)


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its span, and the trace that its work belongs to."""
    with request.app[SPANS].asked(request) as (trace, span):
        request[TRACE] = trace
        response = await handler(request)
        if span is not None:
            gone = request.transport is None or request.transport.is_closing()
            _tell(span, "client_gone" if gone else response.status, error_code_min=500)
        return response


def make_provider(service: str, endpoint: str) -> TracerProvider:
    """A provider that sends to the collector at that base URL."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    delay = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else BATCH_DELAY_MS
    exporter = OTLPSpanExporter(endpoint.rstrip("/") + TRACES_PATH)
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
    return provider


def shut_down(provider: TracerProvider) -> None:
    """Send what waits, within a time."""
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(SHUTDOWN_SECONDS_MAX)


def _tell(span: otel.Span, outcome: int | str, *, error_code_min: int) -> None:
    if isinstance(outcome, int):
        span.set_attribute("http.response.status_code", outcome)
        if outcome < error_code_min:
            return
    span.set_attribute("error.type", str(outcome))
    span.set_status(Status(StatusCode.ERROR))


def _ids(span: otel.Span) -> tuple[str, str, str]:
    told = span.get_span_context()
    flags = int(told.trace_flags)
    return f"{told.trace_id:032x}", f"{told.span_id:016x}", f"{flags:02x}"


def _context(trace: Trace) -> Context:
    """Below the span that the trace names; the root of the trace where it names none."""
    if not trace.span_id:
        return Context()
    parent = SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(trace.flags, 16)),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
    return otel.set_span_in_context(NonRecordingSpan(parent), Context())
