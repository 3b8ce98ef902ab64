"""The door for late failures: a stage asks its upstream, the orchestrator, to compensate a saga.

It answers 202 once Temporal has the request, and 503 while Temporal is away; the stage asks again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from temporalio.service import RPCError

from stage.inbound.caller import Callers, permit
from stage.inbound.principal import Kind, Who
from stage.inbound.request import Request
from stage.orchestrators.temporal.client import Chain
from stage.orchestrators.temporal.workflow import CompensateAsk
from stage.telemetry.current import joined
from stage.wire.envelope import check_saga_id
from stage.wire.headers import CONTENT_JSON, RETRY_AFTER
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError
from stage.wire.replies import CompensateRequest, decode_compensate

KEEPALIVE_SECONDS = 75.0
RETRY_AFTER_SECONDS = 1
_DOWNSTREAM = frozenset({Who.DOWNSTREAM})


class Door:
    """Takes requests to compensate. `chain` has all stages, in order: it names those to ask."""

    def __init__(self, chain: Chain, stages: Collection[str], callers: Callers) -> None:
        self._chain = chain
        self._stages = stages
        self._callers = callers

    @asynccontextmanager
    async def open(self, host: str, port: int) -> AsyncIterator[None]:
        """Listen within. Raises OSError when the port cannot be had."""
        runner = web.AppRunner(
            self.make_app(), access_log=None, keepalive_timeout=KEEPALIVE_SECONDS
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield
        finally:
            await runner.cleanup()

    def make_app(self) -> web.Application:
        """Its one route, as an application."""
        limit = DEFAULT_LIMITS.body_bytes_max
        app = web.Application(middlewares=[_problems], client_max_size=limit)
        app.router.add_post("/sagas/{saga_id}/compensate", self._compensate)
        return app

    async def _compensate(self, request: web.Request) -> web.Response:
        name = await self._caller(request)
        saga_id = check_saga_id(request.match_info["saga_id"])
        asked = decode_compensate(await request.read())
        with joined(list(request.headers.items())):
            try:
                await self._chain.compensate(saga_id, self._ask(name, asked))
            except RPCError as error:
                raise WireError(
                    503,
                    "Not now",
                    f"Temporal does not answer: {error.message}",
                    outcome=Outcome.UNKNOWN,
                    retryable=True,
                ) from None
        body = msgspec.json.encode({"saga_id": saga_id, "outcome": Outcome.IN_PROGRESS})
        headers = {RETRY_AFTER: str(RETRY_AFTER_SECONDS)}
        return web.Response(status=202, body=body, content_type=CONTENT_JSON, headers=headers)

    async def _caller(self, request: web.Request) -> str | None:
        """The name of the stage that asks; None where every claim is believed."""
        principal = await self._callers.identify(
            Request(method=request.method, path=request.path, headers=request.headers)
        )
        permit(principal, _DOWNSTREAM)
        return None if principal.kind is Kind.CLAIMED else principal.name

    def _ask(self, name: str | None, asked: CompensateRequest) -> CompensateAsk:
        """The request under the name of its caller; only a stage has a word of its own."""
        by = asked.requested_by if name is None else name
        own_word = asked.outcome is Outcome.COMPENSATED and by in self._stages
        return CompensateAsk(requested_by=by, reason=asked.reason, own_word=own_word)


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with a problem document."""
    try:
        return await handler(request)
    except WireError as error:
        problem = error.problem(saga_id=request.match_info.get("saga_id"), trace_id=None)
    except web.HTTPError as error:
        problem = Problem(title=error.reason, status=error.status, outcome=Outcome.NOT_EXECUTED)
    headers = {RETRY_AFTER: str(RETRY_AFTER_SECONDS)} if problem.retryable else {}
    return web.Response(
        status=problem.status, body=problem.encode(), content_type=CONTENT_TYPE, headers=headers
    )
