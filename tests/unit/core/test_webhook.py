"""A webhook tells how a call ended: before the answer, twice, late (decision 0067)."""

from __future__ import annotations

import pytest
from msgspec import Raw
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.machine import (
    decide,
    evolve,
    heard_before,
    landed_behind_close,
    lands_behind_close,
)
from stage.core.questions import standing_apart, what_stands
from stage.core.saga import Saga
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.steps import Step, StepKind, plan_of
from tests.unit.core.world import ONE

CHARGE = Step(name="charge", kind=StepKind.CALL, peer="psp", compensatable=True, hooked=True)
PLAN = plan_of("payment", (CHARGE, Step(name="record", kind=StepKind.TRANSACTION)))
BEGUN: tuple[e.Event, ...] = (
    e.Accepted(at=0.0, deadline=60.0, upstream="order"),
    e.StepStarted(at=0.0, step="charge", attempt=1),
)
PENDING = e.StepPending(at=10.0, step="charge", reason="3-D Secure")
DOUBT = e.StepInDoubt(at=10.0, step="charge", reason="timeout")
LANDED = e.WebhookFound(at=20.0, step="charge", result=ONE)
FAILED = e.WebhookRefused(at=20.0, step="charge", reason="not authenticated")
RECORD = Do(kind=AttemptKind.EXECUTE, step="record")
UNDO = Do(kind=AttemptKind.COMPENSATE, step="charge")


def fold(*events: e.Event, saga: Saga | None = None) -> Saga:
    saga = saga or Saga(id="s-1")
    for event in events:
        saga = evolve(PLAN, saga, event)
    return saga


@pytest.mark.parametrize("before", [PENDING, DOUBT], ids=["pending", "in doubt"])
def test_a_webhook_ends_a_call_that_has_no_end_here(before: e.Event) -> None:
    """The saga goes on with what it brought, and with the budget that was left."""
    saga = fold(*BEGUN, before, LANDED)

    assert (Phase.SUCCEEDED, ONE) == (saga.steps["charge"].phase, saga.steps["charge"].result)
    assert (False, {}) == (saga.pending, saga.heard)
    assert saga.deadline is not None
    assert (RECORD,) == decide(PLAN, saga, 20.0)


def test_a_webhook_that_says_no_turns_the_saga_back_with_nothing_to_undo() -> None:
    """As a probe that finds a business no."""
    saga = fold(*BEGUN, PENDING, FAILED)
    (turn,) = decide(PLAN, saga, 20.0)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)
    saga = fold(turn.event, saga=saga)

    assert "not authenticated" == saga.detail
    (end,) = decide(PLAN, saga, 20.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Compensated)


@pytest.mark.parametrize("end", [PENDING, DOUBT], ids=["pending", "in doubt"])
def test_a_webhook_before_the_answer_waits_for_it(end: e.Event) -> None:
    """No second attempt runs beside the first; an answer that tells nothing yields to it."""
    early = replace(LANDED, at=5.0)
    saga = fold(*BEGUN, early)
    assert Phase.STARTED is saga.steps["charge"].phase
    assert heard_before(PLAN, saga, early)

    saga = fold(end, saga=saga)

    assert (Phase.SUCCEEDED, ONE) == (saga.steps["charge"].phase, saga.steps["charge"].result)
    assert not saga.pending


def test_the_answer_itself_counts_where_both_say_yes() -> None:
    """The function's own result stands."""
    saga = fold(*BEGUN, replace(LANDED, at=5.0), e.StepSucceeded(at=6.0, step="charge"))

    assert (Raw(b"null"), {}) == (saga.steps["charge"].result, saga.heard)


def test_a_no_of_the_answer_is_undone_where_the_webhook_said_yes() -> None:
    """The two contradict each other, so the effect may stand (rule 6)."""
    no = e.StepRefused(at=6.0, step="charge", reason="declined")
    saga = fold(*BEGUN, replace(LANDED, at=5.0), no)
    (turn,) = decide(PLAN, saga, 6.0)
    assert isinstance(turn, Record)

    assert (UNDO,) == decide(PLAN, fold(turn.event, saga=saga), 6.0)


def test_a_lost_run_does_not_lose_what_was_heard() -> None:
    """It was journaled, and the attempt in flight has no other end than that of its process."""
    saga = fold(*BEGUN, replace(LANDED, at=5.0), e.Recovered(at=30.0, epoch=2))

    assert (RECORD,) == decide(PLAN, saga, 30.0)


