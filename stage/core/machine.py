"""Every rule of a saga, in one file: `evolve` says what an event means, `decide` what follows.

The state of a saga is the fold of its journal: `evolve(plan, saga, event)`. The next commands are
a function of that state and the time: `decide(plan, saga, now)`. No clock, no dice, no I/O and no
log here; a caller must journal an event before it acts on what follows.

One step (phases; every attempt that may have left the process can end in doubt):

    started ──► succeeded | refused
       │  ▲
       │  ├───── waiting      certainly did not happen, or pending downstream: again when due
       │  │                   (an outage costs time and no attempt: rule 28)
       │  └───── in_doubt ◄─► probing    found: succeeded; twice "not there": may be repeated
       ├───────► pending  ◄─► probing    found: succeeded; refused; too long: in doubt
       │         (a webhook ends every phase of these but `succeeded` and `refused`)
       └───────► (waiting | in_doubt)
    an approval: awaiting_approval ──► succeeded | refused (by a person, or by its time-out)
    a forward that may not be sent again is looked for in the same way; one "not there" ends it
    succeeded or ever in doubt ──► compensating ◄─► compensation_waiting
                                        └──► compensated | compensation_failed

The saga:

    active ──► completed ──► compensating ──► compensated | failed_to_compensate
       └───────────────────────►┘            (then upstream is notified, if it got a yes before)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from stage.core import events as e
from stage.core import verbs
from stage.core.age import age_at, is_due, lasted
from stage.core.commands import AttemptKind, Command, Do, Record, Rest
from stage.core.event_table import PROGRESS
from stage.core.ids import Direction, idempotency_key
from stage.core.order import next_backward, next_forward
from stage.core.questions import (
    OVER,
    PROBES_NOT_THERE_MIN,
    can_probe,
    is_in_flight,
    key_forgotten,
    must_be_looked_for,
    must_be_settled,
    past_pivot,
    pends,
    pivot_may_come,
    pivot_undecided,
    what_stands,
)
from stage.core.retry import DEFECT, NEIGHBOUR_COMPENSATION, PENDING, PENDING_CALL, RetryPolicy
from stage.core.saga import Saga, StepState
from stage.core.states import (
    ENDED,
    EXTERNAL_KINDS,
    IN_FLIGHT,
    LOCAL_KINDS,
    ParkCause,
    Phase,
    SagaState,
    Tell,
)
from stage.core.steps import FORWARD_PREFIX, Plan, Step, StepKind

RECOVERIES_MAX = 10
"""Runs that may end without any progress before the saga is parked (rule 15).

The number is not small: of all runs that a dying process takes down, one is guilty.
"""
RETRY_AFTER_SECONDS_MAX = 60.0
NOT_UNDERSTOOD_SECONDS_MAX = 3600.0
"""How long a neighbour is asked to compensate while the answers are not its own word.

