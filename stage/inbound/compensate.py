"""`POST /sagas/{id}/compensate`: undo it, asked from either side (protocol 3.4)."""

from __future__ import annotations

from stage.core.questions import past_pivot, standing_apart
from stage.core.states import SagaState
from stage.core.steps import FORWARD_PREFIX, Plan
from stage.inbound.caller import as_requester
from stage.inbound.problems import problem_answer
from stage.inbound.read import read_json, saga_id_of, wait_of
from stage.inbound.request import PROBLEM_JSON, Answer, Request, json_answer
from stage.inbound.service import Service
from stage.inbound.standing import accepted, link_saga
from stage.ports.engine import Snapshot
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType
from stage.wire.replies import decode_compensate
from stage.wire.views import Standing

WAIT_SECONDS = 10.0


async def compensate(service: Service, request: Request) -> Answer:
    """Make the request durable, wait a while for the end, and say how it stands."""
    saga_id = saga_id_of(request)
    body = await read_json(request)
    asked, requester = as_requester(
        request.about.principal, decode_compensate(body, service.limits)
    )
    wait, respond_async = wait_of(request, WAIT_SECONDS, service.wait_seconds_max)
    steps = service.participant.plan.by_name
    if asked.outcome is None and FORWARD_PREFIX + asked.requested_by in steps:
        wait = 0.0  # it is asked in turn, and may hold a lock until this is answered
    with service.admission.watch(0.0 if respond_async else wait) as seconds:
        snapshot = await service.engine.compensate(
            saga_id,
            asked=asked,
            requester=requester,
            trace=request.about.span.context,
            wait_seconds=seconds,
        )
    link_saga(request, snapshot.row.traceparent)
    saga = snapshot.saga
    if saga.forgotten and snapshot.row.answer_status is not None:
        return Answer(status=410, headers=(PROBLEM_JSON,), body=snapshot.row.answer_body)
    if saga.state is SagaState.COMPENSATED:
        return json_answer(Standing(saga_id=saga_id, outcome=Outcome.COMPENSATED))
    closed = snapshot.row.closed_at is not None
    plan = saga.under(service.participant.plan)
    misfit = bool(plan.misfit) and not plan.newer
    if closed or misfit or past_pivot(plan, saga) or saga.state is SagaState.FAILED_TO_COMPENSATE:
        return problem_answer(request, _cannot(plan, snapshot))
    return accepted(request, f"../{saga_id}")


def _cannot(plan: Plan, snapshot: Snapshot) -> Problem:
    stage, saga = plan.stage, snapshot.saga
    stands, may_stand = standing_apart(plan, saga)
    if saga.state is SagaState.FAILED_TO_COMPENSATE:
        detail = f"stage {stage} could not undo: {', '.join(saga.stands)}"
        outcome = Outcome.UNKNOWN
        hint = "compensate yourself; an operator here has to settle what stands"
    elif plan.misfit:
        detail = f"no version of stage {stage} that runs now knows how to undo it"
        outcome = Outcome.UNKNOWN
        hint = "the request is kept; an operator here has to deploy that version, or to end it"
    elif snapshot.row.closed_at is not None:
        detail = f"stage {stage} completed it longer ago than its compensation window"
        outcome = Outcome.EXECUTED
        hint = "GET /.well-known/stage shows the window; this saga cannot be undone any more"
    else:
        detail = f"stage {stage} is behind its pivot and only goes forward"
        outcome = Outcome.EXECUTED
        stands = tuple(name for name in sorted(saga.steps) if name not in may_stand)
        hint = "this saga cannot be undone any more; GET it to see how it goes on"
    return Problem(
        type=ProblemType.CANNOT_COMPENSATE,
        status=409,
        title="Cannot compensate",
        detail=detail,
        outcome=outcome,
        retryable=False,
        saga_id=saga.id,
        trace_id=snapshot.row.trace.trace_id or None,
        hint=hint,
        stands=stands,
        may_stand=may_stand or None,
    )
