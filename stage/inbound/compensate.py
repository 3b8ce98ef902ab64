"""`POST /sagas/{id}/compensate`: undo it, asked from either side (protocol 3.4)."""

from __future__ import annotations

import msgspec
from aiohttp import web

from stage.core.questions import past_pivot
from stage.core.states import SagaState
from stage.inbound.execute import accepted_response
from stage.inbound.middleware import link_saga, problem_response
from stage.inbound.read import check_type, read_any_body, saga_id_of, wait_of
from stage.inbound.service import EDGE, SPAN
from stage.ports.engine import Snapshot
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem
from stage.wire.replies import decode_compensate

WAIT_SECONDS = 10.0


async def compensate(request: web.Request) -> web.Response:
    """Make the request durable, wait a while for the end, and say how it stands."""
    edge = request.app[EDGE]
    saga_id = saga_id_of(request)
    body = await read_any_body(request, edge)
    if body:
        check_type(request)
    asked = decode_compensate(body, edge.limits)
    wait, respond_async = wait_of(request, WAIT_SECONDS, edge.wait_seconds_max)
    snapshot = await edge.engine.compensate(
        saga_id,
        requested_by=asked.requested_by,
        reason=asked.reason,
        trace=request[SPAN].context,
        wait_seconds=0.0 if respond_async else wait,
    )
    link_saga(request, snapshot.row.traceparent)
    saga = snapshot.saga
    if saga.forgotten and snapshot.row.answer_status is not None:
        return web.Response(status=410, body=snapshot.row.answer_body, content_type=CONTENT_TYPE)
    if saga.state is SagaState.COMPENSATED:
        answer = msgspec.json.encode({"saga_id": saga_id, "outcome": Outcome.COMPENSATED})
        response = web.Response(status=200, body=answer, content_type=h.CONTENT_JSON)
        response.headers[h.SAGA_ID] = saga_id
        return response
    closed = snapshot.row.closed_at is not None
    behind = past_pivot(edge.participant.plan, saga)
    if closed or behind or saga.state is SagaState.FAILED_TO_COMPENSATE:
        return problem_response(_cannot(edge.participant.plan.stage, snapshot), request)
    return accepted_response(request, saga_id)


def _cannot(stage: str, snapshot: Snapshot) -> Problem:
    saga = snapshot.saga
    if saga.state is SagaState.FAILED_TO_COMPENSATE:
        detail = f"stage {stage} could not undo: {', '.join(saga.stands)}"
        outcome = Outcome.UNKNOWN
        stands: tuple[str, ...] = saga.stands
        hint = "compensate yourself; an operator here has to settle what stands"
    elif snapshot.row.closed_at is not None:
        detail = f"stage {stage} completed it longer ago than its compensation window"
        outcome, stands = Outcome.EXECUTED, ()
        hint = "GET /.well-known/stage shows the window; this saga cannot be undone any more"
    else:
        detail = f"stage {stage} is behind its pivot and only goes forward"
        outcome, stands = Outcome.EXECUTED, tuple(sorted(saga.steps))
        hint = "this saga cannot be undone any more; GET it to see how it goes on"
    return Problem(
        status=409,
        title="Cannot compensate",
        detail=detail,
        outcome=outcome,
        retryable=False,
        saga_id=saga.id,
        trace_id=snapshot.row.trace.trace_id or None,
        hint=hint,
        stands=stands,
    )
