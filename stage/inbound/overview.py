"""`GET /groups`, `/peers` and `/audit`: what waits, for whom, and what people did about it."""

from __future__ import annotations

from msgspec.structs import replace

from stage.core.pause import INTAKE
from stage.core.place import UPSTREAMS
from stage.core.states import SagaState, StepKind
from stage.inbound.filters import not_understood, whole_number
from stage.inbound.former_names import name_of_today, step_of_today
from stage.inbound.pauses import targets_of
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.peers import PeerStanding
from stage.ports.stage import family_of
from stage.ports.store import Act, Group, each_place_once
from stage.wire.envelope import format_instant, optional_instant
from stage.wire.views import ActPage, ActView, GroupsView, GroupView, PeersView, PeerView

ACTS_MAX = 500
ACTS = 100


async def groups(service: Service, request: Request) -> Answer:
    """Every saga that waits or is parked, counted by cause, step, peer and state."""
    now, approvals = service.clock.now(), _approvals_of(service)
    found = await _groups_of_today(service)
    return json_answer(GroupsView(groups=[_group_view(each, now, approvals) for each in found]))


async def _groups_of_today(service: Service) -> list[Group]:
    """The groups under the names of today of steps and peers, as a filter by one lists them."""
    today, step = name_of_today(service), step_of_today(service)
    found = await service.engine.groups()
    return each_place_once(
        replace(each, step=step(each.step), peer=today(each.peer)) for each in found
    )


def _approvals_of(service: Service) -> frozenset[str]:
    return frozenset(
        step.name
        for version in family_of(service.participant)
        for step in version.plan.steps
        if step.kind is StepKind.APPROVAL
    )


def _group_view(group: Group, now: float, approvals: frozenset[str] = frozenset()) -> GroupView:
    waits = group.cause is None and group.state is SagaState.ACTIVE
    return GroupView(
        approval=waits and group.step in approvals,
        parked_cause=None if group.cause is None else group.cause.value,
        step=group.step or None,
        peer=group.peer or None,
        state=group.state.value,
        direction=_direction(group),
        sagas=group.sagas,
        oldest_at=format_instant(group.oldest_at),
        oldest_seconds=round(max(0.0, now - group.oldest_at), 3),
    )


def _direction(group: Group) -> str:
    if group.peer.partition(".")[0] == UPSTREAMS:
        return "tell"
    return "forward" if group.state is SagaState.ACTIVE else "backward"


async def peers(service: Service, request: Request) -> Answer:
    """Every peer: its breaker, its last answer and failure, its limits, and what waits for it."""
    now = service.clock.now()
    waiting: dict[str, list[GroupView]] = {}
    for group in await _groups_of_today(service):
        if group.peer:
            waiting.setdefault(group.peer, []).append(_group_view(group, now))
    standing = {each.peer: each for each in service.engine.peers()}
    names = sorted({*targets_of(service), *standing, *waiting} - {INTAKE})
    return json_answer(
        PeersView(
            peers=[
                _peer_view(service, name, standing.get(name), waiting.get(name, []))
                for name in names
            ]
        )
    )


def _peer_view(
    service: Service, name: str, standing: PeerStanding | None, waiting: list[GroupView]
) -> PeerView:
    today = name_of_today(service)
    ends = [pause.until for pause in service.engine.pauses if today(pause.target) == name]
    view = PeerView(
        peer=name,
        breaker_open=service.breakers().get(name.partition(".")[2], False),
        paused_until=optional_instant(max(ends, default=None)),
        waiting=waiting,
    )
    if standing is None:
        return view
    return replace(
        view,
        under_way=standing.under_way,
        queued=standing.queued,
        places=standing.places,
        places_max=standing.places_max,
        rate_per_second=standing.rate_per_second,
        last_answer_at=optional_instant(standing.answered_at),
        last_failure_at=optional_instant(standing.failed_at),
        last_failure=standing.failure or None,
    )


async def audit(service: Service, request: Request) -> Answer:
    """The acts of people, the newest first; `?target=` those of one saga or peer."""
    query = request.query_values()
    if unknown := sorted(set(query) - {"before", "limit", "target"}):
        raise not_understood(f"the audit has no parameter {unknown[0]!r}")
    limit = whole_number(query, "limit", ACTS, least=1, most=ACTS_MAX)
    before = whole_number(query, "before", 0, least=1) if "before" in query else None
    target = query.get("target", [""])[0]
    found = await service.engine.acts(limit, before=before, target=target)
    behind = found[-1].number if len(found) == limit else None
    return json_answer(ActPage(acts=[act_view(each) for each in found], next=behind))


def act_view(act: Act) -> ActView:
    """An act as people see it."""
    return ActView(
        number=act.number,
        at=format_instant(act.at),
        actor=act.actor,
        act=act.act,
        target=act.target,
        reason=act.reason,
        before=act.before,
        after=act.after,
    )