The time is enough to mend a route or a login; then a person has to look (protocol 3.4).
"""


_Awaited = (
    e.StepPending | e.ProbePending | e.ProbeNotThere | e.ProbeFailed
    | e.ApprovalAsked | e.StillPending
)  # fmt: skip
"""The events after which a pending call, or an approval, may go on being waited for."""


class InvalidTransition(Exception):
    """An event that cannot follow the state: a defect, or a journal that is not of this plan."""


# --- evolve: what an event means -----------------------------------------------------------------


def evolve(plan: Plan, saga: Saga, event: e.Event) -> Saga:
    """The state after the event. Raises InvalidTransition for an event that cannot follow."""
    step = getattr(event, "step", "")
    if step and step not in plan.by_name:
        after = _evolve_renamed(plan, saga, event, step)
    else:
        after = _evolve(plan, saga, event)
    if after.heard:
        after = _settle_by_webhook(plan, after, event.at)
    if after.pending and not any(_is_awaited(after, name) for name in after.steps):
        after = _no_longer_pending(after, event.at)
    if plan.pivot is not None and after.deadline is not None and past_pivot(plan, after):
        after = replace(after, deadline=None)  # no way back: time must not stop the way forward
    # Only what an attempt or a person brought about is progress: not what keeps being asked.
    recoveries = 0 if type(event) in PROGRESS else after.recoveries
    return replace(
        after,
        length=saga.length + 1,
        updated_at=event.at,
        age=age_at(saga, event.at),
        recoveries=recoveries,
    )


def _evolve_renamed(plan: Plan, saga: Saga, event: e.Event, before: str) -> Saga:
    """A step that has another name today; the key of its effect keeps the old one (rule 32)."""
    if isinstance(event, e.TurnedBack):
        return _evolve(plan, saga, event)  # a step that may never have been started
    today = plan.renamed.get(before)
    if today is None:
        raise InvalidTransition(f"saga {saga.id}: there is no step {before!r}")
    after = _evolve(plan, saga, replace(event, step=today))
    known = _step(after, today)
    key = known.key or idempotency_key(saga.id, plan.stage, before, Direction.EXECUTE)
    return _put(after, today, replace(known, key=key))


# Long because each event has its arm, and assert_never sees that none is missing.
def _evolve(plan: Plan, saga: Saga, event: e.Event) -> Saga:
    match event:  # what happens most comes first: folding is on the way of every request
        case e.StepStarted():
            return _start(saga, event)
        case e.StepSucceeded() | e.ProbeFound():
            return _succeed(plan, saga, event)
        case e.Accepted():
            return _accept(saga, event)
        case e.Completed():
            return replace(saga, state=SagaState.COMPLETED, was_completed=True)
        case e.RequestPrepared():
            return _prepare(saga, event)
        case e.StepRefused():
            return _refuse(plan, saga, event)
        case e.StepTransient():
            return _fail_for_certain(plan, saga, event)
        case e.StepInDoubt():
            return _doubt(plan, saga, event)
        case e.StepPending() | e.ProbePending():
            return _pend(plan, saga, event)
        case e.ProbeRefused():
            return _refused_there(saga, event)
        case e.WebhookFound() | e.WebhookRefused():
            return _hear(plan, saga, event)
        case e.ApprovalAsked():
            return _ask_approval(saga, plan, event)
        case e.StillPending() if plan.step(event.step).kind is StepKind.APPROVAL:
            return _await_approval(plan, saga, _step(saga, event.step), event)
        case e.StillPending():
            silent = e.ProbeFailed(at=event.at, step=event.step, reason="nothing was heard of it")
            return _probe_again(plan, saga, silent)
        case e.ProbeStarted():
            return _probe(saga, event)
        case e.ProbeNotThere() | e.ProbeFailed():
            return _probe_again(plan, saga, event)
        case e.TurnedBack():
            return _turn_back(plan, saga, event)
        case e.CompensationStarted():
            return _start_compensation(saga, event)
        case e.CompensationSucceeded():
            return _compensated(plan, saga, event)
        case e.CompensationDelayed():
            return _delay_compensation(plan, saga, event)
        case e.CompensationRefused():
            return _refuse_compensation(saga, event)
        case e.Compensated():
            return _tell_if_due(replace(saga, state=SagaState.COMPENSATED))
        case e.FailedToCompensate():
            return _fail_to_compensate(saga, event)
        case e.Tombstoned():
            return _bury(saga, event)
        case e.Recovered():
            return _recover(plan, saga, event)
        case e.AnswerDeferred():
            return saga if saga.ended else replace(saga, deferred=True)
        case e.CompensationRequested():
            return _request_compensation(plan, saga, event)
        case e.TellStarted() | e.TellDelivered() | e.TellDelayed() | e.TellRefused():
            return _evolve_tell(saga, event)
        case e.Parked():
            return _park(saga, event)
        case e.Retried() | e.Settled() | e.Resolved() | e.Abandoned() | e.Forgotten():
            return verbs.evolve_verb(plan, saga, event)
        case e.Approved() | e.Rejected():
            return verbs.evolve_verb(plan, saga, event)
        case _:
            assert_never(event)


# --- the saga's beginning and end ---


def _accept(saga: Saga, event: e.Accepted) -> Saga:
    return replace(
        saga,
        accepted_at=event.at,
        deadline=event.deadline,
        upstream=event.upstream,
        deferred=event.deferred,
        version=event.version,
        generation=event.generation,
    )


def _bury(saga: Saga, event: e.Tombstoned) -> Saga:
    return replace(
        saga,
        accepted_at=event.at,
        state=SagaState.COMPENSATED,
        tombstone=True,
        requested_by=event.requested_by,
        reason=event.reason,
        detail=event.reason,
    )


def _fail_to_compensate(saga: Saga, event: e.FailedToCompensate) -> Saga:
    failed = replace(saga, state=SagaState.FAILED_TO_COMPENSATE, stands=event.stands)
    return _tell_if_due(_park_what_stands(failed))


def _park_what_stands(saga: Saga) -> Saga:
    return replace(
        saga,
        parked="could not be undone: " + ", ".join(saga.stands),
        parked_cause=ParkCause.FAILED_TO_COMPENSATE,
    )


def _park(saga: Saga, event: e.Parked) -> Saga:
    """It waits for a person, and its callers do not: they may be answered 202 from here on."""
    deferred = saga.deferred or not saga.ended
    return replace(saga, parked=event.reason, parked_cause=event.cause, deferred=deferred)


def _recover(plan: Plan, saga: Saga, event: e.Recovered) -> Saga:
    steps = dict(saga.steps)
    for name, step in saga.steps.items():
        if step.phase is Phase.STARTED or step.phase is Phase.PROBING:
            steps[name] = replace(
                step,
                phase=Phase.IN_DOUBT,
                doubted=True,
                cut_off=True,
                not_there=0,
                error="the run was lost while it was in flight",
                due=event.at,
            )
            if saga.pending and saga.state is SagaState.ACTIVE and pends(step):
                steps[name] = replace(steps[name], phase=Phase.PENDING, cut_off=step.cut_off)
        elif step.phase is Phase.COMPENSATING:
            steps[name] = replace(
                step, phase=Phase.COMPENSATION_WAITING, compensation_doubted=True, due=event.at
            )
        if event.innocent and step.phase in IN_FLIGHT:
            steps[name] = _uncount(steps[name], step.phase)
    tell = Tell.DUE if saga.tell is Tell.IN_FLIGHT else saga.tell
    rested = event.rested or event.innocent
    lost = 0 if rested or _only_waits(plan, saga, event.at) else 1
    recoveries = saga.recoveries + lost
    # An older database was put back: neighbours may know it compensated, so that it does not go
    # forward any more. Behind the pivot evolve takes the deadline away again (decision 0050).
    older = saga.generation < event.generation and saga.state is SagaState.ACTIVE
    return replace(
        saga,
        epoch=event.epoch,
        generation=event.generation,
        deadline=OVER if older else saga.deadline,
        steps=steps,
        recoveries=recoveries,
        tell=tell,
    )


def at_rest(plan: Plan, saga: Saga) -> bool:
    """True when nothing was in flight or to be done as of its last entry.

    No run is lost when another run takes such a saga over: it had come to its end, or waited.
    """
    if is_in_flight(saga):
        return False
    return all(isinstance(command, Rest) for command in decide(plan, saga, saga.updated_at))


def _uncount(step: StepState, phase: Phase) -> StepState:
    """An attempt that the code of another saga took down does not count (rule 35)."""
    match phase:
        case Phase.STARTED:
            return replace(step, forgiven=step.forgiven + 1)
        case Phase.PROBING:
            return replace(step, probes=step.probes - 1)
        case _:
            return replace(step, compensation_forgiven=step.compensation_forgiven + 1)


def _only_waits(plan: Plan, saga: Saga, now: float) -> bool:
    """True when nothing is in flight and nothing is to be done before a later instant.

    Such a saga takes no process down, however often it is restarted meanwhile.
    """
    if is_in_flight(saga):
        return False
    match decide(plan, saga, now):
        case (Rest(until=float()),):
            return True
        case _:
            return False


def _turn_back(plan: Plan, saga: Saga, event: e.TurnedBack) -> Saga:
    known = saga.steps.get(plan.renamed.get(event.step, event.step))
    detail = f"step {event.step} did not succeed" if event.step else ""
    if known is not None and known.said:
        detail = known.said
    return replace(
        saga,
        state=SagaState.COMPENSATING,
        steps=verbs.doubting_on_the_way_back(plan, saga.steps, event.at),
        reason=event.reason,
        detail=detail,
    )


def _request_compensation(plan: Plan, saga: Saga, event: e.CompensationRequested) -> Saga:
    if saga.state in (SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE):
        return _knows_by_itself(saga) if event.requested_by == saga.upstream else saga
    if saga.forgotten or past_pivot(plan, saga):
        return saga
    if pivot_undecided(plan, saga):
        # The way forward may be taken again once the pivot is settled, but nobody is asked again:
        # the act that the approval was for may have happened already.
        return replace(
            saga,
            steps={n: verbs.not_asked_for(step) for n, step in saga.steps.items()},
            reason=saga.reason or event.reason,
            detail=saga.detail or event.reason,
            requested_by=saga.requested_by or event.requested_by or "unknown",
        )
    steps = verbs.doubting_on_the_way_back(plan, saga.steps, event.at)
    forward = FORWARD_PREFIX + plan.peers_renamed.get(event.requested_by, event.requested_by)
    known = steps.get(forward) if forward in plan.by_name else None
    if known is not None and event.compensated and known.phase not in IN_FLIGHT:
        steps[forward] = replace(known, phase=Phase.COMPENSATED, error="")
    elif known is not None:
        # Without its word that nothing stands there it is asked in turn, so that what stands
        # behind it is not hidden (rule 12, protocol 3.4).
        steps[forward] = replace(known, doubted=True)
    back = replace(
        saga,
        state=SagaState.COMPENSATING,
        asked_in=event.generation,
        steps=steps,
        reason=saga.reason or event.reason or f"{event.requested_by} asked to compensate",
        detail=saga.detail or event.reason or f"{event.requested_by} asked to compensate",
        requested_by=saga.requested_by or event.requested_by or "unknown",
    )
    return verbs.waits_no_more(back, event.at)


def _knows_by_itself(saga: Saga) -> Saga:
    """Upstream, which could not be notified, goes back by itself: no person has to see to it.

    It may have lost the saga, and got it back from its neighbours since (rule 33). Where it asks
    while it is being notified, its no to that may still be on the way.
    """
    if saga.tell in (Tell.DUE, Tell.IN_FLIGHT):
        return replace(saga, upstream_knows=True)
    if saga.tell is not Tell.REFUSED:
        return saga
    knows = replace(saga, tell=Tell.DELIVERED, tell_error="", parked="", parked_cause=None)
    return _park_what_stands(knows) if saga.state is SagaState.FAILED_TO_COMPENSATE else knows


def asked_before(plan: Plan, saga: Saga, request: e.CompensationRequested) -> bool:
    """True when a request to compensate would change nothing: it was made before, or cannot be met.

    A neighbour asks until it is answered. That must not make the journal grow, nor take up again a
    saga that waits for a person on its way back. The answer comes from the rule itself: its state
    after the request is compared with its state before.
    """
    after = _request_compensation(plan, saga, request)
    return replace(after, parked=saga.parked, parked_cause=saga.parked_cause) == saga


# --- the way of one step ---


def _start(saga: Saga, event: e.StepStarted) -> Saga:
    before = saga.steps.get(event.step)
    if before is None:
        requests = (event.request,) if event.request else ()
        started = StepState(
            phase=Phase.STARTED,
            order=len(saga.steps),
            since=age_at(saga, event.at),
            span=event.span,
            requests=requests,
            key=event.key,
            started_at=event.at,
        )
    else:
        started = replace(
            before,
            phase=Phase.STARTED,
            attempts=event.attempt,
            span=event.span,
            probes=0,
            requests=before.requests or ((event.request,) if event.request else ()),
        )
    return _put(saga, event.step, started)


def _prepare(saga: Saga, event: e.RequestPrepared) -> Saga:
    step = _step(saga, event.step)
    if event.compensation:
        later = (*step.compensation_requests, event.request)
        return _put(saga, event.step, replace(step, compensation_requests=later))
    return _put(saga, event.step, replace(step, requests=(*step.requests, event.request)))


def _succeed(plan: Plan, saga: Saga, event: e.StepSucceeded | e.ProbeFound) -> Saga:
    before = _known(saga, event.step)
    done = replace(
        before,
        attempts=before.attempts + _uncounted(plan, event.step),
        phase=Phase.SUCCEEDED,
        doubted=False,
        may_come=False,
        result=event.result,
        error="",
        span=event.span if isinstance(event, e.StepSucceeded) and event.span else before.span,
    )
    return _put(saga, event.step, verbs.known_to_stand(done))


def _fail_for_certain(plan: Plan, saga: Saga, event: e.StepTransient) -> Saga:
    step = _known(saga, event.step)
    rules = plan.step(event.step)
    attempts = step.attempts + _uncounted(plan, event.step)
    # Rule 28: an outage costs time. A transaction has none: its attempts are those of its author.
    # A defect without a deadline has them too: nothing else would end it.
    endless = event.defect and saga.deadline is None
    free = rules.kind not in LOCAL_KINDS and not event.may_stand and not endless
    # A part of it has left, or may come: without keys that is settled before it is repeated.
    unkeyed = (event.may_come or event.may_stand) and not rules.idempotent
    waiting = replace(
        step,
        phase=Phase.IN_DOUBT if unkeyed else Phase.WAITING,
        attempts=attempts,
        forgiven=step.forgiven + free,
        final=event.final,
        not_there=0 if event.may_come or unkeyed else step.not_there,
        doubted=step.doubted or event.may_stand or unkeyed,
        may_come=step.may_come or event.may_come,
        since=age_at(saga, event.at) if step.since is None else step.since,
        error=event.reason,
    )
    policy = DEFECT if event.defect else rules.execution
    due = event.at + _wait(saga, event, attempts, policy, waiting.since)
    return _end(plan, saga, event, _mendable(replace(waiting, due=due)))


def _probe_again(plan: Plan, saga: Saga, event: e.ProbeNotThere | e.ProbeFailed) -> Saga:
    step = _step(saga, event.step)
    not_there = step.not_there + isinstance(event, e.ProbeNotThere)
    if _still_pending(plan, saga, event) and not_there < PROBES_NOT_THERE_MIN:
        return _ask_later(saga, replace(step, not_there=not_there), event)
    wait = plan.step(event.step).settlement.backoff_seconds(
        step.probes, f"{saga.id}/{event.step}/probe", lasted(saga, step.since, event.at)
    )
    if isinstance(event, e.ProbeFailed):
        wait = max(wait, min(event.retry_after or 0.0, RETRY_AFTER_SECONDS_MAX))
    error = event.reason if isinstance(event, e.ProbeFailed) else "the probe did not find it"
    again = replace(
        step,
        phase=Phase.IN_DOUBT,
        not_there=not_there,
        unserved=step.unserved + (isinstance(event, e.ProbeFailed) and event.unserved),
        error=error,
        due=event.at + wait,
    )
    if not_there >= PROBES_NOT_THERE_MIN:
        again = replace(again, pending_since=None)
    if step.looked_for and not_there >= PROBES_NOT_THERE_MIN:
        again = replace(again, phase=Phase.COMPENSATED, error="")
    return _put(saga, event.step, again)


def _refuse(plan: Plan, saga: Saga, event: e.StepRefused) -> Saga:
    step = _known(saga, event.step)
    if event.may_stand and must_be_looked_for(plan.step(event.step), step):
        # Its yes may have been passed on, and a gateway may have said this no (decision 0011).
        return _doubt(plan, saga, e.StepInDoubt(at=event.at, step=event.step, reason=event.reason))
    # An attempt before this one may have landed: doubt outlives the refusal.
    doubted = step.doubted or event.may_stand
    said = event.reason if event.said else ""
    refused = replace(
        step,
        phase=Phase.REFUSED,
        doubted=doubted,
        not_there=0 if event.may_stand else step.not_there,
        may_come=step.may_come and not _bars_copies(plan.step(event.step), event),
        error=event.reason,
        said=said,
    )
    return _end(plan, saga, event, _mendable(refused))


def _end(plan: Plan, saga: Saga, event: e.StepTransient | e.StepRefused, step: StepState) -> Saga:
    """An attempt that ends behind the turn leaves no other doubt than one that ended before it."""
    if saga.state is SagaState.COMPENSATING:
        step = verbs.not_waited_for(plan.step(event.step), step, event.at)
    return _put(saga, event.step, step)


def _bars_copies(rules: Step, event: e.StepRefused) -> bool:
    """A neighbour that says a no for good accepts no copy; an API may, and need not know the key.

    A pivot has no undo that would close its key, so that the no of its API has to be enough.
    """
    return event.said and (rules.kind is StepKind.FORWARD or rules.pivot)


def _doubt(plan: Plan, saga: Saga, event: e.StepInDoubt) -> Saga:
    step = _step(saga, event.step)
    policy = plan.step(event.step).execution
    wait = policy.backoff_seconds(
        step.attempts, f"{saga.id}/{event.step}", lasted(saga, step.since, event.at)
    )
    doubtful = replace(
        step,
        phase=Phase.IN_DOUBT,
        doubted=True,
        not_there=0,
        changed=event.changed,
        final=event.final,
        # A rotated key costs time: until the deadline, if there is one (protocol 3.3).
        forgiven=step.forgiven + (event.denied and saga.deadline is not None),
        error=event.reason,
        due=event.at + wait,
    )
    return _put(saga, event.step, doubtful)


def _pend(plan: Plan, saga: Saga, event: e.StepPending | e.ProbePending) -> Saga:
    if plan.step(event.step).kind in EXTERNAL_KINDS:
        return _pend_call(plan, saga, event)
    assert isinstance(event, e.StepPending)  # a forward has no such probe
    step = _step(saga, event.step)
    pendings = step.pendings + 1
    pending = replace(
        step,
        phase=Phase.WAITING,
        doubted=True,
        pendings=pendings,
        attempts=step.attempts - 1,  # to wait for downstream is not a failed attempt
        error="accepted downstream, still running",
        due=event.at + _wait(saga, event, pendings, PENDING, step.since),
    )
    return _put(saga, event.step, pending)


def _pend_call(plan: Plan, saga: Saga, event: e.StepPending | e.ProbePending) -> Saga:
    """A call that its API has taken on is looked for, and never repeated meanwhile.

    The journal has it from here on that callers are answered 202 (decision 0060).
    """
    before, rules = _step(saga, event.step), plan.step(event.step)
    if not (rules.probed or rules.hooked):
        text = f"pending, and neither a probe nor a webhook tells how it ends: {event.reason}"
        return _doubt(plan, saga, e.StepInDoubt(at=event.at, step=event.step, reason=text))
    since = age_at(saga, event.at) if before.pending_since is None else before.pending_since
    step = replace(before, doubted=True, pending_since=since)
    pending = _put(saga, event.step, step)
    if not _still_pending(plan, pending, event):
        late = e.ProbeFailed(at=event.at, step=event.step, reason=f"still pending: {event.reason}")
        return _probe_again(plan, pending, late)
    return _ask_later(_paused(pending, event.at), replace(step, not_there=0), event)


def _paused(saga: Saga, at: float) -> Saga:
    """Callers are answered 202, and the deadline stands still: one that is OVER stays so."""
    if saga.deadline == OVER:
        return replace(saga, pending=True, deferred=True)
    left = None if saga.deadline is None else saga.deadline - at
    return replace(
        saga,
        pending=True,
        deferred=True,
        deadline=None,
        budget_left=saga.budget_left if saga.pending else left,
    )


def _ask_approval(saga: Saga, plan: Plan, event: e.ApprovalAsked) -> Saga:
    """A person is asked: nothing is in flight, and nothing stands (decision 0075)."""
    before = _known(saga, event.step)
    asked = replace(
        before,
        attempts=before.attempts + _uncounted(plan, event.step),
        since=age_at(saga, event.at) if before.since is None else before.since,
        pending_since=age_at(saga, event.at),
        asked=True,
        shown=event.shown,
    )
    return _await_approval(plan, _paused(saga, event.at), asked, event)


def _await_approval(
    plan: Plan, saga: Saga, step: StepState, event: e.ApprovalAsked | e.StillPending
) -> Saga:
    """The pauses grow as those of a pending call; silence is never a yes."""
    wait = plan.step(event.step).pending_seconds_max
    left = wait - lasted(saga, step.pending_since, event.at)
    if left <= 0:
        late = verbs.refused_approval(step, "the approval was not given in time")
        return _put(saga, event.step, late)
    pendings = step.pendings + 1
    later = min(left, _wait(saga, event, pendings, PENDING_CALL, None))
    awaited = replace(step, phase=Phase.AWAITING_APPROVAL, pendings=pendings, due=event.at + later)
    return _put(saga, event.step, awaited)


def _still_pending(plan: Plan, saga: Saga, event: _Awaited) -> bool:
    """Whether a call that was pending is waited for: on the way forward, and not for too long."""
    since = _step(saga, event.step).pending_since
    if since is None or saga.state is not SagaState.ACTIVE:
        return False
    return lasted(saga, since, event.at) < plan.step(event.step).pending_seconds_max


def _ask_later(
    saga: Saga,
    step: StepState,
    event: _Awaited,
) -> Saga:
    """The pauses between the probes of a pending call grow; none of them counts as an attempt."""
    pendings = step.pendings + 1
    later = replace(
        step,
        phase=Phase.PENDING,
        probes=0,
        pendings=pendings,
        error=getattr(event, "reason", "") or "pending",
        due=event.at + _wait(saga, event, pendings, PENDING_CALL, None),
    )
    return _put(saga, event.step, later)


def _refused_there(saga: Saga, event: e.ProbeRefused) -> Saga:
    """The API's no to the key is final. Of several requests, others may stand all the same."""
    step = _step(saga, event.step)
    refused = replace(
        step,
        phase=Phase.REFUSED,
        doubted=len(step.requests) > 1,
        may_come=False,
        pending_since=None,
        error=event.reason,
        said=event.reason,
    )
    return _put(saga, event.step, refused)