@pytest.mark.parametrize("word", [LANDED, FAILED], ids=["yes", "no"])
def test_a_repeated_or_late_webhook_changes_nothing(word: e.Webhook) -> None:
    """After the call has an end, and of a step that was never begun."""
    done = fold(*BEGUN, PENDING, LANDED)
    ended = fold(e.StepSucceeded(at=21.0, step="record"), e.Completed(at=22.0), saga=done)
    for saga in (done, ended, fold(BEGUN[0])):
        assert heard_before(PLAN, saga, word)
        assert saga.steps == evolve(PLAN, saga, replace(word, at=23.0)).steps


def test_a_yes_outweighs_a_no_while_the_answer_is_on_its_way() -> None:
    """Webhooks arrive in any order, and money that moved is not forgotten."""
    for words in ((LANDED, FAILED), (FAILED, LANDED)):
        saga = fold(*BEGUN, *(replace(word, at=5.0) for word in words), DOUBT)
        assert Phase.SUCCEEDED is saga.steps["charge"].phase


def test_a_yes_behind_a_no_is_news_and_a_no_behind_a_yes_is_none() -> None:
    """A word of the other kind is kept only where it changes what will follow."""
    yes, no = replace(LANDED, at=5.0), replace(FAILED, at=5.0)
    assert not heard_before(PLAN, fold(*BEGUN), yes)
    assert not heard_before(PLAN, fold(*BEGUN), no)
    assert not heard_before(PLAN, fold(*BEGUN, no), yes)
    assert heard_before(PLAN, fold(*BEGUN, no), no)
    assert heard_before(PLAN, fold(*BEGUN, yes), no)


@pytest.mark.parametrize("step", ["gone", "record"])
def test_a_word_on_no_call_of_the_plan_is_no_news(step: str) -> None:
    """A step that is not there, or that leaves nothing outside."""
    assert heard_before(PLAN, fold(*BEGUN), replace(LANDED, at=5.0, step=step))


def test_a_webhook_on_the_way_back_brings_the_result_to_the_undo() -> None:
    """The undo of a call in doubt knows then what it takes back."""
    asked = e.CompensationRequested(at=15.0, requested_by="order")
    saga = fold(*BEGUN, PENDING, asked, LANDED)

    assert SagaState.COMPENSATING is saga.state
    assert ONE == saga.steps["charge"].result
    assert (UNDO,) == decide(PLAN, saga, 20.0)


def test_a_saga_that_waits_for_a_person_to_settle_a_doubt_goes_on() -> None:
    """The person has nothing to look up any more; any other cause still waits for one."""
    for cause, goes_on in ((ParkCause.IN_DOUBT, True), (ParkCause.DEFECT, False)):
        parked = e.Parked(at=15.0, cause=cause, reason="looked at by hand")
        assert (not fold(*BEGUN, DOUBT, parked, LANDED).parked) is goes_on


def test_the_budget_runs_on_from_the_webhook_though_a_probe_is_in_flight() -> None:
    """The probe, and the hour until a dead process is missed, are no wait for the API."""
    saga = fold(*BEGUN, PENDING, e.ProbeStarted(at=15.0, step="charge"), LANDED)
    assert (False, 70.0) == (saga.pending, saga.deadline)

    late = fold(e.Recovered(at=3_620.0, epoch=2), saga=saga)

    assert 70.0 == late.deadline
    (turn,) = decide(PLAN, late, 3_620.0)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)


def test_a_probe_that_ends_behind_the_webhook_changes_no_deadline() -> None:
    """The word of the API was heard before."""
    saga = fold(*BEGUN, PENDING, e.ProbeStarted(at=15.0, step="charge"), LANDED)
    for end in (
        e.ProbePending(at=25.0, step="charge", reason="still"),
        e.ProbeFailed(at=25.0, step="charge", reason="500"),
        e.ProbeFound(at=25.0, step="charge", result=ONE),
    ):
        after = fold(end, saga=saga)
        assert (False, 70.0) == (after.pending, after.deadline), end
        assert Phase.SUCCEEDED is after.steps["charge"].phase


# --- a yes that comes behind a no ---

NO = e.StepRefused(at=6.0, step="charge", reason="declined", said=True)
UNDONE = (
    e.TurnedBack(at=6.0, step="charge", reason="declined"),
    e.Compensated(at=6.0),
)


