"""Neighbours that a gateway answers for, and neighbours that take long."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind, Command, Do, Record, Rest
from stage.core.machine import NOT_UNDERSTOOD_SECONDS_MAX, asked_before, decide, evolve
from stage.core.retry import PENDING
from stage.core.saga import Saga
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.core.steps import Plan, Step, StepKind, plan_of
from tests.unit.core.world import ONE

PLAN = plan_of("payment", (Step(name="hold", kind=StepKind.CALL, compensatable=True),), ("out",))
PIVOTED = plan_of("payment", (Step(name="hold", kind=StepKind.CALL, pivot=True),), ("out",))
FORWARD = "forward:out"
HELD: list[e.Event] = [
    e.Accepted(at=0.0, upstream="order"),
    e.StepStarted(at=0.0, step="hold", attempt=1),
    e.StepSucceeded(at=0.0, step="hold", result=ONE),
    e.StepStarted(at=0.0, step=FORWARD, attempt=1),
]
NO_IN_DOUBT = e.StepRefused(at=0.0, step=FORWARD, reason="answered 409", may_stand=True)
DONE: list[e.Event] = [
    *HELD,
    e.StepSucceeded(at=0.0, step=FORWARD, result=ONE),
    e.Completed(at=0.0),
]
UNDO = Do(kind=AttemptKind.COMPENSATE, step=FORWARD)


def fold(plan: Plan, events: list[e.Event], saga: Saga | None = None) -> Saga:
    saga = saga or Saga(id="s-1")
    for event in events:
        saga = evolve(plan, saga, event)
    return saga


def only(plan: Plan, saga: Saga, now: float) -> Command:
    (command,) = decide(plan, saga, now)
    return command


def test_a_no_in_doubt_turns_back_and_is_compensated_there_first() -> None:
    """It is not repeated, and our own effects wait for downstream's word (protocol 3.3)."""
    saga = fold(PLAN, [*HELD, NO_IN_DOUBT])
    turn = only(PLAN, saga, 0.0)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)

    assert UNDO == only(PLAN, evolve(PLAN, saga, turn.event), 0.0)


def test_a_no_in_doubt_does_not_take_back_a_yes_that_may_have_been_passed_on() -> None:
    """A run was lost behind its answer, and a gateway says no: the same again (decision 0011)."""
    lost = e.Recovered(at=0.0, epoch=2)
    again = e.StepStarted(at=0.0, step=FORWARD, attempt=2)
    saga = fold(PLAN, [*HELD, lost, again, NO_IN_DOUBT])
    assert NO_IN_DOUBT.reason == saga.steps[FORWARD].error != ""
    due = saga.steps[FORWARD].due
    assert Do(kind=AttemptKind.EXECUTE, step=FORWARD, attempt=3) == only(PLAN, saga, due)

    third = e.StepStarted(at=due, step=FORWARD, attempt=3)
    own_word = e.StepRefused(at=due, step=FORWARD, reason="answered 409", said=True)
    turn = only(PLAN, fold(PLAN, [third, own_word], saga), due)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)


def test_a_no_in_doubt_behind_the_pivot_waits_for_a_person() -> None:
    """There is no way back, and a retry sends the same again (rule 20)."""
    saga = fold(PIVOTED, [*HELD, NO_IN_DOUBT])
    park = only(PIVOTED, saga, 0.0)
    assert isinstance(park, Record) and isinstance(park.event, e.Parked)
    assert ParkCause.BEHIND_PIVOT is park.event.cause

    retried = fold(PIVOTED, [park.event, e.Retried(at=1.0, actor="kim", why="up")], saga)

    assert Do(kind=AttemptKind.EXECUTE, step=FORWARD, attempt=2) == only(PIVOTED, retried, 1.0)


def test_a_key_that_is_wrong_for_a_while_costs_time_and_no_attempts() -> None:
    """A gateway's 403 may hide an effect: the same request again, until the deadline."""
    opened: list[e.Event] = [e.Accepted(at=0.0, upstream="order", deadline=9_000.0), *HELD[1:]]
    saga, now = fold(PLAN, opened), 0.0
    for attempt in range(2, 30):
        denied = e.StepInDoubt(at=now, step=FORWARD, reason="answered 403", denied=True)
        saga = evolve(PLAN, saga, denied)
        now = saga.steps[FORWARD].due
        again = Do(kind=AttemptKind.EXECUTE, step=FORWARD, attempt=attempt)
        assert again == only(PLAN, saga, now)
        saga = evolve(PLAN, saga, e.StepStarted(at=now, step=FORWARD, attempt=attempt))
    saga = evolve(PLAN, saga, e.StepInDoubt(at=now, step=FORWARD, denied=True))

    turn = only(PLAN, saga, 9_000.0)

    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)


def misread(at: float, attempt: int) -> list[e.Event]:
    """One attempt to undo that a login page answered."""
    return [
        e.CompensationStarted(at=at, step=FORWARD, attempt=attempt),
        e.CompensationDelayed(
            at=at, step=FORWARD, reason="answered 200", retry_after=60.0, not_understood=True
        ),
    ]