_HEARING = IN_FLIGHT - {Phase.COMPENSATING} | {Phase.PENDING, Phase.IN_DOUBT, Phase.WAITING}
_SETTLED_BY_WEBHOOK = (ParkCause.IN_DOUBT, ParkCause.PIVOT_IN_DOUBT, ParkCause.REQUEST_CHANGED)


def _hear(plan: Plan, saga: Saga, event: e.Webhook) -> Saga:
    """Keep the word that an API sends by itself, of a call that has no end here yet.

    That it landed outweighs that it did not, in whatever order the two arrive. Behind an undo it
    says nothing new: its probe is asked whether anything stands.
    """
    step = saga.steps.get(event.step)
    if step is None or saga.forgotten or (step.looked_for and step.phase in _HEARING):
        return saga
    if step.phase not in _HEARING and not _contradicts(plan, saga, step, event):
        return saga
    if isinstance(saga.heard.get(event.step, event), e.WebhookFound):
        event = saga.heard.get(event.step, event)
    return replace(saga, heard={**saga.heard, event.step: event})


def _contradicts(plan: Plan, saga: Saga, step: StepState, event: e.Webhook) -> bool:
    """Whether it says that a call landed which was refused, whenever it comes.

    That can be undone, or it is the pivot, around which something may have been undone, or a step
    behind it, which a person would retry. A step that was undone is left alone: its webhook may
    only have been late.
    """
    if not isinstance(event, e.WebhookFound):
        return False
    refused, rules = step.phase is Phase.REFUSED and step.result is None, plan.step(event.step)
    return refused and (rules.compensatable or rules.pivot or past_pivot(plan, saga))