@pytest.mark.parametrize("over", [False, True], ids=["on the way back", "over"])
def test_a_yes_behind_a_no_is_undone_with_its_result(over: bool) -> None:
    """In whatever order the two come, and also where the saga was called undone by then."""
    saga = fold(*BEGUN, NO, *(UNDONE if over else UNDONE[:1]))
    assert not heard_before(PLAN, saga, LANDED)
    saga = fold(LANDED, saga=saga)

    assert SagaState.COMPENSATING is saga.state
    assert (ONE, True) == (saga.steps["charge"].result, saga.steps["charge"].doubted)
    assert ((), ("charge",)) == standing_apart(PLAN, saga)
    assert (UNDO,) == decide(PLAN, saga, 20.0)
    assert heard_before(PLAN, saga, LANDED)
    begun = e.CompensationStarted(at=20.0, step="charge", attempt=1)
    saga = fold(begun, e.CompensationSucceeded(at=21.0, step="charge"), saga=saga)
    assert heard_before(PLAN, saga, LANDED)
    (end,) = decide(PLAN, saga, 21.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Compensated)


def test_a_yes_behind_a_no_leaves_what_else_could_not_be_undone() -> None:
    """A saga that waits for a person undoes this as well, and waits for the person again."""
    other = replace(CHARGE, name="fee")
    plan = plan_of("payment", (other, CHARGE))
    journal = (
        BEGUN[0],
        e.StepStarted(at=0.0, step="fee", attempt=1),
        e.StepSucceeded(at=1.0, step="fee", result=ONE),
        replace(BEGUN[1], at=1.0),
        NO,
        UNDONE[0],
        e.CompensationStarted(at=7.0, step="fee", attempt=1),
        e.CompensationRefused(at=8.0, step="fee", reason="it keeps it"),
        e.FailedToCompensate(at=8.0, stands=("fee",)),
        LANDED,
    )
    saga = Saga(id="s-1")
    for event in journal:
        saga = evolve(plan, saga, event)
    assert (UNDO,) == decide(plan, saga, 20.0)
    for event in (
        e.CompensationStarted(at=20.0, step="charge", attempt=1),
        e.CompensationSucceeded(at=21.0, step="charge"),
    ):
        saga = evolve(plan, saga, event)
    assert (Record(event=e.FailedToCompensate(at=21.0, stands=("fee",))),) == decide(
        plan, saga, 21.0
    )


def test_a_yes_behind_a_no_notifies_the_upstream_that_could_not_be_notified() -> None:
    """The word lifts the park, which was all that said that upstream still believes a yes."""
    over = (
        *(replace(BEGUN[0], deferred=True), BEGUN[1], NO, *UNDONE),
        e.TellStarted(at=7.0, attempt=1),
        e.TellRefused(at=8.0, reason="answered 409", cause=ParkCause.UPSTREAM_CANNOT),
    )
    begun = e.CompensationStarted(at=20.0, step="charge", attempt=1)
    ended = (begun, e.CompensationSucceeded(at=21.0, step="charge"), e.Compensated(at=21.0))
    saga = fold(*over, LANDED, *ended)

    assert "" == saga.parked
    assert (Do(kind=AttemptKind.TELL, attempt=2),) == decide(PLAN, saga, 21.0)


@pytest.mark.parametrize("kind", ["a no", "forgotten", "without an undo"])
def test_a_word_behind_a_no_that_can_change_nothing_is_not_kept(kind: str) -> None:
    """A second no, a saga that a person has taken over, and an effect that may stay."""
    saga = fold(*BEGUN, NO, *UNDONE)
    plan, word = PLAN, LANDED if kind != "a no" else FAILED
    if kind == "forgotten":
        saga = fold(e.Forgotten(at=7.0, actor="kim", why="by hand"), saga=saga)
    if kind == "without an undo":
        plan = plan_of("payment", (replace(CHARGE, compensatable=False),))
    assert heard_before(plan, saga, word)


# --- a yes that comes when all is over, of a pivot as well ---

