"""The views of a saga, made from the row, the state and the journal that the engine gives."""

from __future__ import annotations

from typing import Final

import msgspec

from stage.core.describe import next_action
from stage.core.event_table import public_members
from stage.core.events import name_of
from stage.core.forecast import ForecastLine, forecast
from stage.core.ids import Direction, idempotency_key
from stage.core.pause import Way
from stage.core.place import peers_in_flight
from stage.core.questions import standing_apart, standing_in, standing_of_saga
from stage.core.saga import Saga
from stage.core.states import EXTERNAL_KINDS, ParkCause, SagaState, Tell
from stage.core.steps import Plan, Step, StepKind
from stage.inbound.former_names import name_of_today, step_of_today
from stage.inbound.service import Service
from stage.ports.engine import Snapshot
from stage.ports.store import Entry, SagaRow
from stage.wire.envelope import format_instant, optional_instant
from stage.wire.problem import WireError
from stage.wire.saga_outcome import outcome_of
from stage.wire.views import JournalView, SagaView, StepView

NEVER_SEEN: Final = "Saga never seen"
"""The title of the answer about a saga that this stage knows nothing of."""
JOURNAL_BYTES_MAX = 262_144
"""A page of the journal ends behind the entry that exceeds it."""


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """The forecast of a compensation. `upstream` would be notified.

    `standing` is one word for the saga as it is now.
    """

    saga_id: str
    stage: str
    state: SagaState
    steps: list[ForecastLine]
    standing: str
    upstream: str | None = msgspec.field(default=None, name="tells")


LEFT: Final = "nothing here: its journal is of another release, which goes on with it"
"""The next action of a saga that only another release can read."""


def left_to_another(snapshot: Snapshot) -> bool:
    """Whether only another release can read its journal, and goes on with it."""
    row = snapshot.row
    return not (snapshot.readable or row.parked) and row.closed_at is None


def view_of_snapshot(service: Service, snapshot: Snapshot) -> SagaView:
    """The saga with its steps and its next action."""
    saga, row = snapshot.saga, snapshot.row
    plan = saga.under(service.participant.plan)
    action = next_action(plan, saga, service.clock.now())
    text, at = action if action is not None else (None, None)
    if at is None and text is not None and not snapshot.running and snapshot.next_at is not None:
        at = snapshot.next_at if not saga.parked else None
    if left_to_another(snapshot):
        text, at = LEFT, None
    stands, may_stand = standing_apart(plan, saga)
    listed = _as_held(service, plan, saga, row_view(service, row))
    if listed.paused_until is not None and text is not None:
        text = f"{text}: {listed.peer} is paused until {listed.paused_until}"
    return msgspec.structs.replace(
        listed,
        state=saga.state.value,
        outcome=outcome_of(saga.state, forgotten=saga.forgotten or row.forgotten),
        parked=bool(saga.parked),
        parked_reason=saga.parked or None,
        parked_cause=_value_of(saga.parked_cause),
        next_action=text,
        next_action_at=optional_instant(at),
        stands=list(stands),
        may_stand=list(may_stand),
        standing=standing_of_saga(plan, saga, dropped=not snapshot.readable).value,
        steps=_steps(plan, snapshot),
        upstream=saga.upstream or None,
        told_upstream=None if saga.tell is Tell.NO else saga.tell.value,
        reason=saga.reason or None,
        requested_by=saga.requested_by or None,
    )


def _value_of(cause: ParkCause | None) -> str | None:
    return None if cause is None else cause.value


def _steps(plan: Plan, snapshot: Snapshot) -> list[StepView]:
    if not snapshot.readable:
        return []  # its steps were dropped with its undo data, or are those of another version
    views = []
    for step in plan.steps:
        known = snapshot.saga.steps.get(step.name)
        views.append(
            StepView(
                name=step.name,
                kind=step.kind.value,
                pivot=step.pivot,
                peer=step.peer or None,
                phase=known.phase.value if known is not None else "not_started",
                attempts=known.attempts if known is not None else 0,
                compensation_attempts=known.compensation_attempts if known is not None else 0,
                last_error=(known.error or None) if known is not None else None,
                key=_key(plan, snapshot, step),
                standing=standing_in(plan, snapshot.saga, step.name).value,
                timeout_seconds=_timeout(step),
            )
        )
    return views