def heard_before(plan: Plan, saga: Saga, event: e.Webhook) -> bool:
    """True when a webhook would change nothing: it came before, or the call has ended without it.

    An API repeats a webhook until it is acknowledged, and beyond; the journal does not grow by it.
    """
    rules = plan.by_name.get(event.step)
    if rules is None or rules.kind not in EXTERNAL_KINDS:
        return True
    after = _hear(plan, saga, event)
    known = saga.heard.get(event.step)
    return after is saga or (known is not None and type(known) is type(after.heard[event.step]))


def lands_behind_close(plan: Plan, saga: Saga, event: e.Event | None) -> bool:
    """True when an API says that a call landed in a saga that was closed as compensated.

    Its journal is gone, so that nobody can tell a yes behind a no from a late copy of a yes that
    was undone: the effect may stand (rule 6).
    """
    if not isinstance(event, e.WebhookFound) or saga.state is not SagaState.COMPENSATED:
        return False
    rules = plan.by_name.get(event.step)
    return rules is not None and (rules.compensatable or rules.pivot)


def landed_behind_close(plan: Plan, saga: Saga, word: e.WebhookFound) -> tuple[Saga, e.Parked]:
    """Such a saga with the step that landed, which it fails to compensate, and why it is parked."""
    step = StepState(phase=Phase.COMPENSATION_FAILED, order=0, result=word.result)
    key = idempotency_key(saga.id, plan.stage, word.step, Direction.EXECUTE)
    reason = (
        f"{plan.step(word.step).peer} said by a webhook that {word.step} has landed, when all that"
        f" was kept to undo it was dropped: ask it by the key {key}, undo it there by hand, then"
        " forget this saga"
    )
    parked = e.Parked(at=word.at, cause=ParkCause.LANDED_LATE, reason=reason)
    return _put(saga, word.step, step), parked


