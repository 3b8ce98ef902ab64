"""Which verbs an operator may press on one saga now, and why not the others: `?view=verbs`."""

from __future__ import annotations

from typing import Final

import msgspec

from stage.core import events as e
from stage.core.errors import JournalMismatch
from stage.core.machine import asked_before
from stage.core.questions import leaves_something, past_pivot, pivot_undecided
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import Phase, SagaState
from stage.core.steps import Plan
from stage.core.verbs import left_standing, made_anew, resolvable, with_ways_out
from stage.inbound.caller import permit
from stage.inbound.principal import Who
from stage.inbound.request import Request
from stage.inbound.service import Service
from stage.inbound.views import LEFT, left_to_another
from stage.ports.engine import NotAllowed, Snapshot
from stage.wire.problem import WireError
from stage.wire.views import VerbsView, VerbView

WHO: Final = {
    "retry": Who.OPERATOR,
    "approve": Who.OPERATOR,
    "reject": Who.OPERATOR,
    "settle": Who.ADMIN,
    "compensate": Who.OPERATOR,
    "resolve": Who.ADMIN,
    "abandon": Who.ADMIN,
    "forget": Who.ADMIN,
    "erase": Who.ADMIN,
}
"""The verbs in the order of the harm that they may do, each with the role that it needs."""
DOUBTFUL: Final = frozenset(
    {Phase.IN_DOUBT, Phase.PENDING, Phase.WAITING, Phase.REFUSED, Phase.STARTED, Phase.PROBING}
)
"""Phases in which a step may be settled: the machine says which of them are."""
CLOSED: Final = "it is closed: what was kept to undo it is dropped"
NOTHING_STANDS: Final = "it is compensated: nothing of it stands"
DECISIONS: Final[dict[str, type[e.Approved | e.Rejected]]] = {
    "approve": e.Approved,
    "reject": e.Rejected,
}
NOBODY: Final = "preview"


async def verbs_view(service: Service, request: Request, snapshot: Snapshot) -> VerbsView:
    """Each verb as a dry run would be answered for this caller; nothing is changed."""
    verbs = [await _verb(service, request, snapshot, name) for name in WHO]
    return VerbsView(saga_id=snapshot.row.id, state=snapshot.saga.state.value, verbs=verbs)


async def _verb(service: Service, request: Request, snapshot: Snapshot, name: str) -> VerbView:
    try:
        permit(request.about.principal, frozenset({WHO[name]}))
    except WireError as error:
        return VerbView(verb=name, why_not=error.detail)
    if left_to_another(snapshot):
        return VerbView(verb=name, why_not=LEFT)
    if name in DECISIONS:
        return await _decision(service, snapshot, name)
    if name == "settle":
        return await _settle(service, snapshot)
    if name == "compensate":
        return VerbView(verb=name, why_not=_why_not_compensated(service, snapshot))
    return VerbView(
        verb=name,
        why_not=await _why_not(service, snapshot, name),
        steps=_steps(service, snapshot, name),
    )


async def _settle(service: Service, snapshot: Snapshot) -> VerbView:
    why_not: str | None = "no step of it is in doubt"
    steps = []
    for name, step in snapshot.saga.steps.items():
        if step.phase in DOUBTFUL:
            verb = e.Settled(
                at=service.clock.now(),
                actor=NOBODY,
                why=NOBODY,
                step=name,
                landed=False,
                result=msgspec.Raw(b"null"),
            )
            refused = await _dry(service, snapshot, verb)
            if refused is None:
                steps.append(name)
            else:
                why_not = refused
    return VerbView(verb="settle", why_not=None if steps else why_not, steps=steps)


async def _decision(service: Service, snapshot: Snapshot, name: str) -> VerbView:
    """At most one step of a saga awaits approval: it runs beside no other."""
    for step, known in snapshot.saga.steps.items():
        if known.phase is Phase.AWAITING_APPROVAL:
            at = service.clock.now()
            verb = DECISIONS[name](at=at, actor=NOBODY, why=NOBODY, step=step)
            refused = await _dry(service, snapshot, verb)
            shown = None if known.shown is None else msgspec.json.decode(known.shown)
            return VerbView(
                verb=name,
                why_not=refused,
                steps=[step] if refused is None else [],
                shown=shown if refused is None else None,
            )
    return VerbView(verb=name, why_not="no step of it awaits approval")


def _why_not_compensated(service: Service, snapshot: Snapshot) -> str | None:
    saga, row = snapshot.saga, snapshot.row
    if not snapshot.readable and row.closed_at is None:
        return row.parked or "its journal cannot be read"
    if row.closed_at is not None or saga.forgotten:
        gone = NOTHING_STANDS if saga.state is SagaState.COMPENSATED else CLOSED
        return row.parked or gone
    return why_not_turned_back(saga.under(service.participant.plan), saga)


def why_not_turned_back(plan: Plan, saga: Saga) -> str | None:
    """Why a request to compensate changes nothing of a saga that is not closed, and the way out."""
    asked = e.CompensationRequested(
        at=saga.updated_at, requested_by=f"operator {NOBODY}", requester=Requester.OPERATOR
    )
    if saga.state is SagaState.FAILED_TO_COMPENSATE:
        return "it has turned back, and something could not be undone: retry that, or resolve it"
    if saga.state is SagaState.COMPENSATED:
        why = NOTHING_STANDS
    elif plan.misfit:
        why = "no version that is declared here knows how to undo it: deploy the one that does"
    elif past_pivot(plan, saga):
        why = "it is behind its pivot, where the stage only goes forward"
    elif saga.parked and pivot_undecided(plan, saga):
        return "nobody knows whether its pivot has happened: settle that first"
    elif saga.parked and asked_before(plan, saga, asked):
        why = "it has turned back already, and waits for a person"
    else:
        return None
    return with_ways_out(plan, saga, why) if saga.parked else why


async def _why_not(service: Service, snapshot: Snapshot, name: str) -> str | None:
    if name == "erase":
        try:
            await service.engine.erase(snapshot.row.id, actor=NOBODY, reason=NOBODY, dry_run=True)
        except NotAllowed as error:
            return str(error)
        return None
    kinds = {
        "retry": e.Retried,
        "resolve": e.Resolved,
        "abandon": e.Abandoned,
        "forget": e.Forgotten,
    }
    at = service.clock.now()
    return await _dry(service, snapshot, kinds[name](at=at, actor=NOBODY, why=NOBODY))


async def _dry(service: Service, snapshot: Snapshot, verb: e.Verb) -> str | None:
    try:
        await service.engine.operate(snapshot.row.id, verb, dry_run=True)
    except (NotAllowed, JournalMismatch) as error:
        return str(error)
    return None


def _steps(service: Service, snapshot: Snapshot, name: str) -> list[str]:
    """The steps that it may name, instead of all of them; a retry, where it is made anew."""
    plan = snapshot.saga.under(service.participant.plan)
    if name == "retry":
        return [] if plan.misfit else made_anew(plan, snapshot.saga)
    if name == "resolve":
        steps = snapshot.saga.steps.items()
        held = [name for name, step in steps if step.phase is Phase.COMPENSATING]
        return [*resolvable(plan, snapshot.saga), *held]
    if name == "abandon" and not past_pivot(plan, snapshot.saga):  # behind it only as a whole
        left = left_standing(plan, snapshot.saga)
        return [name for name in left if leaves_something(plan, name)]
    return []
