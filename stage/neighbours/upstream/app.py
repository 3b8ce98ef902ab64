"""The HTTP endpoints of the neighbour upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from opentelemetry.trace import TracerProvider

from stage.neighbours.shared.no_store import no_store
from stage.neighbours.shared.problems import RETRY_AFTER_SECONDS, problem_response, problems
from stage.neighbours.shared.scripts import decode_script
from stage.neighbours.shared.shared_sagas import Shared, shared_page
from stage.neighbours.shared.spans import SPANS, TRACE, Spans, traced
from stage.neighbours.shared.tokens import Keys
from stage.neighbours.upstream.books import Saga, State
from stage.neighbours.upstream.head import Head
from stage.neighbours.upstream.script import Script, ScriptName, scripts_with
from stage.neighbours.upstream.stage_client import StageClient
from stage.wire import headers as h
from stage.wire.chain import ChainView
from stage.wire.envelope import check_saga_id, new_saga_id
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, WireError
from stage.wire.replies import decode_compensate
from stage.wire.shared import Side
from stage.wire.strict_json import decode_object
from stage.wire.views import encode_view

BUDGET_SECONDS = 20.0
PATIENCE_SECONDS = 5.0

HEAD = web.AppKey("HEAD", Head)

ORDER_CODES = {
    State.COMPLETED: 200,
    State.COMPENSATED: 409,
    State.FAILED_TO_COMPENSATE: 500,
}
OF_THE_STAGE = {
    State.COMPLETED: Outcome.EXECUTED,
    State.COMPENSATED: Outcome.COMPENSATED,
}
"""The word of the stage that this neighbour certainly has, by the state of the saga here."""
COMPENSATE_CODES = {State.COMPENSATED: 200, State.FAILED_TO_COMPENSATE: 409}


# Many because each is an option of its command line.
def make_app(
    *,
    name: str,
    stage: str,
    budget_seconds: float = BUDGET_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
    script: Script | None = None,
    keys: Keys = Keys(),  # noqa: B008 - it is frozen
    tracer_provider: TracerProvider | None = None,
) -> web.Application:
    """The neighbour called `name`, whose downstream stage is at the URL `stage`.

    A saga gets `budget_seconds`, and one request to the stage `patience_seconds`. The
    `tracer_provider` makes the spans; without one there are none.
    """
    spans = Spans(tracer_provider)
    client = StageClient(stage, patience_seconds, spans, keys)
    head = Head(name, client, scripts_with(script), budget_seconds)

    async def live(_app: web.Application) -> AsyncIterator[None]:
        async with client.open():
            yield
            await head.close()

    app = web.Application(
        middlewares=[traced, problems, keys.guard()], client_max_size=DEFAULT_LIMITS.body_bytes_max
    )
    app[HEAD] = head
    app[SPANS] = spans
    app.cleanup_ctx.append(live)
    app.on_response_prepare.append(no_store)
    _add_routes(app)
    return app


def _add_routes(app: web.Application) -> None:
    app.add_routes(
        [
            web.post("/orders", post_order),
            web.get("/sagas", get_sagas, allow_head=False),
            web.get("/sagas/{saga_id}", get_saga, allow_head=False),
            web.post("/sagas/{saga_id}/compensate", post_compensate),
            web.put("/script", put_script),
            web.get("/script", get_scripts, allow_head=False),
        ]
    )


async def post_order(request: web.Request) -> web.Response:
    """Start a saga for the order in the body, and answer with its outcome.

    `Saga-Id` chooses the id, `Saga-Budget-Ms` shortens the budget, and `Prefer` may say how long
    to wait. 200, 409 and 500 mean that the saga ended; 202 and 504 that it still runs, within its
    budget and past it.
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
    """Compensate a saga: 200 nothing stands, 202 in progress, 409 cannot, 503 by script."""
    h.check_content_type(
        request.headers.get("Content-Type"), request.headers.get("Content-Encoding")
    )
    saga_id = check_saga_id(request.match_info["saga_id"])
    asked = decode_compensate(await request.read(), DEFAULT_LIMITS)
    head = request.app[HEAD]
    if (script := head.hidden(saga_id)) is not None:
        return web.Response(status=script.code, text=script.body, content_type="text/html")
    saga = await head.compensate(saga_id, asked, request[TRACE])
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
    return _still_running(response, f"../{saga_id}") if status == 202 else response


async def get_sagas(request: web.Request) -> web.Response:
    """All sagas: `{"sagas": [...]}` in the order in which they were first seen.

    With `?since=` those that were sent to the stage.
    """
    head = request.app[HEAD]
    if "since" in request.query:
        shared = [
            Shared(
                saga.envelope,
                OF_THE_STAGE.get(saga.state, Outcome.UNKNOWN),
                saga.opened_at,
                saga.changed_at,
            )
            for saga in head
            if saga.envelope is not None and saga.attempts
        ]
        return shared_page(request, head.name, Side.UPSTREAM, shared)
    return web.json_response({"sagas": [saga.as_json() for saga in head]})


async def get_saga(request: web.Request) -> web.Response:
    """One saga, or 404."""
    saga = request.app[HEAD].find(request.match_info["saga_id"])
    if saga is None:
        raise WireError(404, "Unknown saga", "this neighbour never saw it")
    if request.query.get("view") == "chain":
        story = saga.story(request.app[HEAD].name)
        view = ChainView(saga_id=saga.saga_id, stages=[story])
        return web.Response(body=encode_view(view), content_type=h.CONTENT_JSON)
    return web.json_response(saga.as_json())


async def put_script(request: web.Request) -> web.Response:
    """Behave as the body says from now on, and answer with all scripts that stand."""
    script = decode_script(await request.read(), Script, ScriptName)
    request.app[HEAD].scripts.put(script)
    return await get_scripts(request)


async def get_scripts(request: web.Request) -> web.Response:
    """The scripts that stand, one for each match."""
    return web.json_response(request.app[HEAD].scripts.as_json())


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
    return _still_running(response, f"sagas/{saga.saga_id}") if status == 202 else response


def _still_running(response: web.Response, location: str) -> web.Response:
    response.headers[h.LOCATION] = location
    response.headers[h.RETRY_AFTER] = str(RETRY_AFTER_SECONDS)
    return response
