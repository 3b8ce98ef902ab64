"""The door for late failures: a stage asks its upstream, the orchestrator, to compensate a saga.

It answers 202 once Temporal has the request, and 503 while Temporal is away; the stage asks again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from temporalio.service import RPCError

from stage.inbound.aiohttp import SERVER_HEADER, expect_later, read_body
from stage.inbound.aiohttp_connection import ServerLimits
from stage.inbound.aiohttp_runner import BoundedRunner
from stage.inbound.aiohttp_server import Reports
from stage.inbound.caller import Callers, permit
from stage.inbound.front_door import Hosts, check_page, check_posted
from stage.inbound.principal import Kind, Who
from stage.inbound.problems import CHALLENGE, of_status
from stage.inbound.request import Request
from stage.orchestrators.temporal.client import Chain
from stage.orchestrators.temporal.workflow import CompensateAsk
from stage.telemetry import logs
from stage.telemetry.current import joined
from stage.wire.envelope import check_saga_id
from stage.wire.headers import CACHE_CONTROL, CONTENT_JSON, RETRY_AFTER, check_content_type
from stage.wire.http import SAFE_METHODS
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError
from stage.wire.replies import CompensateRequest, decode_compensate

LIMITS = ServerLimits(connections_max=500)
"""The stages of one chain are its callers, and 1,024 descriptors are a usual limit."""
LISTEN_BACKLOG = 128
BODY_SECONDS_MAX = 10.0
RETRY_AFTER_SECONDS = 1
_DOWNSTREAM = frozenset({Who.DOWNSTREAM})


class Door:
    """Takes requests to compensate. `chain` has all stages, in order: it names those to ask."""

    def __init__(self, chain: Chain, stages: Collection[str], callers: Callers) -> None:
        self._chain = chain
        self._stages = stages
        self._callers = callers
        self._hosts = Hosts()

    @asynccontextmanager
    async def open(self, host: str, port: int) -> AsyncIterator[None]:
        """Listen within. Raises OSError when the port cannot be had."""
        runner = BoundedRunner(self.make_app(), LIMITS, Reports(logs.report_turned_away))
        await runner.setup()
        try:
            await runner.listen(host, port, LISTEN_BACKLOG)
            yield
        finally:
            await runner.cleanup()

    def make_app(self) -> web.Application:
        """Its one route, as an application."""
        app = web.Application(middlewares=[_problems], handler_args={"auto_decompress": False})
        path = "/sagas/{saga_id}/compensate"
        app.router.add_post(path, self._compensate, expect_handler=expect_later)
        return app

    async def _compensate(self, request: web.Request) -> web.Response:
        name = await self._caller(request)
        saga_id = check_saga_id(request.match_info["saga_id"])
        limits = DEFAULT_LIMITS
        body = await read_body(request, limits.command_bytes_max, BODY_SECONDS_MAX)
        asked = decode_compensate(body, limits)
        with joined(list(request.headers.items())):
            try:
                await self._chain.compensate(saga_id, self._ask(name, asked))
            except RPCError as error:
                raise WireError(
                    503,
                    "Not now",
                    f"Temporal does not answer ({error.status.name})",
                    outcome=Outcome.UNKNOWN,
                    retryable=True,
                ) from None
        body = msgspec.json.encode({"saga_id": saga_id, "outcome": Outcome.IN_PROGRESS})
        headers = {RETRY_AFTER: str(RETRY_AFTER_SECONDS)}
        return web.Response(status=202, body=body, content_type=CONTENT_JSON, headers=headers)

    async def _caller(self, request: web.Request) -> str | None:
        """The name of the stage that asks; None where every claim is believed.

        Raises WireError for a caller that is none of the stages, and for a page of a stranger,
        as a stage does. Where every claim is believed only loopback is listened at, under its own
        names; anywhere else a gateway may give the door any name.
        """
        received = Request(method=request.method, path=request.path, headers=request.headers)
        principal = await self._callers.identify(received)
        if principal.kind is Kind.CLAIMED:
            self._hosts.check(received)
        check_page(received)
        permit(principal, _DOWNSTREAM)
        check_posted(received)
        for encoding in request.headers.getall("Content-Encoding", ()):
            check_content_type(CONTENT_JSON, encoding)
        return None if principal.kind is Kind.CLAIMED else principal.name

    def _ask(self, name: str | None, asked: CompensateRequest) -> CompensateAsk:
        """The request under the name of its caller; only a stage has a word of its own."""
        by = asked.requested_by if name is None else name
        own_word = asked.outcome is Outcome.COMPENSATED and by in self._stages
        return CompensateAsk(requested_by=by, reason=asked.reason, own_word=own_word)


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with a problem document; the headers are those of a stage."""
    try:
        response = await handler(request)
    except WireError as error:
        response = _refused(error.problem(saga_id=request.match_info.get("saga_id"), trace_id=None))
        if error.status == HTTPStatus.UNAUTHORIZED:
            response.headers.extend((CHALLENGE,))
        if error.status == HTTPStatus.REQUEST_TIMEOUT:
            response.force_close()  # the rest of its body may never come
    except web.HTTPError as error:
        response = _refused(of_status(error.status, error.reason))
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    response.headers.extend((SERVER_HEADER,))
    if request.method in SAFE_METHODS:
        response.headers[CACHE_CONTROL] = "no-store"
    return response


def _refused(problem: Problem) -> web.StreamResponse:
    headers = {RETRY_AFTER: str(RETRY_AFTER_SECONDS)} if problem.retryable else {}
    return web.Response(
        status=problem.status, body=problem.encode(), content_type=CONTENT_TYPE, headers=headers
    )
