"""The HTTP edge of this neighbour: requests in, answers and silences out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry.trace import TracerProvider

from downstream_stub.books import Answer, Silence, answer_of
from downstream_stub.participant import Participant
from downstream_stub.script import Script, ScriptName, Scripts
from downstream_stub.spans import SPANS, TRACE, Spans, traced
from downstream_stub.trace import read_trace
from downstream_stub.upstream import Upstream
from stage.wire import headers as h
from stage.wire.chain import ChainView
from stage.wire.envelope import check_saga_id, decode_envelope
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, WireError
from stage.wire.replies import decode_compensate
from stage.wire.views import encode_view

GONE_POLL_SECONDS = 0.02
"""How often a hanging request looks whether its client went away."""

PARTICIPANT = web.AppKey("PARTICIPANT", Participant)


def make_app(
    *,
    name: str,
    upstream: str,
    script: Script | None = None,
    tracer_provider: TracerProvider | None = None,
) -> web.Application:
    """The neighbour called `name`, whose upstream stage is at the URL `upstream`.

    Spans are made by the `tracer_provider`, if there is one.
    """
    spans = Spans(tracer_provider)
    tell = Upstream(upstream, spans)
    participant = Participant(name, Scripts(script or Script(ScriptName.ACCEPT)), tell)

    async def live(_app: web.Application) -> AsyncIterator[None]:
        async with tell.open():
            yield
            await participant.close()

    app = web.Application(
        middlewares=[traced, problems], client_max_size=DEFAULT_LIMITS.body_bytes_max
    )
    app[PARTICIPANT] = participant
    app[SPANS] = spans
    app.cleanup_ctx.append(live)
    app.add_routes(
        [
            web.post("/sagas", post_saga),
            web.get("/sagas", get_sagas),
            web.get("/sagas/{saga_id}", get_saga),
            web.post("/sagas/{saga_id}/compensate", post_compensate),
            web.put("/script", put_script),
            web.get("/script", get_scripts),
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
    late = (envelope.deadline is not None and envelope.deadline <= time.time()) or budget == 0
    answer = await request.app[PARTICIPANT].execute(envelope, request[TRACE], late=late)
    match answer:
        case Silence.HANG:
            return await hang(request)
        case Silence.DROP:
            return drop(request)
        case Answer():
            return give(answer)


async def post_compensate(request: web.Request) -> web.Response:
    """Undo a saga, asked by anyone; the body may be left out."""
    saga_id = request.match_info["saga_id"]
    check_saga_id(saga_id)
    asked = decode_compensate(await request.read(), DEFAULT_LIMITS)
    participant = request.app[PARTICIPANT]
    return give(participant.compensate(saga_id, asked, request[TRACE]))


async def get_sagas(request: web.Request) -> web.Response:
    """The books: `{"sagas": [...]}` in the order in which they were first seen."""
    sagas = [saga.told() for saga in request.app[PARTICIPANT].books]
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
    return web.json_response(saga.told())


async def put_script(request: web.Request) -> web.Response:
    """Behave as the body says from now on, and answer with all scripts that stand."""
    try:
        script = msgspec.json.decode(await request.read(), type=Script)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(400, "Not a script", str(error)) from None
    request.app[PARTICIPANT].scripts.put(script)
    return await get_scripts(request)


async def get_scripts(request: web.Request) -> web.Response:
    """The scripts that stand, one a match."""
    scripts = [msgspec.to_builtins(script) for script in request.app[PARTICIPANT].scripts]
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
        return give(answer_of(error.problem(saga_id=saga_id, trace_id=trace_id)))
    except web.HTTPError as error:
        problem = Problem(
            title=error.reason,
            status=error.status,
            outcome=Outcome.NOT_EXECUTED,
            trace_id=trace_id,
        )
        return give(answer_of(problem))


def give(answer: Answer) -> web.Response:
    """An answer on its way out."""
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type=answer.content_type,
        headers=answer.headers,
    )


async def hang(request: web.Request) -> web.Response:
    """Say nothing until the client goes away (or the neighbour stops, which cancels this)."""
    # A loop that asks, because there is no event: aiohttp tells a handler of a lost client in no
    # other way than by cancelling it.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_POLL_SECONDS)
    return web.Response(status=500)


def drop(request: web.Request) -> web.Response:
    """Break the connection; the answer returned here has nobody to reach."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
