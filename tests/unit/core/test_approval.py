"""Steps that wait for a person's yes or no (decision 0075)."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.describe import next_action
from stage.core.errors import DeclarationError
from stage.core.lost import events_after_restore
from stage.core.machine import decide, evolve
from stage.core.place import place_of
from stage.core.questions import (
    OVER,
    Standing,
    anything_stood,
    standing,
    standing_apart,
    what_stands,
)
from stage.core.saga import Saga
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.steps import Plan, Step, StepKind, plan_of
from stage.core.verbs import Approval, refuse_verb

HOUR = 3_600.0
RISK = Step(name="risk", kind=StepKind.APPROVAL, pending_seconds_max=5 * HOUR)
CHARGE = Step(name="charge", kind=StepKind.CALL, peer="psp", compensatable=True, probed=True)
PLAN = plan_of("payment", (RISK, CHARGE))
ACCEPTED = e.Accepted(at=0.0, deadline=60.0, upstream="order")
ASKED = e.ApprovalAsked(at=10.0, step="risk", shown=msgspec.Raw(b'{"amount":9}'))
YES = e.Approved(at=20.0, step="risk", actor="kim", why="known customer")
NO = e.Rejected(at=20.0, step="risk", actor="kim", why="card of a stranger")


def fold(*events: e.Event, plan: Plan = PLAN, saga: Saga | None = None) -> Saga:
    saga = saga or Saga(id="s-1")
    for event in events:
        saga = evolve(plan, saga, event)
    return saga


WAITING = fold(ACCEPTED, ASKED)


def test_a_saga_that_awaits_approval_holds_its_deadline_and_answers_202() -> None:
    """Hours of a person's time are no delay of the chain."""
    assert (None, True, True) == (WAITING.deadline, WAITING.pending, WAITING.deferred)
    assert Phase.AWAITING_APPROVAL is WAITING.steps["risk"].phase
    assert "risk" == place_of(PLAN, WAITING).step
    assert Standing.NOTHING is standing(WAITING, "risk")
    (rest,) = decide(PLAN, WAITING, 10.0)
    assert isinstance(rest, Rest)


def test_a_yes_lets_it_go_on_with_the_budget_that_was_left() -> None:
    """And the yes is the result of the step."""
    saga = fold(YES, saga=WAITING)

    assert (70.0, False) == (saga.deadline, saga.pending)
    assert (Do(kind=AttemptKind.EXECUTE, step="charge"),) == decide(PLAN, saga, 20.0)
    result = saga.steps["risk"].result
    assert result is not None
    said = msgspec.json.decode(result, type=Approval)
    assert Approval(by="kim", reason="known customer", at=20.0) == said
    assert saga.steps["risk"].shown is None


def test_patience_with_an_approval_begins_with_its_first_attempt() -> None:
    """That was made when its words for the person could not be made, or when it was asked for."""
    failed = e.StepTransient(at=5.0, step="risk", reason="KeyError in shown", defect=True)
    first, second = fold(ACCEPTED, ASKED), fold(ACCEPTED, failed, ASKED)
    assert (10.0, 10.0) == (first.steps["risk"].since, first.steps["risk"].pending_since)
    assert (5.0, 10.0) == (second.steps["risk"].since, second.steps["risk"].pending_since)


def test_a_yes_leaves_no_error_of_before() -> None:
    """The author's words for the person could not be made at first: a defect, which was mended."""
    failed = e.StepTransient(at=5.0, step="risk", reason="KeyError in shown", defect=True)
    saga = fold(ACCEPTED, failed, ASKED, YES)

    assert (Phase.SUCCEEDED, "") == (saga.steps["risk"].phase, saga.steps["risk"].error)


def test_a_no_turns_it_back_and_neighbours_read_neither_name_nor_reason() -> None:
    """Nothing of the step stands."""
    saga = fold(NO, saga=WAITING)
    (turn,) = decide(PLAN, saga, 20.0)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)
    saga = fold(turn.event, saga=saga)

    assert "the approval was rejected" == saga.detail
    assert "kim" not in saga.detail + saga.reason
    (end,) = decide(PLAN, saga, 20.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Compensated)


def test_silence_rejects_after_the_time_out_as_the_journal_shows_it() -> None:
    """Entries make time pass that can be trusted, and no clock alone ends the wait (rule 34)."""
    saga, entries = WAITING, 0
    while saga.steps["risk"].phase is Phase.AWAITING_APPROVAL:
        (rest,) = decide(PLAN, saga, saga.updated_at)
        assert isinstance(rest, Rest) and rest.until is not None
        (silent,) = decide(PLAN, saga, rest.until)
        assert isinstance(silent, Record) and isinstance(silent.event, e.StillPending)
        saga, entries = fold(silent.event, saga=saga), entries + 1

    assert 5 * HOUR <= saga.age - 10.0 < 5 * HOUR + 1.0
    assert 30 < entries < 100
    assert "the approval was not given in time" == saga.steps["risk"].said
    (turn,) = decide(PLAN, saga, saga.updated_at)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)


