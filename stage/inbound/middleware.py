"""Around every request: a server span, the ids in the headers, and problem+json for every error."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from stage.core.errors import JournalMismatch, StoreUnavailable
from stage.inbound.keys import EDGE, SPAN
from stage.ports.engine import Busy
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError

UNKNOWN_ROUTE = "/?"


@web.middleware
async def edge_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its span, and every failure its problem."""
    edge = request.app[EDGE]
    route = _route(request)
    saga_id = request.match_info.get("saga_id", "")
    span = edge.observer.request(request.method, route, list(request.headers.items()), saga_id)
    request[SPAN] = span
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = problem_response(_of_http(error), request)
        for name in ("Allow",):
            if name in error.headers:
                response.headers[name] = error.headers[name]
    except WireError as error:
        response = problem_response(error.problem(saga_id=saga_id or None), request)
    except (Busy, StoreUnavailable) as error:
        response = problem_response(_not_now(error, saga_id), request)
        response.headers[h.RETRY_AFTER] = str(int(getattr(error, "retry_after", 1.0)) or 1)
    except JournalMismatch as error:
        response = problem_response(_defect(str(error), saga_id), request)
    except Exception as error:
        response = problem_response(_defect(f"{type(error).__name__} in {route}", saga_id), request)
        span.end("500", f"{type(error).__name__}: {error}")
        return response
    if span.trace_id:
        response.headers.setdefault(h.TRACE_ID, span.trace_id)
    span.end(str(response.status))
    return response


def problem_response(problem: Problem, request: web.Request) -> web.Response:
    """The problem as an answer, with the trace id of the request where it has none."""
    import msgspec

    span = request.get(SPAN)
    if problem.trace_id is None and span is not None and span.trace_id:
        problem = msgspec.structs.replace(problem, trace_id=span.trace_id)
    return web.Response(status=problem.status, body=problem.encode(), content_type=CONTENT_TYPE)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else UNKNOWN_ROUTE


def _of_http(error: web.HTTPException) -> Problem:
    hints = {
        404: "GET /openapi.json lists the endpoints",
        405: "see the Allow header",
        413: "send less; GET /.well-known/stage shows the limits",
    }
    return Problem(
        status=error.status,
        title=error.reason,
        detail=error.text or error.reason,
        outcome=Outcome.NOT_EXECUTED,
        retryable=False,
        hint=hints.get(error.status),
    )


def _not_now(error: Exception, saga_id: str) -> Problem:
    return Problem(
        status=503,
        title="Not now",
        detail=str(error),
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
        saga_id=saga_id or None,
        hint="retry under the same saga id after Retry-After seconds",
    )


def _defect(detail: str, saga_id: str) -> Problem:
    return Problem(
        status=500,
        title="Defect",
        detail=detail,
        outcome=Outcome.UNKNOWN,
        retryable=True,
        saga_id=saga_id or None,
        hint="retry under the same saga id; the log has the trace id",
    )
