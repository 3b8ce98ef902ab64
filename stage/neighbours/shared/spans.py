"""Spans of a neighbour, sent by OTLP: one for each request that comes in or leaves.

Without a collector no span is made, and the trace of a saga is still passed on. Only the
OpenTelemetry API is needed, as in any small service.
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

from stage.neighbours.shared.trace import Trace, trace_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

BATCH_DELAY_MS = 500
SHUTDOWN_SECONDS_MAX = 2.0
"""How long a collector that is slow or gone may hold the exit."""
TRACES_PATH = "/v1/traces"


class ClientRequest:
    """One request on its way out: its trace headers, and the span that records its end."""

    def __init__(self, trace: Trace, span: otel.Span | None) -> None:
        self.headers = trace.headers() if span is None else trace.below(*_ids(span)).headers()
        self._span = span

    def ended(self, end: int | str) -> None:
        """Record the status of the answer, or in one word why there was none."""
        if self._span is not None:
            _record_end(self._span, end, error_code_min=400)


class Spans:
    """Makes spans with a tracer provider, or none without."""

    def __init__(self, provider: otel.TracerProvider | None = None) -> None:
        self._tracer = None if provider is None else provider.get_tracer("stage.neighbours")

    @contextmanager
    def server(self, request: web.Request) -> Iterator[tuple[Trace, otel.Span | None]]:
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
    def client(self, method: str, url: str, route: str, trace: Trace) -> Iterator[ClientRequest]:
        """A client span around a request that leaves."""
        if self._tracer is None:
            yield ClientRequest(trace, None)
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
            yield ClientRequest(trace, span)


SPANS = web.AppKey("SPANS", Spans)
TRACE = web.RequestKey("TRACE", Trace)


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its span, and the trace that its work belongs to."""
    with request.app[SPANS].server(request) as (trace, span):
        request[TRACE] = trace
        response = await handler(request)
        if span is not None:
            gone = request.transport is None or request.transport.is_closing()
            _record_end(span, "client_gone" if gone else response.status, error_code_min=500)
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
    """Send the spans that wait, for at most SHUTDOWN_SECONDS_MAX."""
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(SHUTDOWN_SECONDS_MAX)


def _record_end(span: otel.Span, end: int | str, *, error_code_min: int) -> None:
    if isinstance(end, int):
        span.set_attribute("http.response.status_code", end)
        if end < error_code_min:
            return
    span.set_attribute("error.type", str(end))
    span.set_status(Status(StatusCode.ERROR))


def _ids(span: otel.Span) -> tuple[str, str, str]:
    context = span.get_span_context()
    flags = int(context.trace_flags)
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{flags:02x}"


def _context(trace: Trace) -> Context:
    """A context below the span that the trace names, or an empty one if it names none."""
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
