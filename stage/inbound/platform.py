"""What the platform and neighbours ask: liveness, readiness, metrics, the descriptor."""

from __future__ import annotations

import msgspec
from aiohttp import web

from stage.inbound.middleware import problem_response
from stage.inbound.service import EDGE
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem


async def healthz(request: web.Request) -> web.Response:
    """200 while the process serves."""
    return web.Response(body=b'{"status":"ok"}', content_type=h.CONTENT_JSON)


async def readyz(request: web.Request) -> web.Response:
    """200 when new sagas are taken, else 503."""
    if request.app[EDGE].engine.ready:
        return web.Response(body=b'{"status":"ready"}', content_type=h.CONTENT_JSON)
    problem = Problem(
        status=503,
        title="Not ready",
        detail="starting, draining, or the database is away",
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
        hint="ask again",
    )
    response = problem_response(problem, request)
    response.headers[h.RETRY_AFTER] = "1"
    return response


async def metrics(request: web.Request) -> web.Response:
    """What is counted, as Prometheus text or OpenMetrics."""
    body, content_type = await request.app[EDGE].metrics(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def descriptor(request: web.Request) -> web.Response:
    """What this stage accepts, adds and limits."""
    body = msgspec.json.encode(request.app[EDGE].descriptor)
    return web.Response(body=body, content_type=h.CONTENT_JSON)
