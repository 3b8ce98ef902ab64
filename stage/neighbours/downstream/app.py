"""The HTTP endpoints of the neighbour downstream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from aiohttp import web
from opentelemetry.trace import TracerProvider

from stage.neighbours.downstream.books import OUTCOMES, Answer, Silence
from stage.neighbours.downstream.participant import Participant
from stage.neighbours.downstream.script import Script, ScriptName, scripts_with
from stage.neighbours.downstream.upstream import Upstream
from stage.neighbours.shared.no_store import no_store
from stage.neighbours.shared.problems import problems
from stage.neighbours.shared.scripts import decode_script
from stage.neighbours.shared.shared_sagas import Shared, shared_page
from stage.neighbours.shared.silence import drop, hang
from stage.neighbours.shared.spans import SPANS, TRACE, Spans, traced
from stage.neighbours.shared.tokens import Keys
from stage.wire import headers as h
from stage.wire.chain import ChainView
from stage.wire.envelope import check_saga_id, decode_envelope
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.problem import WireError
from stage.wire.replies import decode_compensate
from stage.wire.shared import Side
from stage.wire.views import encode_view

PARTICIPANT = web.AppKey("PARTICIPANT", Participant)


def make_app(
    *,
    name: str,
    upstream: str,
    script: Script | None = None,
    keys: Keys = Keys(),  # noqa: B008 - it is frozen
    tracer_provider: TracerProvider | None = None,
) -> web.Application:
    """The neighbour called `name`, whose upstream stage is at the URL `upstream`.

    The `tracer_provider` makes the spans; without one there are none.
    """
    spans = Spans(tracer_provider)
    above = Upstream(upstream, spans, keys)
    participant = Participant(name, scripts_with(script), above)

    async def live(_app: web.Application) -> AsyncIterator[None]:
        async with above.open():
            yield
            await participant.close()

    app = web.Application(
        middlewares=[traced, problems, keys.guard()], client_max_size=DEFAULT_LIMITS.body_bytes_max
    )
    app[PARTICIPANT] = participant
    app[SPANS] = spans
    app.cleanup_ctx.append(live)
    app.on_response_prepare.append(no_store)
    app.add_routes(
        [
            web.post("/sagas", post_saga),
            web.get("/sagas", get_sagas, allow_head=False),
            web.get("/sagas/{saga_id}", get_saga, allow_head=False),
            web.post("/sagas/{saga_id}/compensate", post_compensate),
            web.put("/script", put_script),
            web.get("/script", get_scripts, allow_head=False),
        ]
    )
    return app


async def post_saga(request: web.Request) -> web.StreamResponse:
    """Run this neighbour for the saga in the body."""
    h.check_content_type(
        request.headers.get("Content-Type"), request.headers.get("Content-Encoding")
    )
    envelope = decode_envelope(await request.read(), DEFAULT_LIMITS)
    h.check_idempotency_key(request.headers.getall(h.IDEMPOTENCY_KEY, []), envelope.saga_id)
    budget = h.parse_budget_ms(request.headers.getall(h.SAGA_BUDGET_MS, []))
    late = budget == 0 if budget is not None else _is_over(envelope.deadline)
    answer = await request.app[PARTICIPANT].execute(envelope, request[TRACE], late=late)
    match answer:
        case Silence.HANG:
            return await hang(request)
        case Silence.DROP:
            return drop(request)
        case Answer():
            return respond(answer)


def _is_over(deadline: float | None) -> bool:
    """Without a budget, which alone holds where it is given (protocol 3.1)."""
    return deadline is not None and deadline <= time.time()


async def post_compensate(request: web.Request) -> web.Response:
    """Undo a saga for any requester; the body may be left out."""
    h.check_content_type(
        request.headers.get("Content-Type"), request.headers.get("Content-Encoding")
    )
    saga_id = request.match_info["saga_id"]
    check_saga_id(saga_id)
    asked = decode_compensate(await request.read(), DEFAULT_LIMITS)
    participant = request.app[PARTICIPANT]
    return respond(participant.compensate(saga_id, asked, request[TRACE]))


async def get_sagas(request: web.Request) -> web.Response:
    """The books: `{"sagas": [...]}` in the order in which they were first seen.

    With `?since=` those that are shared with the stage.
    """
    participant = request.app[PARTICIPANT]
    if "since" in request.query:
        shared = [
            Shared(saga.envelope, OUTCOMES[saga.state], saga.opened_at, saga.changed_at)
            for saga in participant.books
            if saga.envelope is not None
        ]
        return shared_page(request, participant.name, Side.DOWNSTREAM, shared)
    sagas = [saga.as_json() for saga in participant.books]
    return web.json_response({"sagas": sagas})


async def get_saga(request: web.Request) -> web.Response:
    """One entry of the books, or 404."""
    saga = request.app[PARTICIPANT].books.find(request.match_info["saga_id"])
    if saga is None:
        raise WireError(404, "Unknown saga", "this neighbour never saw it")
    if request.query.get("view") == "chain":
        story = saga.story(request.app[PARTICIPANT].name)
        view = ChainView(saga_id=saga.saga_id, stages=[story])
        return web.Response(body=encode_view(view), content_type=h.CONTENT_JSON)
    return web.json_response(saga.as_json())


async def put_script(request: web.Request) -> web.Response:
    """Behave as the body says from now on, and answer with all scripts that stand."""
    script = decode_script(await request.read(), Script, ScriptName)
    request.app[PARTICIPANT].scripts.put(script)
    return await get_scripts(request)


async def get_scripts(request: web.Request) -> web.Response:
    """The scripts that stand, one for each match."""
    return web.json_response(request.app[PARTICIPANT].scripts.as_json())


def respond(answer: Answer) -> web.Response:
    """A stored answer as a response."""
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type=answer.content_type,
        headers=answer.headers,
    )
