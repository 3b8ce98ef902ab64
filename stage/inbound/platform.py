"""What the platform and neighbours ask: liveness, readiness, metrics, the descriptor."""

from __future__ import annotations

import msgspec
from aiohttp import web

from stage.inbound.keys import EDGE
from stage.inbound.middleware import problem_response
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
    """Sagas by state and runs in memory, as Prometheus text (exposition format 0.0.4)."""
    engine = request.app[EDGE].engine
    lines = ["# HELP stage_sagas Sagas in the database by state.", "# TYPE stage_sagas gauge"]
    for state, count in sorted((await engine.count()).items()):
        lines.append(f'stage_sagas{{state="{state}"}} {count}')
    lines += [
        "# HELP stage_runs Sagas that are being run in this process.",
        "# TYPE stage_runs gauge",
        f"stage_runs {engine.live}",
        "",
    ]
    return web.Response(
        body="\n".join(lines).encode(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def descriptor(request: web.Request) -> web.Response:
    """What this stage accepts, adds and limits."""
    body = msgspec.json.encode(request.app[EDGE].descriptor)
    return web.Response(body=body, content_type=h.CONTENT_JSON)