HOLD = replace(CHARGE, name="hold")
PAY = replace(CHARGE, name="pay", compensatable=False, pivot=True)
PAYOUT = plan_of("payout", (HOLD, PAY))
HELD: tuple[e.Event, ...] = (
    BEGUN[0],
    e.StepStarted(at=0.0, step="hold", attempt=1),
    e.StepSucceeded(at=1.0, step="hold", result=ONE),
    e.StepStarted(at=1.0, step="pay", attempt=1),
)
HOLD_UNDONE = (
    e.CompensationStarted(at=7.0, step="hold", attempt=1),
    e.CompensationSucceeded(at=8.0, step="hold"),
)
PAID = replace(LANDED, step="pay")


def payout(*events: e.Event) -> Saga:
    saga = Saga(id="s-1")
    for event in (*HELD, *events):
        saga = evolve(PAYOUT, saga, event)
    return saga


@pytest.mark.parametrize("over", [False, True], ids=["on the way back", "over"])
@pytest.mark.parametrize("no", ["refused", "for now"])
def test_a_pivot_that_landed_behind_its_no_is_reported(no: str, over: bool) -> None:
    """Nothing can undo it: it was acknowledged, and the saga said that nothing stood."""
    said: tuple[e.Event, ...] = (replace(NO, step="pay"),)
    if no == "for now":
        said = (
            e.StepTransient(at=2.0, step="pay", reason="429", may_come=True),
            *(e.ProbeStarted(at=3.0, step="pay"), e.ProbeNotThere(at=3.0, step="pay")),
            *(e.ProbeStarted(at=5.0, step="pay"), e.ProbeNotThere(at=5.0, step="pay")),
        )
    back = e.TurnedBack(at=6.0, step="pay", reason="declined")
    undone = (*HOLD_UNDONE, e.Compensated(at=8.0)) if over else HOLD_UNDONE
    saga = payout(*said, back, *undone)
    assert not heard_before(PAYOUT, saga, PAID)
    saga = evolve(PAYOUT, saga, PAID)

    (end,) = decide(PAYOUT, saga, 20.0)
    assert Record(event=e.FailedToCompensate(at=20.0, stands=("pay",))) == end
    saga = evolve(PAYOUT, saga, end.event)
    assert (("pay",), ()) == standing_apart(PAYOUT, saga)
    assert ParkCause.FAILED_TO_COMPENSATE is saga.parked_cause
    assert heard_before(PAYOUT, saga, PAID)


@pytest.mark.parametrize("when", ["before the answer", "while it waits for a person"])
def test_a_pivot_that_landed_before_anything_was_undone_goes_forward(when: str) -> None:
    """Its API says so: neither its answer's no nor a person is needed."""
    no = replace(NO, step="pay")
    saga = payout(replace(PAID, at=5.0), no)
    if when != "before the answer":
        doubt = e.StepInDoubt(at=2.0, step="pay", reason="timeout")
        parked = e.Parked(at=6.0, cause=ParkCause.PIVOT_IN_DOUBT, reason="looked at by hand")
        again = e.StepStarted(at=3.0, step="pay", attempt=2)
        saga = evolve(PAYOUT, payout(doubt, again, no, parked), PAID)

    assert (Phase.SUCCEEDED, "") == (saga.steps["pay"].phase, saga.parked)
    (end,) = decide(PAYOUT, saga, 20.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Completed)


SHIP = replace(PAY, name="ship", pivot=False)
BILL = replace(SHIP, name="bill", idempotent=False)
BEHIND = plan_of("payout", (HOLD, PAY, *(replace(each, group="end") for each in (SHIP, BILL))))
DOUBTED: tuple[e.Event, ...] = (
    e.StepStarted(at=2.0, step="ship", attempt=1),
    e.StepInDoubt(at=3.0, step="ship", reason="timeout"),
)
REFUSED = e.StepRefused(at=4.0, step="ship", reason="no such street", said=True)
SHIPPED = replace(LANDED, step="ship")


def behind(*events: e.Event) -> Saga:
    """A payout that has happened; `ship` and `bill` follow it together, and `bill` is done."""
    saga = Saga(id="s-1")
    paid = e.StepSucceeded(at=2.0, step="pay", result=ONE)
    billed = (
        e.StepStarted(at=2.0, step="bill", attempt=1),
        e.StepSucceeded(at=2.0, step="bill", result=ONE),
    )
    for event in (*HELD, paid, *(billed if events[0] is DOUBTED[0] else ()), *events):
        saga = evolve(BEHIND, saga, event)
    return saga


