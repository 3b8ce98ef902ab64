"""Every error of a neighbour is answered as a problem document (RFC 9457)."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from stage.neighbours.shared.trace import read_trace
from stage.wire.headers import RETRY_AFTER
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError

RETRY_AFTER_SECONDS = 1


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an exception with a problem that carries the trace id, if the request named one."""
    trace = read_trace(request.headers)
    trace_id = trace.trace_id if trace is not None else None
    try:
        return await handler(request)
    except WireError as error:
        saga_id = request.match_info.get("saga_id")
        return problem_response(error.problem(saga_id=saga_id, trace_id=trace_id))
    except web.HTTPError as error:
        problem = Problem(
            title=error.reason,
            status=error.status,
            outcome=Outcome.NOT_EXECUTED,
            trace_id=trace_id,
        )
        response = problem_response(problem)
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response


def problem_response(problem: Problem) -> web.Response:
    """A problem as a response; a retryable one carries Retry-After."""
    headers = {RETRY_AFTER: str(RETRY_AFTER_SECONDS)} if problem.retryable else {}
    return web.Response(
        status=problem.status, body=problem.encode(), content_type=CONTENT_TYPE, headers=headers
    )