def test_a_wrong_clock_does_not_end_the_wait() -> None:
    """A jump of a year is one entry, and counts as a pause of minutes."""
    saga = fold(e.StillPending(at=365 * 24 * HOUR, step="risk"), saga=WAITING)

    assert Phase.AWAITING_APPROVAL is saga.steps["risk"].phase


@pytest.mark.parametrize("first", [YES, NO])
@pytest.mark.parametrize("second", [YES, NO])
def test_a_decision_counts_once(first: e.Verb, second: e.Verb) -> None:
    """The second person is told that nothing waits any more."""
    assert refuse_verb(PLAN, WAITING, first) is None
    assert refuse_verb(PLAN, fold(first, saga=WAITING), second)


def test_a_decision_for_another_step_is_refused_with_those_that_wait() -> None:
    """A page that was looked at an hour ago may speak of another one."""
    verb = e.Approved(at=20.0, step="limit", actor="kim", why="seen")
    assert "those that do: risk" in (refuse_verb(PLAN, WAITING, verb) or "")


def test_nobody_approves_what_turned_back_meanwhile() -> None:
    """Upstream gave up; the late yes does nothing."""
    asked = e.CompensationRequested(at=15.0, requested_by="order")
    saga = fold(asked, saga=WAITING)

    assert (SagaState.COMPENSATING, False) == (saga.state, saga.pending)
    assert Phase.REFUSED is saga.steps["risk"].phase
    assert "compensating" in (refuse_verb(PLAN, saga, YES) or "")


def test_a_retry_does_not_begin_the_wait_anew() -> None:
    """It is for what waits for a machine."""
    verb = e.Retried(at=20.0, actor="kim", why="again")
    assert "nothing to retry" in (refuse_verb(PLAN, WAITING, verb) or "")


def test_a_retry_asks_nobody_again_what_was_rejected() -> None:
    """It was parked between the no and the way back, and goes back."""
    parked = e.Parked(at=20.0, cause=ParkCause.KILLS_PROCESS, reason="two processes died")
    again = e.Retried(at=30.0, actor="kim", why="again")
    saga = fold(NO, parked, again, saga=WAITING)

    (turn,) = decide(PLAN, saga, 30.0)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)


def test_behind_its_pivot_an_approval_of_a_backup_is_asked_for_again() -> None:
    """The pivot was found to have happened: the only way is forward."""
    plan = BEFORE_PIVOT
    landed = e.Settled(at=40.0, actor="kim", why="asked", step="pay", landed=True)
    saga = restored(plan, fold(ACCEPTED, ASKED, plan=plan), 30.0)
    saga = fold(landed, plan=plan, saga=saga)
    (park,) = decide(plan, saga, 41.0)
    assert isinstance(park, Record) and isinstance(park.event, e.Parked)
    assert ParkCause.BEHIND_PIVOT is park.event.cause
    saga = fold(park.event, e.Retried(at=42.0, actor="kim", why="go"), plan=plan, saga=saga)

    (ask,) = decide(plan, saga, 43.0)
    assert Do(kind=AttemptKind.EXECUTE, step="risk", attempt=2) == ask


def test_a_restart_leaves_it_waiting_and_counts_no_run_as_lost() -> None:
    """It is deployed twenty times while the person is on leave."""
    saga = WAITING
    for epoch in range(2, 22):
        saga = fold(e.Recovered(at=10.1, epoch=epoch, rested=True), saga=saga)

    assert (Phase.AWAITING_APPROVAL, 0) == (saga.steps["risk"].phase, saga.recoveries)
    (rest,) = decide(PLAN, saga, 10.1)
    assert isinstance(rest, Rest)


def test_a_restored_backup_asks_nobody_again() -> None:
    """It may have been approved, and paid, since the backup (decision 0050)."""
    events = [e.Recovered(at=30.0, epoch=2, generation=2)]
    saga = fold(*events, *events_after_restore(PLAN, WAITING, 2, 30.0), saga=WAITING)

    assert SagaState.COMPENSATING is saga.state
    assert refuse_verb(PLAN, saga, YES)
    assert saga.steps["charge"].doubted and not saga.steps["risk"].doubted


@pytest.mark.parametrize("verb", [e.Abandoned, e.Resolved])
def test_a_saga_that_is_ended_by_hand_asks_nobody_any_more(
    verb: type[e.Abandoned | e.Resolved],
) -> None:
    """The words for the person are gone, and so is the wait."""
    held = Step(name="hold", kind=StepKind.TRANSACTION, compensatable=True)
    plan = replace(plan_of("payment", (held, RISK)), misfit="no version fits")
    made = e.StepSucceeded(at=5.0, step="hold", result=msgspec.Raw(b"1"))
    parked = e.Parked(at=20.0, cause=ParkCause.MISFIT, reason=plan.misfit)
    saga = fold(ACCEPTED, made, ASKED, parked, plan=plan)
    order = verb(at=30.0, actor="kim", why="by hand", step="")
    assert refuse_verb(plan, saga, order) is None
    saga = fold(order, plan=plan, saga=saga)

    assert (Phase.REFUSED, False) == (saga.steps["risk"].phase, saga.pending)
    assert saga.steps["risk"].shown is None


