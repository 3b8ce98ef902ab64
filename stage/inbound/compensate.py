"""`POST /sagas/{id}/compensate`: undo it, asked from either side (protocol 3.4)."""

from __future__ import annotations

from msgspec.structs import replace

from stage.core.questions import hands_on_to, standing_apart, why_not_compensated
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import Plan, StepKind
from stage.inbound.accepted import accepted, link_saga
from stage.inbound.caller import as_requester
from stage.inbound.former_names import under_its_name
from stage.inbound.problems import problem_answer
from stage.inbound.read import read_json, saga_id_of, wait_of
from stage.inbound.request import PROBLEM_JSON, Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.engine import Snapshot
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType
from stage.wire.replies import decode_compensate
from stage.wire.views import Standing

WAIT_SECONDS = 10.0
GONE = 410


async def compensate(service: Service, request: Request) -> Answer:
    """Make the request durable, wait a while for the end, and say how it stands."""
    saga_id = saga_id_of(request)
    body = await read_json(request, service.limits.command_bytes_max)
    asked, requester = as_requester(
        request.about.principal, decode_compensate(body, service.limits)
    )
    wait, respond_async = wait_of(request, WAIT_SECONDS, service.wait_seconds_max)
    # The name of today is first: of a saga that is not here, the plan tells a downstream by it.
    names = service.neighbours.names_of(asked.requested_by)
    behind = requester is Requester.DOWNSTREAM or hands_on_to(service.participant.plan, names[0])
    if asked.outcome is None and behind:
        wait = 0.0  # it is asked in turn, and may hold a lock until this is answered
    with service.admission.watch(0.0 if respond_async else wait) as seconds:

        async def ask(name: str) -> Snapshot:
            return await service.engine.compensate(
                saga_id,
                asked=replace(asked, requested_by=name),
                requester=requester,
                trace=request.about.span.context,
                wait_seconds=seconds,
            )

        snapshot = await under_its_name(names, ask)
    link_saga(request, snapshot.row.traceparent)
    saga = snapshot.saga
    if saga.state is SagaState.COMPENSATED:
        return json_answer(Standing(saga_id=saga_id, outcome=Outcome.COMPENSATED))
    if snapshot.row.answer_status == GONE:  # forgotten while it waited for a person
        return Answer(status=GONE, headers=(PROBLEM_JSON,), body=snapshot.row.answer_body)
    plan, closed = saga.under(service.participant.plan), snapshot.row.closed_at is not None
    if why_not_compensated(plan, saga, closed=closed):
        return problem_answer(request, _cannot(plan, snapshot))
    return accepted(request, f"../{saga_id}")


def _cannot(plan: Plan, snapshot: Snapshot) -> Problem:
    saga = snapshot.saga
    stands, may_stand = standing_apart(plan, saga)
    unknown = saga.state is SagaState.FAILED_TO_COMPENSATE or _is_misfit(plan, saga)
    if not unknown and snapshot.row.closed_at is None:  # it is completed, and all of it stands
        kept = {step.name for step in plan.steps if step.kind is not StepKind.APPROVAL}
        stands = tuple(n for n in sorted(saga.steps) if n in kept and n not in may_stand)
    detail, hint = _why_not(plan, snapshot)
    return Problem(
        type=ProblemType.CANNOT_COMPENSATE,
        status=409,
        title="Cannot compensate",
        detail=detail,
        outcome=Outcome.UNKNOWN if unknown else Outcome.EXECUTED,
        retryable=False,
        saga_id=saga.id,
        trace_id=snapshot.row.trace.trace_id or None,
        hint=hint,
        stands=stands,
        may_stand=may_stand or None,
    )


def _why_not(plan: Plan, snapshot: Snapshot) -> tuple[str, str]:
    """Why it cannot be compensated, and what to do."""
    stage, saga = plan.stage, snapshot.saga
    if saga.state is SagaState.FAILED_TO_COMPENSATE:
        return (
            f"stage {stage} could not undo: {', '.join(saga.stands)}",
            "compensate yourself; an operator here has to settle what stands",
        )
    if _is_misfit(plan, saga):
        return (
            f"no version of stage {stage} that runs now knows how to undo it",
            "the request is kept; an operator here has to deploy that version, or to end it",
        )
    if snapshot.row.closed_at is not None:
        return (
            f"stage {stage} completed it, and its window is over, or its operator has closed it",
            "GET /.well-known/stage shows the window; this saga cannot be undone any more",
        )
    if saga.forgotten:
        return (
            f"stage {stage} completed it, and its operator has closed it",
            "this saga cannot be undone any more: ask the operator of that stage",
        )
    return (
        f"stage {stage} is behind its pivot and only goes forward",
        "this saga cannot be undone any more; GET it to see how it goes on",
    )


def _is_misfit(plan: Plan, saga: Saga) -> bool:
    """True where no version here can undo the saga. A forgotten misfit stays as it completed."""
    return bool(plan.misfit) and not saga.forgotten
