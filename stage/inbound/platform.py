"""The endpoints of the platform: liveness, readiness, metrics, the descriptor."""

from __future__ import annotations

import msgspec

from stage.inbound.problems import problem_answer
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem


class Status(msgspec.Struct, frozen=True):
    """The body of the probes."""

    status: str


async def healthz(service: Service, request: Request) -> Answer:
    """200 while the process serves."""
    return json_answer(Status("ok"))


async def readyz(service: Service, request: Request) -> Answer:
    """200 when new sagas are accepted, otherwise 503."""
    if service.engine.ready:
        return json_answer(Status("ready"))
    problem = Problem(
        status=503,
        title="Not ready",
        detail="starting, draining, stuck in code that does not return, or without its database:"
        " it is away, or was restored and awaits `stage db released`",
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
        hint="ask again; the log says which of them (not_ready)",
    )
    return problem_answer(request, problem, (h.RETRY_AFTER, "1"))


async def metrics(service: Service, request: Request) -> Answer:
    """The metrics as Prometheus text or OpenMetrics."""
    body, content_type = await service.metrics(request.headers.get("Accept", ""))
    return Answer(headers=(("Content-Type", content_type),), body=body)


async def descriptor(service: Service, request: Request) -> Answer:
    """The descriptor: what this stage accepts, adds and limits."""
    return json_answer(service.descriptor)