def _settle_by_webhook(plan: Plan, saga: Saga, at: float) -> Saga:
    """Apply what was heard of each call once no attempt of it is in flight."""
    for name, word in saga.heard.items():
        step = saga.steps[name]
        if step.phase in IN_FLIGHT:
            continue  # its answer counts first
        waits = step.phase in _HEARING
        match word:
            case e.WebhookFound() if waits or step.phase is Phase.REFUSED:
                saga = _land(plan, saga, word, at)
            case e.WebhookRefused() if waits:
                no = e.ProbeRefused(at=at, step=name, reason=word.reason)
                saga = _unparked(_refused_there(saga, no), at)
        saga = replace(saga, heard={key: each for key, each in saga.heard.items() if key != name})
    return saga


def _land(plan: Plan, saga: Saga, word: e.WebhookFound, at: float) -> Saga:
    """An API says that its call landed. On the way back, and behind it, that is to be undone."""
    name, step, rules = word.step, saga.steps[word.step], plan.step(word.step)
    if rules.pivot and saga.state is not SagaState.ACTIVE:
        return _taken_up(_put(saga, name, _landed_after_all(step, word)), at)
    if step.phase is Phase.REFUSED and not (rules.pivot or past_pivot(plan, saga)):
        # The answer says no and the webhook yes: it is undone, as it may stand (rule 6).
        stands = replace(verbs.known_to_stand(step), doubted=True, result=word.result)
        return _taken_up(_put(saga, name, stands), at)
    found = e.ProbeFound(at=at, step=name, result=word.result)
    saga = _unparked(_succeed(plan, saga, found), at)
    return _taken_up(saga, at) if rules.compensatable else saga


def _landed_after_all(step: StepState, word: e.WebhookFound) -> StepState:
    """A pivot that landed although the saga turned back for its no: a person has to undo it."""
    return replace(
        step,
        phase=Phase.COMPENSATION_FAILED,
        doubted=False,
        may_come=False,
        result=word.result,
        error="its API said no, and then that it had landed: nothing here can undo it",
    )


