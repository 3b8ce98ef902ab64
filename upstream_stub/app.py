"""The HTTP edge of this neighbour."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry.trace import TracerProvider

from stage.wire import headers as h
from stage.wire.chain import ChainView
from stage.wire.envelope import check_saga_id, new_saga_id
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError
from stage.wire.replies import decode_compensate
from stage.wire.strict_json import decode_object
from stage.wire.views import encode_view
from upstream_stub.books import Saga, State
from upstream_stub.head import Head
from upstream_stub.script import Script, ScriptName, Scripts
from upstream_stub.spans import SPANS, TRACE, Spans, traced
from upstream_stub.stage_client import StageClient
from upstream_stub.trace import read_trace

BUDGET_SECONDS = 20.0
PATIENCE_SECONDS = 5.0
RETRY_AFTER_SECONDS = "1"

HEAD = web.AppKey("HEAD", Head)

ORDER_CODES = {
    State.COMPLETED: 200,
    State.COMPENSATED: 409,
    State.FAILED_TO_COMPENSATE: 500,
}
COMPENSATE_CODES = {State.COMPENSATED: 200, State.FAILED_TO_COMPENSATE: 409}


def make_app(
    *,
    name: str,
    stage: str,
    budget_seconds: float = BUDGET_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
    script: Script | None = None,
    tracer_provider: TracerProvider | None = None,
) -> web.Application:
    """The neighbour called `name`, whose downstream stage is at the URL `stage`.

    `budget_seconds` is given to a saga, `patience_seconds` to one request of it. Spans are made
    by the `tracer_provider`, if there is one.
    """
    spans = Spans(tracer_provider)
    client = StageClient(stage, patience_seconds, spans)
    head = Head(name, client, Scripts(script or Script(ScriptName.ACCEPT)), budget_seconds)

    async def live(_app: web.Application) -> AsyncIterator[None]:
        async with client.open():
            yield
            await head.close()

    app = web.Application(
        middlewares=[traced, problems], client_max_size=DEFAULT_LIMITS.body_bytes_max
    )
    app[HEAD] = head
    app[SPANS] = spans
    app.cleanup_ctx.append(live)
    app.add_routes(
        [
            web.post("/orders", post_order),
            web.get("/sagas", get_sagas),
            web.get("/sagas/{saga_id}", get_saga),
            web.post("/sagas/{saga_id}/compensate", post_compensate),
            web.put("/script", put_script),
            web.get("/script", get_scripts),
        ]
    )
    return app


async def post_order(request: web.Request) -> web.Response:
    """Start a saga for the order in the body, and answer with its outcome.

    `Saga-Id` chooses the id, `Saga-Budget-Ms` shortens the budget, and `Prefer` may say how long
    to wait. 200, 409 and 500 are ends; 202 and 504 say that it still runs, within and behind its
    budget.
    """
    head = request.app[HEAD]
    h.check_content_type(
        request.headers.get("Content-Type"), request.headers.get("Content-Encoding")
    )
    order = decode_object(await request.read(), DEFAULT_LIMITS)
    saga_id = check_saga_id(request.headers.get(h.SAGA_ID) or new_saga_id())
    budget = h.parse_budget_ms(request.headers.getall(h.SAGA_BUDGET_MS, []))
    prefer = h.parse_prefer(request.headers.getall(h.PREFER, []))
    known = head.find(saga_id)
    replayed = known is not None and known.state in ORDER_CODES
    budget = head.budget_seconds if budget is None else min(budget, head.budget_seconds)

    saga = head.start(saga_id, order, request[TRACE], budget)
    wait = budget + head.patience_seconds if prefer.wait is None else prefer.wait
    await head.ended(saga, 0.0 if prefer.respond_async else wait)
    response = _order_response(saga)
    if replayed:
        response.headers[h.IDEMPOTENCY_REPLAYED] = "true"
    return response


async def post_compensate(request: web.Request) -> web.Response:
    """Compensate a saga: 200 nothing stands, 202 still at it, 409 cannot, 503 by script."""
    saga_id = check_saga_id(request.match_info["saga_id"])
    asked = decode_compensate(await request.read(), DEFAULT_LIMITS)
    saga = await request.app[HEAD].compensate(saga_id, asked, request[TRACE])
    status = COMPENSATE_CODES.get(saga.state, 202)
    if status == 409:
        return problem_response(
            Problem(
                title="Cannot compensate",
                status=409,
                detail=saga.reason,
                outcome=Outcome.UNKNOWN,
                saga_id=saga_id,
                trace_id=saga.trace.trace_id,
                stands=saga.stands,
            )
        )
    response = web.json_response({"saga_id": saga_id, "outcome": saga.outcome}, status=status)
    return _still_running(response, saga) if status == 202 else response


async def get_sagas(request: web.Request) -> web.Response:
    """What this neighbour saw: `{"sagas": [...]}` in the order in which they were first seen."""
    return web.json_response({"sagas": [saga.told() for saga in request.app[HEAD]]})


async def get_saga(request: web.Request) -> web.Response:
    """One saga, or 404."""
    saga = request.app[HEAD].find(request.match_info["saga_id"])
    if saga is None:
        raise WireError(404, "Unknown saga", "this neighbour never saw it")
    if request.query.get("view") == "chain":
        story = saga.story(request.app[HEAD].name)
        view = ChainView(saga_id=saga.saga_id, stages=[story])
        return web.Response(body=encode_view(view), content_type=h.CONTENT_JSON)
    return web.json_response(saga.told())


async def put_script(request: web.Request) -> web.Response:
    """Behave as the body says from now on, and answer with all scripts that stand."""
    try:
        script = msgspec.json.decode(await request.read(), type=Script)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(400, "Not a script", str(error)) from None
    request.app[HEAD].scripts.put(script)
    return await get_scripts(request)


async def get_scripts(request: web.Request) -> web.Response:
    """The scripts that stand, one a match."""
    scripts = [msgspec.to_builtins(script) for script in request.app[HEAD].scripts]
    return web.json_response({"scripts": scripts})


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with a problem that carries the trace id, if the request named one."""
    trace = read_trace(request.headers)
    trace_id = trace.trace_id if trace is not None else None
    try:
        return await handler(request)
    except WireError as error:
        saga_id = request.match_info.get("saga_id")
        problem = error.problem(saga_id=saga_id, trace_id=trace_id)
    except web.HTTPError as error:
        problem = Problem(
            title=error.reason,
            status=error.status,
            outcome=Outcome.NOT_EXECUTED,
            trace_id=trace_id,
        )
    return problem_response(problem)


def problem_response(problem: Problem) -> web.Response:
    """A problem on its way out; one that may be tried again says when."""
    headers = {h.RETRY_AFTER: RETRY_AFTER_SECONDS} if problem.retryable else {}
    return web.Response(
        status=problem.status, body=problem.encode(), content_type=CONTENT_TYPE, headers=headers
    )


def _order_response(saga: Saga) -> web.Response:
    late = saga.state is State.COMPENSATING
    status = ORDER_CODES.get(saga.state, 504 if late else 202)
    body = {
        "saga_id": saga.saga_id,
        "outcome": saga.outcome,
        "state": saga.state,
        "data": saga.data,
        "trace_id": saga.trace.trace_id,
        "attempts": saga.attempts,
        "reason": saga.reason,
        "stands": saga.stands,
    }
    response = web.json_response(body, status=status)
    return _still_running(response, saga) if status == 202 else response


def _still_running(response: web.Response, saga: Saga) -> web.Response:
    response.headers[h.LOCATION] = f"/sagas/{saga.saga_id}"
    response.headers[h.RETRY_AFTER] = RETRY_AFTER_SECONDS
    return response
