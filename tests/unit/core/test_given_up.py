"""A step that a person gave up is never forgotten, nor is anything undone around such a pivot."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.machine import decide, evolve
from stage.core.saga import Saga
from stage.core.states import ParkCause, SagaState
from stage.core.steps import Plan, Step, StepKind, adjusted, plan_of
from stage.core.verbs import refuse_verb
from tests.unit.core import plans
from tests.unit.core.world import ONE

HOLD = Step(name="hold", kind=StepKind.CALL, peer="bank", compensatable=True)
PAY = Step(name="pay", kind=StepKind.CALL, peer="bank", pivot=True)
SHIP = Step(name="ship", kind=StepKind.CALL, peer="parcels")
PLAN = plan_of("payout", (HOLD, PAY, SHIP))
HELD: tuple[e.Event, ...] = (
    e.Accepted(at=0.0, deadline=60.0, upstream="order"),
    e.StepStarted(at=0.0, step="hold", attempt=1),
    e.StepSucceeded(at=1.0, step="hold", result=ONE),
    e.StepStarted(at=1.0, step="pay", attempt=1),
)
IN_DOUBT = (
    e.StepInDoubt(at=2.0, step="pay", reason="timeout"),
    e.Parked(at=3.0, cause=ParkCause.PIVOT_IN_DOUBT, reason="nobody knows"),
)
BEHIND = (
    e.StepSucceeded(at=2.0, step="pay", result=ONE),
    e.StepStarted(at=2.0, step="ship", attempt=1),
    e.StepRefused(at=3.0, step="ship", reason="no such street"),
    e.Parked(at=3.0, cause=ParkCause.BEHIND_PIVOT, reason="no such street"),
)
ABANDONED = e.Abandoned(at=10.0, actor="kim", why="the bank is gone", step="")
RETRIED = e.Retried(at=20.0, actor="kim", why="all of them again")


def fold(*events: e.Event, plan: Plan = PLAN, saga: Saga | None = None) -> Saga:
    saga = saga or Saga(id="s-1")
    for event in events:
        saga = evolve(plan, saga, event)
    return saga


def ended(saga: Saga, at: float, plan: Plan = PLAN) -> tuple[Saga, tuple[str, ...]]:
    """The saga as its next decision ends it, and what that says stands."""
    (end,) = decide(plan, saga, at)
    assert isinstance(end, Record) and isinstance(end.event, e.FailedToCompensate)
    return fold(end.event, plan=plan, saga=saga), end.event.stands


@pytest.mark.parametrize("pivot", [IN_DOUBT, BEHIND], ids=["in doubt", "behind it"])
def test_a_retry_undoes_nothing_around_a_pivot_that_was_given_up(
    pivot: tuple[e.Event, ...],
) -> None:
    """It released what a payout had been made from, and said that nothing stood."""
    saga, stands = ended(fold(*HELD, *pivot, ABANDONED), 10.0)
    assert ("hold", "pay") == stands

    saga, stands = ended(fold(RETRIED, saga=saga), 20.0)

    assert ("hold", "pay") == stands
    assert SagaState.FAILED_TO_COMPENSATE is saga.state
    resolved = e.Resolved(at=30.0, actor="kim", why="both by hand")
    (over,) = decide(PLAN, fold(resolved, saga=saga), 30.0)
    assert Record(event=e.Compensated(at=30.0)) == over


def test_a_retry_keeps_a_doubt_that_nothing_can_undo() -> None:
    """A call without a compensation is given up with the others, and has nothing to try again."""
    fee = Step(name="fee", kind=StepKind.CALL, peer="tax", idempotent=False)
    plan = plan_of("payout", (HOLD, fee))
    doubt = (
        replace(HELD[3], step="fee"),
        replace(IN_DOUBT[0], step="fee"),
        replace(IN_DOUBT[1], cause=ParkCause.IN_DOUBT),
    )
    saga, stands = ended(fold(*HELD[:3], *doubt, ABANDONED, plan=plan), 10.0, plan)
    assert ("hold", "fee") == stands

    again = (
        RETRIED,
        e.CompensationStarted(at=20.0, step="hold", attempt=1),
        e.CompensationSucceeded(at=21.0, step="hold"),
    )
    _, stands = ended(fold(*again, plan=plan, saga=saga), 21.0, plan)

    assert ("fee",) == stands


LATER = e.StepRefused(at=3.0, step="ship", reason="the second of its requests", may_stand=True)
AGAIN = Do(kind=AttemptKind.EXECUTE, step="ship", attempt=2)
LOOK = Do(kind=AttemptKind.PROBE, step="ship")


def unkeyed(*, probed: bool) -> Plan:
    """The step behind the pivot is at an API that ignores keys."""
    return plan_of("payout", (HOLD, PAY, replace(SHIP, idempotent=False, probed=probed)))


def not_there(at: float) -> tuple[e.Event, ...]:
    return e.ProbeStarted(at=at, step="ship"), e.ProbeNotThere(at=at, step="ship")


def test_a_retry_repeats_nothing_whose_refusal_left_a_doubt_without_a_look() -> None:
    """Its first request stands, and an API without keys would do it twice (rule 5)."""
    plan, journal = unkeyed(probed=True), (*HELD, *BEHIND[:2], LATER, BEHIND[3], RETRIED)
    saga = fold(*journal, plan=plan)
    assert (LOOK,) == decide(plan, saga, 20.0)
    found = fold(e.ProbeStarted(at=20.0, step="ship"), plan=plan, saga=saga)
    found = fold(e.ProbeFound(at=20.0, step="ship", result=ONE), plan=plan, saga=found)
    (end,) = decide(plan, found, 20.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Completed)

    twice = fold(*not_there(20.0), *not_there(40.0), plan=plan, saga=saga)
    assert (AGAIN,) == decide(plan, twice, 90.0)
    keyed = plan_of("payout", (HOLD, PAY, replace(SHIP, probed=True)))
    assert (AGAIN,) == decide(keyed, fold(*journal, plan=keyed), 20.0)


def test_a_doubt_that_a_refusal_left_is_settled_before_it_is_retried() -> None:
    """There is no probe: a person has to look. A no without a doubt is tried again at once."""
    plan, behind = unkeyed(probed=False), (*HELD, *BEHIND[:2])
    saga = fold(*behind, LATER, BEHIND[3], RETRIED, plan=plan)
    (park,) = decide(plan, saga, 20.0)
    assert isinstance(park, Record) and isinstance(park.event, e.Parked)
    assert ParkCause.IN_DOUBT is park.event.cause
    settled = e.Settled(at=21.0, actor="kim", why="asked it", step="ship", landed=False)
    assert (AGAIN,) == decide(plan, fold(park.event, settled, plan=plan, saga=saga), 21.0)
    first = fold(*behind, LATER, BEHIND[3], settled, RETRIED, plan=plan)
    assert (AGAIN,) == decide(plan, first, 21.0)
    assert (AGAIN,) == decide(plan, fold(*behind, *BEHIND[2:], RETRIED, plan=plan), 20.0)


def test_a_look_before_the_attempt_that_left_a_doubt_says_nothing_of_it() -> None:
    """Twice not there allowed that attempt, and none behind it."""
    plan = unkeyed(probed=True)
    doubt = e.StepInDoubt(at=2.5, step="ship", reason="timeout")
    again = e.StepStarted(at=50.0, step="ship", attempt=2)
    journal = (doubt, *not_there(20.0), *not_there(40.0), again, replace(LATER, at=51.0))
    parked, retried = replace(BEHIND[3], at=52.0), replace(RETRIED, at=60.0)
    saga = fold(*HELD, *BEHIND[:2], *journal, parked, retried, plan=plan)
    assert (LOOK,) == decide(plan, saga, 60.0)


DOUBTED = e.StepInDoubt(at=0.5, step="north", reason="timeout")


@pytest.mark.parametrize("before", [(), (DOUBTED,)], ids=["a no", "a no behind a time-out"])
def test_a_retry_for_one_step_of_a_group_repeats_no_other_that_was_refused(
    before: tuple[e.Event, ...],
) -> None:
    """A business no before the pivot is never tried again (rule 4): its saga turns back."""
    plan = adjusted(plans.grouped(), lambda step: replace(step, idempotent=step.name != "south"))
    saga = fold(
        e.Accepted(at=0.0, upstream="order"),
        *(e.StepStarted(at=0.0, step=name, attempt=1) for name in ("north", "south")),
        *before,
        e.StepInDoubt(at=1.0, step="south", reason="timeout"),
        e.Parked(at=1.0, cause=ParkCause.IN_DOUBT, reason="nobody knows"),
        e.StepRefused(at=2.0, step="north", reason="sold out", said=True),
        RETRIED,
        plan=plan,
    )
    (turn,) = decide(plan, saga, 20.0)
    assert Record(event=e.TurnedBack(at=20.0, step="north", reason="sold out")) == turn


def test_a_retry_takes_up_a_pivot_whose_no_leaves_a_doubt() -> None:
    """The saga waits for that alone: neither way is open until it is settled."""
    no = e.StepRefused(at=2.5, step="pay", reason="declined")
    saga = fold(*HELD, IN_DOUBT[0], no, IN_DOUBT[1], RETRIED)
    assert (replace(AGAIN, step="pay"),) == decide(PLAN, replace(saga, deadline=None), 20.0)


@pytest.mark.parametrize("step", ["hold", "pay"])
def test_no_step_alone_is_given_up_while_the_pivot_is_in_doubt(step: str) -> None:
    """The others would be undone around a pivot that may have happened."""
    saga = fold(*HELD, *IN_DOUBT)

    refused = refuse_verb(PLAN, saga, replace(ABANDONED, step=step))

    assert refused is not None and "settle the pivot first" in refused
    assert refuse_verb(PLAN, saga, ABANDONED) is None
