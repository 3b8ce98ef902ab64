"""Around every request: a server span, the ids in the headers, and problem+json for every error."""

from __future__ import annotations

import asyncio
from math import ceil

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError
from msgspec.structs import replace

from stage.core.errors import CommitInDoubt, JournalMismatch, StoreUnavailable
from stage.inbound.service import EDGE, SAGA_ID, SPAN
from stage.ports.engine import Busy, Unsettled
from stage.ports.observer import TraceContext
from stage.wire import headers as h
from stage.wire.envelope import SAGA_ID_RE
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError

UNKNOWN_ROUTE = "/?"


@web.middleware
async def edge_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its span, and every failure its problem."""
    edge = request.app[EDGE]
    route = _route(request)
    saga_id = request.match_info.get("saga_id", "")
    span = edge.observer.request(
        request.method,
        route,
        list(request.headers.items()),
        saga_id,
        path=request.rel_url.raw_path,
        scheme=request.scheme,
        joined=edge.joins_trace(request),
    )
    request[SPAN] = span
    edge.observer.bind(saga_id, span.context)
    raised = ""
    try:
        response = await handler(request)
    except asyncio.CancelledError:  # the process is stopping
        span.end("cancelled")
        raise
    except web.HTTPException as error:
        response = problem_response(_of_http(error), request)
        for name in ("Allow",):
            if name in error.headers:
                response.headers[name] = error.headers[name]
    except WireError as error:
        response = problem_response(error.problem(), request)
        if error.status == 408:
            response.force_close()  # the rest of the body may never come
    except (Unsettled, CommitInDoubt) as error:
        response = problem_response(_unknown("Not known", str(error)), request)
        response.headers[h.RETRY_AFTER] = "1"
    except (Busy, StoreUnavailable) as error:
        response = problem_response(_not_now(error), request)
        seconds = getattr(error, "retry_after", 1.0)
        response.headers[h.RETRY_AFTER] = str(max(1, ceil(seconds)))
    except RequestPayloadError as error:
        told = WireError(400, "Body not readable", str(error), hint="send JSON in UTF-8, as it is")
        response = problem_response(told.problem(), request)
    except JournalMismatch as error:
        response = problem_response(_unknown("Defect", str(error)), request)
    except Exception as error:
        where = f"{request.method} {route}"
        edge.observer.defect(where, _saga_id(request) or "", span.context, error)
        raised = type(error).__name__
        response = problem_response(_unknown("Defect", f"{raised} in {route}"), request)
    if span.trace_id:
        response.headers.setdefault(h.TRACE_ID, span.trace_id)
    if (about := _saga_id(request)) is not None:
        response.headers.setdefault(h.SAGA_ID, about)
    span.end(str(response.status), raised)
    return response


def link_saga(request: web.Request, traceparent: str) -> None:
    """Link the request to the trace of its saga, where it came in another one."""
    span = request[SPAN]
    if TraceContext(traceparent=traceparent).trace_id != span.trace_id:
        span.link(traceparent)


def problem_response(problem: Problem, request: web.Request) -> web.Response:
    """The problem as an answer, with the trace id of the request where it has none."""
    span = request.get(SPAN)
    if problem.trace_id is None and span is not None and span.trace_id:
        problem = replace(problem, trace_id=span.trace_id)
    if problem.saga_id is None:
        problem = replace(problem, saga_id=_saga_id(request))
    return web.Response(status=problem.status, body=problem.encode(), content_type=CONTENT_TYPE)


def _saga_id(request: web.Request) -> str | None:
    """The saga id that the body or the path names, if it is one."""
    named: str | None = request.get(SAGA_ID)
    if named is not None:
        return named  # out of an envelope, which was checked
    told = request.match_info.get("saga_id", "")
    return told if SAGA_ID_RE.fullmatch(told) else None


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


def _not_now(error: Exception) -> Problem:
    return Problem(
        status=503,
        title="Not now",
        detail=str(error),
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
        hint="retry under the same saga id after Retry-After seconds",
    )


def _unknown(title: str, detail: str) -> Problem:
    return Problem(
        status=500,
        title=title,
        detail=detail,
        outcome=Outcome.UNKNOWN,
        retryable=True,
        hint="retry under the same saga id; the log has the trace id",
    )