def test_answers_that_are_nobody_s_word_are_asked_again_for_a_while_then_park_it() -> None:
    """With what was answered; a retry of the operator asks again (protocol 3.4)."""
    late = fold(PLAN, [*DONE, e.TurnedBack(at=0.0)])
    for attempt, at in enumerate(range(0, int(NOT_UNDERSTOOD_SECONDS_MAX), 300), 1):
        again = Do(kind=AttemptKind.COMPENSATE, step=FORWARD, attempt=attempt)
        assert again == only(PLAN, late, float(at))
        late = fold(PLAN, misread(float(at), attempt), late)

    park = only(PLAN, late, NOT_UNDERSTOOD_SECONDS_MAX)

    assert isinstance(park, Record) and isinstance(park.event, e.Parked)
    assert ParkCause.NOT_UNDERSTOOD is park.event.cause
    assert "out" in park.event.reason and "answered 200" in park.event.reason
    over = NOT_UNDERSTOOD_SECONDS_MAX
    retried = fold(PLAN, [park.event, e.Retried(at=over, actor="kim", why="mended")], late)
    again = Do(kind=AttemptKind.COMPENSATE, step=FORWARD, attempt=attempt + 1)
    assert again == only(PLAN, retried, over)


def test_an_answer_in_the_word_of_the_neighbour_begins_the_time_anew() -> None:
    """It is there after all."""
    own = e.CompensationDelayed(at=1800.0, step=FORWARD, reason="still compensating")
    saga = fold(PLAN, [*DONE, e.TurnedBack(at=0.0), *misread(0.0, 1), *misread(1800.0, 2)[:1], own])
    saga = fold(PLAN, misread(3000.0, 3), saga)

    assert isinstance(only(PLAN, saga, NOT_UNDERSTOOD_SECONDS_MAX), Do)


def test_an_upstream_that_never_answers_in_its_own_word_waits_for_a_person() -> None:
    """The saga itself is over; a retry tells it again (rule 22)."""
    late = [
        *DONE,
        e.CompensationRequested(at=0.0, requested_by="out", compensated=True),
        e.CompensationSucceeded(at=0.0, step="hold"),
        e.Compensated(at=0.0),
    ]
    saga = fold(PLAN, late)
    for attempt, at in enumerate(range(0, int(NOT_UNDERSTOOD_SECONDS_MAX), 300), 1):
        assert Do(kind=AttemptKind.TELL, attempt=attempt) == only(PLAN, saga, float(at))
        saga = evolve(PLAN, saga, e.TellStarted(at=float(at), attempt=attempt))
        answer = e.TellDelayed(at=float(at), reason="answered 200", not_understood=True)
        saga = evolve(PLAN, saga, answer)

    end = only(PLAN, saga, NOT_UNDERSTOOD_SECONDS_MAX)

    assert isinstance(end, Record) and isinstance(end.event, e.TellRefused)
    saga = evolve(PLAN, saga, end.event)
    assert (ParkCause.NOT_UNDERSTOOD, Tell.REFUSED) == (saga.parked_cause, saga.tell)
    saga = evolve(PLAN, saga, e.Retried(at=4000.0, actor="kim", why="mended"))
    assert Do(kind=AttemptKind.TELL, attempt=attempt + 1) == only(PLAN, saga, 4000.0)


@pytest.mark.parametrize("compensated, asked", [(True, "hold"), (False, FORWARD)])
def test_downstream_s_word_that_nothing_stands_there_spares_asking_it(
    compensated: bool, asked: str
) -> None:
    """Without the word it is asked in turn (protocol 3.4)."""
    request = e.CompensationRequested(at=1.0, requested_by="out", compensated=compensated)
    saga = fold(PLAN, [*DONE, request])

    assert SagaState.COMPENSATING is saga.state
    assert Do(kind=AttemptKind.COMPENSATE, step=asked) == only(PLAN, saga, 1.0)
    assert asked_before(PLAN, saga, request)


def test_the_word_that_nothing_stands_settles_an_undo_that_waits() -> None:
    """It comes later than a request without it, and counts."""
    word = e.CompensationRequested(at=9.0, requested_by="out", compensated=True)
    saga = fold(PLAN, [*DONE, e.TurnedBack(at=0.0), *misread(0.0, 1)])
    assert not asked_before(PLAN, saga, word)

    saga = evolve(PLAN, saga, word)

    assert Phase.COMPENSATED is saga.steps[FORWARD].phase
    assert Do(kind=AttemptKind.COMPENSATE, step="hold") == only(PLAN, saga, 9.0)


def test_the_word_does_not_count_while_our_own_request_is_under_way() -> None:
    """That request may have an effect after the word was given."""
    word = e.CompensationRequested(at=0.0, requested_by="out", compensated=True)
    saga = fold(PLAN, [*HELD, word, e.StepSucceeded(at=1.0, step=FORWARD, result=ONE)])

    assert UNDO == only(PLAN, saga, 1.0)


def test_a_202_for_ever_is_asked_less_and_less_and_given_up_at_last() -> None:
    """Its journal is bounded, a day costs hundreds of entries and not 345,000 (rule 26)."""
    saga, now, entries_of_a_day = fold(PLAN, HELD), 0.0, 0
    while True:
        saga = evolve(PLAN, saga, e.StepPending(at=now, step=FORWARD, retry_after=0.0))
        if now <= 86_400.0:
            entries_of_a_day = saga.length
        rest = only(PLAN, saga, now)
        if not isinstance(rest, Rest):
            break
        assert rest.until is not None
        now = rest.until
        again = only(PLAN, saga, now)
        assert isinstance(again, Do) and 1 == again.attempt, "to wait is no failed attempt"
        saga = evolve(PLAN, saga, e.StepStarted(at=now, step=FORWARD, attempt=again.attempt))

    assert entries_of_a_day < 1_200
    assert PENDING.attempts_max is not None and saga.length <= len(HELD) + 2 * PENDING.attempts_max
    assert now > 2 * 86_400.0
    assert isinstance(rest, Record) and isinstance(rest.event, e.TurnedBack)