def _taken_up(saga: Saga, at: float) -> Saga:
    """A saga that was over goes back once more, for an effect that came to light."""
    if saga.state not in (SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE):
        return saga
    back = replace(saga, state=SagaState.COMPENSATING, stands=())
    return verbs.waits_no_more(back, at)


def _unparked(saga: Saga, at: float) -> Saga:
    """A saga that waited for a person to settle a doubt goes on: its API has.

    Behind the pivot it goes on unless a step is refused; a step that is given up parks it again.
    """
    refused = any(step.phase is Phase.REFUSED for step in saga.steps.values())
    settled = saga.parked_cause in _SETTLED_BY_WEBHOOK
    if settled or (saga.parked_cause is ParkCause.BEHIND_PIVOT and not refused):
        return verbs.waits_no_more(saga, at)
    return saga


def _is_awaited(saga: Saga, name: str) -> bool:
    """Whether the saga waits for the word of others on that step, and none was heard yet.

    A probe that is in flight when the word arrives does not prolong the wait, nor does the death of
    the process that sent it.
    """
    return name not in saga.heard and pends(saga.steps[name])


def _no_longer_pending(saga: Saga, at: float) -> Saga:
    """The budget that was left when the first call became pending is left when the last ends.

    A saga that came back with an older database has none left (decision 0050).
    """
    deadline = None if saga.budget_left is None else at + saga.budget_left
    if saga.deadline == OVER:
        deadline = OVER
    return replace(saga, pending=False, budget_left=None, deadline=deadline)


def _probe(saga: Saga, event: e.ProbeStarted) -> Saga:
    step = _step(saga, event.step)
    probing = replace(step, phase=Phase.PROBING, probes=step.probes + 1, probe_span=event.span)
    return _put(saga, event.step, probing)


def _compensated(plan: Plan, saga: Saga, event: e.CompensationSucceeded) -> Saga:
    """It is undone; what was undone without a result may have to be looked for first."""
    step, rules = _step(saga, event.step), plan.step(event.step)
    if rules.probe_after_undo and rules.probed and step.result is None and not step.looked_for:
        looked_for = replace(
            step,
            phase=Phase.IN_DOUBT,
            looked_for=True,
            ordered_anew=False,
            probes=0,
            not_there=0,
            error="",
            due=event.at,
        )
        return _put(saga, event.step, looked_for)
    return _put(saga, event.step, replace(step, phase=Phase.COMPENSATED, error=""))


def _start_compensation(saga: Saga, event: e.CompensationStarted) -> Saga:
    step = _step(saga, event.step)
    since = step.compensation_since
    if since is None:
        since = age_at(saga, event.at)
    compensating = replace(
        step,
        phase=Phase.COMPENSATING,
        compensation_attempts=event.attempt,
        compensation_since=since,
        compensation_started_at=(
            event.at if step.compensation_started_at is None else step.compensation_started_at
        ),
        compensation_span=event.span,
        compensation_requests=step.compensation_requests
        or ((event.request,) if event.request else ()),
    )
    return _put(saga, event.step, compensating)


def _delay_compensation(plan: Plan, saga: Saga, event: e.CompensationDelayed) -> Saga:
    step = _step(saga, event.step)
    policy = plan.step(event.step).compensation
    due = event.at + _wait(saga, event, step.compensation_attempts, policy, step.compensation_since)
    delayed = replace(
        step,
        phase=Phase.COMPENSATION_WAITING,
        compensation_forgiven=step.compensation_forgiven + event.certain,
        error=event.reason,
        due=due,
        not_understood_since=_since(saga, step.not_understood_since, event),
    )
    certain = event.certain and not event.may_come
    return _put(saga, event.step, _mendable_compensation(delayed, certain))


def _refuse_compensation(saga: Saga, event: e.CompensationRefused) -> Saga:
    step = _step(saga, event.step)
    failed = replace(
        step,
        phase=Phase.COMPENSATION_FAILED,
        ordered_anew=False,
        error=event.reason,
        stands=event.stands,
    )
    return _put(saga, event.step, _mendable_compensation(failed, event.certain))


def _mendable(step: StepState) -> StepState:
    """A request that certainly never had an effect is made again by today's code (rule 31)."""
    return step if step.doubted or step.may_come else replace(step, requests=())


def _mendable_compensation(step: StepState, certain: bool) -> StepState:
    """As `_mendable`, for the request of a compensation."""
    if step.compensation_doubted or not certain:
        return replace(step, compensation_doubted=True)
    return replace(step, compensation_requests=())


def _evolve_tell(
    saga: Saga, event: e.TellStarted | e.TellDelivered | e.TellDelayed | e.TellRefused
) -> Saga:
    match event:
        case e.TellStarted():
            since = age_at(saga, event.at) if saga.tell_since is None else saga.tell_since
            return replace(
                saga,
                tell=Tell.IN_FLIGHT,
                tell_attempts=event.attempt,
                tell_since=since,
                tell_span=event.span,
            )
        case e.TellDelivered():
            return replace(saga, tell=Tell.DELIVERED, tell_error="")
        case e.TellDelayed():
            due = event.at + _wait(
                saga, event, saga.tell_attempts, NEIGHBOUR_COMPENSATION, saga.tell_since
            )
            return replace(
                saga,
                tell=Tell.DUE,
                tell_due=due,
                tell_error=event.reason,
                tell_not_understood_since=_since(saga, saga.tell_not_understood_since, event),
            )
        case e.TellRefused() if saga.upstream_knows:
            return replace(saga, tell=Tell.DELIVERED, tell_error="")
        case e.TellRefused():
            return replace(
                saga,
                tell=Tell.REFUSED,
                tell_error=event.reason,
                parked=f"upstream {saga.upstream} cannot compensate: {event.reason}",
                parked_cause=event.cause,
            )
        case _:
            assert_never(event)


def _tell_if_due(saga: Saga) -> Saga:
    believed_yes = saga.was_completed or saga.deferred or saga.epoch > 1
    asked_by_upstream = saga.requested_by == saga.upstream
    if not saga.upstream or asked_by_upstream or saga.tell is not Tell.NO or not believed_yes:
        return saga
    return replace(saga, tell=Tell.DUE, tell_due=saga.updated_at)


def _since(
    saga: Saga, since: float | None, event: e.CompensationDelayed | e.TellDelayed
) -> float | None:
    """The age at which answers began that are nobody's own word; any other end starts it anew."""
    if not event.not_understood:
        return None
    return age_at(saga, event.at) if since is None else since