def _timeout(step: Step) -> float | None:
    if step.kind is StepKind.APPROVAL:
        return step.pending_seconds_max
    return None if step.kind is StepKind.TRANSACTION else step.timeout_seconds


def _key(plan: Plan, snapshot: Snapshot, step: Step) -> str | None:
    """The key under which the API of the step knows its effect."""
    if step.kind not in EXTERNAL_KINDS:
        return None
    known = snapshot.saga.steps.get(step.name)
    if known is not None and known.key:
        return known.key
    return idempotency_key(snapshot.saga.id, plan.stage, step.name, Direction.EXECUTE)


def row_view(service: Service, row: SagaRow) -> SagaView:
    """The saga as its row alone shows it, for lists."""
    return SagaView(
        saga_id=row.id,
        stage=service.participant.plan.stage,
        state=row.state.value,
        outcome=outcome_of(row.state, forgotten=row.forgotten),
        parked=bool(row.parked),
        parked_reason=row.parked or None,
        parked_cause=_value_of(row.parked_cause),
        epoch=row.epoch,
        accepted_at=format_instant(row.accepted_at),
        updated_at=format_instant(row.updated_at),
        deadline=optional_instant(row.deadline),
        version=row.version,
        step=step_of_today(service)(row.step) or None,
        peer=name_of_today(service)(row.peer) or None,
        paused_until=_paused_until(service, row.state, row.peer),
        trace_id=row.trace.trace_id or None,
        next_action=None,
        next_action_at=optional_instant(row.due_at),
        stands=[],
        steps=[],
        told_upstream=None,
    )


def _paused_until(service: Service, state: SagaState, peer: str) -> str | None:
    """The end of the pause that holds a saga of that state there; None where none does."""
    way = Way.FORWARD if state is SagaState.ACTIVE else Way.BACKWARD
    today = name_of_today(service)
    here = today(peer)
    ends = [
        pause.until
        for pause in service.engine.pauses
        if today(pause.target) == here and way in pause.ways
    ]
    return optional_instant(max(ends, default=None))


def _as_held(service: Service, plan: Plan, saga: Saga, listed: SagaView) -> SagaView:
    """The view with the place where a first attempt is held by a pause: its row names none."""
    if listed.peer is not None:
        return listed
    for name, peer in peers_in_flight(plan, saga):
        until = _paused_until(service, saga.state, peer)
        if until is not None:
            return msgspec.structs.replace(listed, step=name, peer=peer, paused_until=until)
    return listed


def journal_view(saga_id: str, entries: list[Entry], limit: int | None = None) -> JournalView:
    """A page of the journal with the public members of its events (core.event_table), no others.

    It ends after `limit` entries, or with the one that makes it larger than JOURNAL_BYTES_MAX.
    """
    shown: list[dict[str, object]] = []
    size = 0
    for entry in entries[:limit]:
        shown.append(_entry(entry))
        size += len(msgspec.json.encode(shown[-1]))
        if size > JOURNAL_BYTES_MAX:
            break
    more = len(shown) < len(entries)
    return JournalView(
        saga_id=saga_id, entries=shown, next=entries[len(shown) - 1].number if more else None
    )


def _entry(entry: Entry) -> dict[str, object]:
    event = entry.event
    return {
        "seq": entry.number,
        "at": format_instant(event.at),
        "event": name_of(event),
        "epoch": entry.epoch,
        **public_members(event),
    }


def plan_view(service: Service, snapshot: Snapshot) -> PlanView:
    """The forecast of a compensation asked for now; it changes nothing."""
    saga = snapshot.saga
    plan = saga.under(service.participant.plan)
    return PlanView(
        saga_id=saga.id,
        stage=plan.stage,
        state=saga.state,
        steps=forecast(plan, saga),
        standing=standing_of_saga(plan, saga, dropped=not snapshot.readable).value,
        upstream=saga.upstream or None,
    )


def never_seen(saga_id: str) -> WireError:
    """404 for a saga that this stage knows nothing of."""
    return WireError(
        404,
        NEVER_SEEN,
        f"saga {saga_id} was never seen here",
        hint="check the id, and whether it was sent to this stage",
    )
