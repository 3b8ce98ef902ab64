"""A server span around every request to the payment provider."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status, StatusCode

TRACER = web.AppKey("TRACER", otel.Tracer)
W3C = TraceContextTextMapPropagator()


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle the request inside a span, in the trace that its headers name."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    with request.app[TRACER].start_as_current_span(
        f"{request.method} {route}".rstrip(),
        context=W3C.extract(request.headers, Context()),
        kind=otel.SpanKind.SERVER,
        attributes={"http.request.method": request.method, "http.route": route},
        # An answer by exception is an answer.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            if request.transport is None or request.transport.is_closing():
                span.set_attribute("error.type", "client_gone")
            else:
                span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