def _wait(
    saga: Saga,
    event: _Awaited | e.StepTransient | e.CompensationDelayed | e.TellDelayed,
    attempts: int,
    policy: RetryPolicy,
    since: float | None,
) -> float:
    asked = min(getattr(event, "retry_after", None) or 0.0, RETRY_AFTER_SECONDS_MAX)
    where = event.step if not isinstance(event, e.TellDelayed) else "tell"
    return max(
        asked, policy.backoff_seconds(attempts, f"{saga.id}/{where}", lasted(saga, since, event.at))
    )


def _uncounted(plan: Plan, name: str) -> int:
    """A local step's start is not journaled apart: its attempt counts when it ends."""
    return 1 if plan.by_name[name].kind in LOCAL_KINDS else 0


def _known(saga: Saga, name: str) -> StepState:
    """The step's state; a transaction is first heard of when it ends."""
    return saga.steps.get(name) or StepState(phase=Phase.STARTED, order=len(saga.steps), attempts=0)


def _step(saga: Saga, name: str) -> StepState:
    try:
        return saga.steps[name]
    except KeyError:
        raise InvalidTransition(f"saga {saga.id}: step {name!r} was never started") from None


def _put(saga: Saga, name: str, step: StepState) -> Saga:
    return replace(saga, steps={**saga.steps, name: step})


# --- decide: what follows ------------------------------------------------------------------------


def decide(plan: Plan, saga: Saga, now: float) -> tuple[Command, ...]:
    """The commands for now. Never empty: with nothing to do it is one `Rest`."""
    if saga.forgotten or plan.newer:
        return (Rest(),)
    if saga.state in ENDED:
        return (_tell(plan, saga, now),)
    if saga.parked:
        return (Rest(),)
    if saga.recoveries > RECOVERIES_MAX:
        reason = f"{saga.recoveries} runs in a row were lost without progress"
        lost = e.Parked(at=now, cause=ParkCause.LOST_RUNS, reason=reason)
        return (Record(event=lost),)
    active = saga.state is SagaState.ACTIVE
    if plan.misfit:
        return _decide_misfit(plan, saga, now) if not active else (_misfit(plan, now),)
    found = (_go_forward if active else _go_back)(plan, saga, now)
    return (found[0],) if len(found) == 1 else _gather(found)  # most waves have one step


def _decide_misfit(plan: Plan, saga: Saga, now: float) -> tuple[Command, ...]:
    """On the way back what is known to be undone, or given up, is recorded; nothing is done."""
    backward = _gather(_go_back(plan, saga, now))
    return backward if isinstance(backward[0], Record) else (_misfit(plan, now),)


def _misfit(plan: Plan, now: float) -> Record:
    """Rule 32: no step is run by code that may not be its own."""
    return Record(event=e.Parked(at=now, cause=ParkCause.MISFIT, reason=plan.misfit))


def _gather(moves: Sequence[Command]) -> tuple[Command, ...]:
    """A decision goes alone and first; attempts that are due go together; otherwise rest."""
    todo: list[Command] = []
    until: float | None = None
    for move in moves:
        match move:
            case Record():
                return (move,)
            case Do():
                todo.append(move)
            case Rest():
                if move.until is not None:
                    until = move.until if until is None else min(until, move.until)
            case _:
                assert_never(move)
    return tuple(todo) or (Rest(until=until),)


def _tell(plan: Plan, saga: Saga, now: float) -> Command:
    if saga.tell is not Tell.DUE:
        return Rest()
    if lasted(saga, saga.tell_since, now) >= plan.patience_seconds:
        reason = f"not reached in {saga.tell_attempts} attempts: {saga.tell_error}"
        cause = ParkCause.UPSTREAM_AWAY
        return Record(event=e.TellRefused(at=now, reason=reason, cause=cause))
    if not is_due(saga.tell_due, now):
        return Rest(until=saga.tell_due)
    if _never_understood(saga, saga.tell_not_understood_since, now):
        cause = ParkCause.NOT_UNDERSTOOD
        return Record(event=e.TellRefused(at=now, reason=saga.tell_error, cause=cause))
    return Do(kind=AttemptKind.TELL, attempt=saga.tell_attempts + 1)


def _go_forward(plan: Plan, saga: Saga, now: float) -> list[Command]:
    if saga.requested_by and not past_pivot(plan, saga) and not pivot_undecided(plan, saga):
        return [Record(event=e.TurnedBack(at=now, reason=saga.reason))]
    steps = next_forward(plan, saga)
    if not steps:
        return [Record(event=e.Completed(at=now))]
    if len(steps) == 1:  # most waves, and a comprehension is a call
        return [_execute(plan, saga, steps[0], saga.steps.get(steps[0].name), now)]
    return [_execute(plan, saga, step, saga.steps.get(step.name), now) for step in steps]


def _execute(plan: Plan, saga: Saga, step: Step, known: StepState | None, now: float) -> Command:
    """The next move for one step on the way forward."""
    too_late = saga.deadline is not None and now >= saga.deadline
    if known is None:
        if too_late:
            return _give_up(plan, saga, step, "the deadline passed", now)
        return Do(kind=AttemptKind.EXECUTE, step=step.name)
    if known.phase in IN_FLIGHT:
        return Rest()
    if known.phase is Phase.REFUSED:
        return _give_up(plan, saga, step, known.error, now)
    if known.phase is Phase.AWAITING_APPROVAL or (known.phase is Phase.PENDING and not step.probed):
        if not is_due(known.due, now):
            return Rest(until=known.due)
        return Record(event=e.StillPending(at=now, step=step.name))
    if known.phase is Phase.PENDING:
        return _when_due(known, Do(kind=AttemptKind.PROBE, step=step.name), now)
    if known.phase is Phase.IN_DOUBT:
        if known.changed:
            changed = ParkCause.REQUEST_CHANGED
            return Record(event=e.Parked(at=now, cause=changed, reason=known.error))
        if can_probe(step, known):
            return _when_due(known, Do(kind=AttemptKind.PROBE, step=step.name), now)
        if must_be_settled(step, known):
            return _look_or_park(plan, saga, step, known, now)
    spent = _spent(plan, saga, step, known, now)
    patient = lasted(saga, known.since, now) < plan.patience_seconds
    looked_for = (spent or too_late) and patient and must_be_looked_for(step, known)
    # There is no undo of a pivot that would make its no one for good.
    leaves = (spent or too_late or saga.requested_by) and pivot_may_come(step, known)
    if looked_for or (leaves and can_probe(step, known)):
        return _when_due(known, Do(kind=AttemptKind.PROBE, step=step.name), now)
    if leaves and saga.requested_by and not known.doubted:  # it would act, and settle nothing
        return _give_up(plan, saga, step, f"asked to compensate: {known.error}", now)
    if spent:
        return _give_up(plan, saga, step, f"{known.attempts} attempts: {known.error}", now)
    if too_late:
        return _give_up(plan, saga, step, f"the deadline passed: {known.error}", now)
    again = Do(kind=AttemptKind.EXECUTE, step=step.name, attempt=known.attempts + 1)
    return _when_due(known, again, now, saga.deadline)