def test_a_yes_is_no_effect_that_stands() -> None:
    """A saga that turned back behind it executed nothing."""
    saga = fold(YES, saga=WAITING)
    assert ((), ()) == standing_apart(PLAN, saga)
    assert Standing.NOTHING is standing(saga, "risk")

    no = (e.StepStarted(at=21.0, step="charge", attempt=1), e.StepRefused(at=22.0, step="charge"))
    saga = fold(*no, saga=saga)
    for _ in range(2):
        (step,) = decide(PLAN, saga, 22.0)
        assert isinstance(step, Record)
        saga = fold(step.event, saga=saga)
    assert (SagaState.COMPENSATED, False) == (saga.state, anything_stood(saga))


def test_a_saga_abandoned_behind_its_pivot_does_not_report_the_approval() -> None:
    """A person gave a yes, which nobody has to undo."""
    ship = Step(name="ship", kind=StepKind.CALL, peer="parcels")
    plan = plan_of("payment", (RISK, PIVOT, ship))
    paid = (
        e.StepStarted(at=20.0, step="pay", attempt=1),
        e.StepSucceeded(at=21.0, step="pay", result=msgspec.Raw(b"1")),
        e.Parked(at=30.0, cause=ParkCause.BEHIND_PIVOT, reason="x"),
        e.Abandoned(at=40.0, actor="kim", why="by hand", step=""),
    )
    saga = fold(ACCEPTED, ASKED, YES, *paid, plan=plan)

    assert ("pay",) == what_stands(plan, saga)


PIVOT = Step(name="pay", kind=StepKind.CALL, peer="psp", pivot=True)
BEFORE_PIVOT = plan_of("payment", (RISK, PIVOT))


def restored(plan: Plan, backup: Saga, at: float) -> Saga:
    recovered = e.Recovered(at=at, epoch=2, generation=2)
    return fold(recovered, *events_after_restore(plan, backup, 2, at), plan=plan, saga=backup)


def test_a_restored_backup_asks_nobody_again_for_its_pivot() -> None:
    """The pivot may have happened: neither way is open, and a person settles it (decision 0050)."""
    saga = restored(BEFORE_PIVOT, fold(ACCEPTED, ASKED, plan=BEFORE_PIVOT), 2 * 24 * HOUR)

    assert refuse_verb(BEFORE_PIVOT, saga, YES)
    assert Phase.REFUSED is saga.steps["risk"].phase
    for now in (0.0, 1e9):  # whatever the clocks say: a yes pays nothing, nor does a retry
        (park,) = decide(BEFORE_PIVOT, saga, now)
        assert isinstance(park, Record) and isinstance(park.event, e.Parked)
        assert ParkCause.PIVOT_IN_DOUBT is park.event.cause
        again = e.Retried(at=now, actor="kim", why="again")
        saga = fold(park.event, again, plan=BEFORE_PIVOT, saga=saga)


@pytest.mark.parametrize("pends_again", [False, True])
def test_a_call_that_pended_in_the_backup_leaves_no_budget_to_go_forward(
    pends_again: bool,
) -> None:
    """The wait of a restored saga ends, and its deadline is over by every clock."""
    hold = Step(name="hold", kind=StepKind.CALL, peer="psp", probed=True, pending_seconds_max=HOUR)
    plan = plan_of("payment", (hold, PIVOT))
    started = e.StepStarted(at=1.0, step="hold", attempt=1)
    pending = e.StepPending(at=2.0, step="hold")
    saga = restored(plan, fold(ACCEPTED, started, pending, plan=plan), 30.0)
    if pends_again:
        more = (e.ProbeStarted(at=31.0, step="hold"), e.ProbePending(at=31.0, step="hold"))
        saga = fold(*more, plan=plan, saga=saga)
        assert (OVER, True, True) == (saga.deadline, saga.pending, saga.deferred)
    found = (e.ProbeStarted(at=32.0, step="hold"), e.ProbeFound(at=32.0, step="hold"))
    saga = fold(*found, plan=plan, saga=saga)

    assert (OVER, False) == (saga.deadline, saga.pending)


def test_an_approval_behind_the_pivot_is_refused() -> None:
    """Nobody could say no there."""
    pivot = Step(name="pay", kind=StepKind.CALL, peer="psp", pivot=True)
    with pytest.raises(DeclarationError, match=r"'risk'.*nobody can say no.*before the pivot"):
        plan_of("payment", (pivot, RISK))


def test_the_next_action_is_that_of_a_person_until_the_time_out() -> None:
    """The saga looks again and again, which is nobody's business."""
    expected = ("waits for a person to approve risk; silence is a no", 10.0 + 5 * HOUR)
    assert expected == next_action(PLAN, WAITING, 10.0)