@pytest.mark.parametrize("ended", ["in doubt", "refused", "refused while it was in flight"])
def test_a_yes_behind_the_pivot_ends_the_park_for_that_step(ended: str) -> None:
    """Its API says that it landed, so that nobody has to retry it; the only way is forward."""
    parked = e.Parked(at=15.0, cause=ParkCause.BEHIND_PIVOT, reason="behind the pivot: ship")
    if ended == "refused while it was in flight":
        saga = behind(DOUBTED[0], replace(SHIPPED, at=3.0), REFUSED)
    else:
        saga = behind(*DOUBTED, *((REFUSED,) if ended == "refused" else ()), parked)
        assert not heard_before(BEHIND, saga, SHIPPED)
        saga = evolve(BEHIND, saga, SHIPPED)

    assert ("", Phase.SUCCEEDED, ONE) == (
        saga.parked, saga.steps["ship"].phase, saga.steps["ship"].result,
    )  # fmt: skip
    (end,) = decide(BEHIND, saga, 20.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Completed)


def test_a_word_behind_the_pivot_leaves_the_park_for_another_step() -> None:
    """A no says nothing new there, and a yes of one step does not mend the other."""
    parked = e.Parked(at=15.0, cause=ParkCause.BEHIND_PIVOT, reason="behind the pivot: bill")
    billing = (
        e.StepStarted(at=2.0, step="bill", attempt=1),
        e.StepRefused(at=3.0, step="bill", reason="no such account"),
    )
    saga = behind(*billing, *DOUBTED, parked)
    for word in (SHIPPED, replace(FAILED, step="ship")):
        after = evolve(BEHIND, saga, word)
        assert ParkCause.BEHIND_PIVOT is after.parked_cause

    doubt = e.StepInDoubt(at=3.0, step="bill", reason="timeout")
    goes_on = evolve(BEHIND, behind(billing[0], doubt, *DOUBTED, parked), SHIPPED)
    (again,) = decide(BEHIND, goes_on, 20.0)
    assert isinstance(again, Record) and isinstance(again.event, e.Parked), "for its own cause"


def test_a_yes_behind_a_certain_no_is_undone_where_the_saga_is_over() -> None:
    """A code that the author vouches for was a gateway's, and the call stood in what was over."""
    certain = e.StepTransient(at=6.0, step="charge", reason="answered 503")
    saga = fold(*BEGUN, certain, *UNDONE)
    assert not heard_before(PLAN, saga, LANDED)
    saga = fold(LANDED, saga=saga)

    assert (SagaState.COMPENSATING, ONE) == (saga.state, saga.steps["charge"].result)
    assert (UNDO,) == decide(PLAN, saga, 20.0)


# --- a yes that comes when the saga is closed (decision 0101) ---

CLOSED = Saga(id="s-1", state=SagaState.COMPENSATED)


def test_a_yes_of_a_saga_that_was_closed_as_compensated_may_stand() -> None:
    """Nothing is left that would tell a refused call from one that was undone."""
    kept = plan_of("payment", (replace(CHARGE, compensatable=False),))
    assert lands_behind_close(PLAN, CLOSED, LANDED)
    assert lands_behind_close(PAYOUT, CLOSED, PAID)
    for plan, saga, event in (
        (PLAN, CLOSED, FAILED),
        (PLAN, CLOSED, None),
        (PLAN, replace(CLOSED, state=SagaState.COMPLETED), LANDED),
        (PLAN, replace(CLOSED, state=SagaState.FAILED_TO_COMPENSATE), LANDED),
        (PLAN, CLOSED, PAID),
        (kept, CLOSED, LANDED),
    ):
        assert not lands_behind_close(plan, saga, event), (plan, saga, event)


def test_such_a_saga_says_what_stands_and_under_which_key() -> None:
    """With the result, which is all that was said of it."""
    saga, parked = landed_behind_close(PLAN, CLOSED, LANDED)
    failed = e.FailedToCompensate(at=20.0, stands=("charge",))
    for event in (LANDED, failed, parked):
        saga = evolve(PLAN, saga, event)

    assert ("charge",) == saga.stands == what_stands(PLAN, saga)
    assert ONE == saga.steps["charge"].result
    assert (SagaState.FAILED_TO_COMPENSATE, ParkCause.LANDED_LATE) == (
        saga.state,
        saga.parked_cause,
    )
    assert "psp said by a webhook" in saga.parked and "s-1:payment:charge:do" in saga.parked