def _spent(plan: Plan, saga: Saga, step: Step, known: StepState, now: float) -> bool:
    """True when no further attempt forward is made (rule 28).

    Attempts count where an effect may stand. Behind the pivot there is no way back, and only
    patience ends what leaves the process.
    """
    if lasted(saga, known.since, now) >= plan.patience_seconds or known.final:
        return True
    may_stand = known.doubted or known.may_come
    if may_stand and key_forgotten(step, known.started_at, lasted(saga, known.since, now), now):
        return True
    if past_pivot(plan, saga) and step.kind not in LOCAL_KINDS:
        return False
    attempts = known.attempts - known.forgiven
    asked = known.pendings if step.kind is StepKind.FORWARD else 0
    return step.execution.exhausted(attempts) or PENDING.exhausted(asked)


def _look_or_park(plan: Plan, saga: Saga, step: Step, known: StepState, now: float) -> Command:
    """A call that may not be repeated is looked for while patience lasts, then waits."""
    if step.probed and lasted(saga, known.since, now) < plan.patience_seconds:
        return _when_due(known, Do(kind=AttemptKind.PROBE, step=step.name), now)
    return _park_in_doubt(step, known, now)


def _give_up(plan: Plan, saga: Saga, step: Step, reason: str, now: float) -> Command:
    """Backward where that is still possible; behind the pivot a person has to look."""
    known = saga.steps.get(step.name)
    unsettled_pivot = known is not None and (
        (step.pivot and known.doubted) or pivot_may_come(step, known)
    )
    # The pivot of a lost saga is in doubt although steps before it were never heard of (rule 33).
    if unsettled_pivot or pivot_undecided(plan, saga):
        text = f"the pivot is in doubt: {step.name}: {reason}"
        return Record(event=e.Parked(at=now, cause=ParkCause.PIVOT_IN_DOUBT, reason=text))
    if past_pivot(plan, saga):
        text = f"behind the pivot: {step.name}: {reason}"
        return Record(event=e.Parked(at=now, cause=ParkCause.BEHIND_PIVOT, reason=text))
    return Record(event=e.TurnedBack(at=now, step=step.name, reason=reason))


def _park_in_doubt(step: Step, known: StepState, now: float) -> Command:
    reason = (
        f"{step.name} is in doubt and {step.peer} can neither repeat it safely nor be asked:"
        f" {known.error}"
    )
    return Record(event=e.Parked(at=now, cause=ParkCause.IN_DOUBT, reason=reason))


def _go_back(plan: Plan, saga: Saga, now: float) -> list[Command]:
    if any(known.phase in (Phase.STARTED, Phase.PROBING) for known in saga.steps.values()):
        return [Rest()]  # rule 10: compensation never runs beside execution
    if steps := next_backward(plan, saga):
        return [_compensate(plan, saga, step, now) for step in steps]
    if stands := what_stands(plan, saga):
        return [Record(event=e.FailedToCompensate(at=now, stands=stands))]
    return [Record(event=e.Compensated(at=now))]


def _compensate(plan: Plan, saga: Saga, step: Step, now: float) -> Command:
    """The next move for one step on the way back."""
    known = saga.steps[step.name]
    if known.phase is Phase.COMPENSATING:
        return Rest()
    impatient = lasted(saga, known.compensation_since, now) >= plan.patience_seconds
    if known.phase is Phase.IN_DOUBT and known.looked_for:
        if not impatient:
            return _when_due(known, Do(kind=AttemptKind.PROBE, step=step.name), now)
        reason = f"undone, and {step.peer} did not say whether anything stands: {known.error}"
        unsure = e.CompensationRefused(at=now, step=step.name, reason=reason, certain=False)
        return Record(event=unsure)
    if known.phase is Phase.IN_DOUBT:
        if can_probe(step, known):
            return _when_due(known, Do(kind=AttemptKind.PROBE, step=step.name), now)
        if must_be_settled(step, known):
            return _look_or_park(plan, saga, step, known, now)
    if _never_understood(saga, known.not_understood_since, now):
        text = f"{step.peer} does not answer compensate in its own word: {known.error}"
        return Record(event=e.Parked(at=now, cause=ParkCause.NOT_UNDERSTOOD, reason=text))
    attempts = known.compensation_attempts
    compensation_lasted = lasted(saga, known.compensation_since, now)
    began = known.compensation_started_at
    if known.compensation_doubted and key_forgotten(step, began, compensation_lasted, now):
        reason = (
            f"not repeated, for {step.peer} has forgotten its key: resolve it if it has landed,"
            f" otherwise retry it with --anew --new-key: {known.error}"
        )
        forgotten = e.CompensationRefused(at=now, step=step.name, reason=reason, certain=False)
        return Record(event=forgotten)
    if impatient or step.compensation.exhausted(attempts - known.compensation_forgiven):
        reason = f"gave up after {attempts} attempts: {known.error}"
        certain = not known.compensation_doubted
        spent = e.CompensationRefused(at=now, step=step.name, reason=reason, certain=certain)
        return Record(event=spent)
    compensate = Do(kind=AttemptKind.COMPENSATE, step=step.name, attempt=attempts + 1)
    if known.phase is Phase.COMPENSATION_WAITING:
        return _when_due(known, compensate, now)
    return compensate


def _never_understood(saga: Saga, since: float | None, now: float) -> bool:
    return lasted(saga, since, now) >= NOT_UNDERSTOOD_SECONDS_MAX


def _when_due(known: StepState, command: Do, now: float, deadline: float | None = None) -> Command:
    if is_due(known.due, now):
        return command
    return Rest(until=known.due if deadline is None else min(known.due, deadline))
