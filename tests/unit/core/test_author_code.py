"""Rules 4 and 35 in the machine: defects of author code, and deaths that were not a saga's own."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.commands import Do, Record, Rest
from stage.core.machine import RECOVERIES_MAX, decide, evolve
from stage.core.retry import DEFECT, EXECUTION, SETTLEMENT
from stage.core.saga import Saga
from stage.core.states import Phase
from tests.unit.core import plans

PLAN = plans.usual()
HELD = e.StepSucceeded(at=1.0, step="reserve")
DEADLINE = 10_000.0


def accepted(deadline: float | None) -> Saga:
    saga = Saga(id="s-1")
    for event in (e.Accepted(at=0.0, deadline=deadline), HELD):
        saga = evolve(PLAN, saga, event)
    return saga


def started(attempt: int, at: float) -> e.StepStarted:
    return e.StepStarted(at=at, step="charge", attempt=attempt)


def failing(saga: Saga, attempts: int) -> tuple[Saga, list[float]]:
    """The saga after so many defects of the call, each tried when it was due; the waits."""
    waits: list[float] = []
    now = 1.0
    for attempt in range(1, attempts + 1):
        saga = evolve(PLAN, saga, started(attempt, now))
        saga = evolve(PLAN, saga, e.StepTransient(at=now, step="charge", reason="x", defect=True))
        waits.append(saga.steps["charge"].due - now)
        now = saga.steps["charge"].due
    return saga, waits


def test_a_defect_is_repeated_until_the_deadline_with_growing_pauses() -> None:
    """For more attempts than its step has, never in doubt, and not beyond the deadline."""
    many = (EXECUTION.attempts_max or 0) * 5
    saga, waits = failing(accepted(DEADLINE), many)
    known = saga.steps["charge"]
    (again,) = decide(PLAN, saga, known.due)
    assert isinstance(again, Do) and many + 1 == again.attempt
    assert not known.doubted
    assert waits[-1] > 10 * waits[0] and max(waits) <= DEFECT.backoff_seconds_max
    (end,) = decide(PLAN, saga, DEADLINE)
    assert isinstance(end, Record) and isinstance(end.event, e.TurnedBack)


def test_a_defect_without_a_deadline_has_the_attempts_of_its_step() -> None:
    """Nothing else would end it."""
    saga, _ = failing(accepted(None), EXECUTION.attempts_max or 0)
    (end,) = decide(PLAN, saga, saga.steps["charge"].due)
    assert isinstance(end, Record) and isinstance(end.event, e.TurnedBack)


@pytest.mark.parametrize("innocent", [True, False])
def test_the_death_of_another_saga_spends_no_attempt_of_a_call(innocent: bool) -> None:
    """Cut off more often than its step has attempts: an innocent call goes on, a guilty one not."""
    saga = accepted(None)
    attempts = (EXECUTION.attempts_max or 0) + 1
    for attempt in range(1, attempts + 1):
        saga = evolve(PLAN, saga, started(attempt, 1.0))
        saga = evolve(PLAN, saga, e.Recovered(at=1.0, epoch=attempt + 1, innocent=innocent))
        for _ in range(2):
            saga = evolve(PLAN, saga, e.ProbeStarted(at=1.0, step="charge"))
            saga = evolve(PLAN, saga, e.ProbeNotThere(at=1.0, step="charge"))
    (then,) = decide(PLAN, saga, 1_000.0)
    assert isinstance(then, Do) is innocent


@pytest.mark.parametrize("innocent", [True, False])
def test_the_death_of_another_saga_spends_no_probe(innocent: bool) -> None:
    """The look-ups that it cut off are asked again."""
    saga = evolve(PLAN, accepted(None), started(1, 1.0))
    saga = evolve(PLAN, saga, e.StepInDoubt(at=1.0, step="charge"))
    for epoch in range(SETTLEMENT.attempts_max or 0):
        saga = evolve(PLAN, saga, e.ProbeStarted(at=1.0, step="charge"))
        saga = evolve(PLAN, saga, e.Recovered(at=1.0, epoch=epoch + 2, innocent=innocent))
    assert (0 if innocent else SETTLEMENT.attempts_max) == saga.steps["charge"].probes


@pytest.mark.parametrize("innocent", [True, False])
def test_the_death_of_another_saga_spends_no_attempt_to_compensate(innocent: bool) -> None:
    """Nor does it count towards the runs after which a saga is parked."""
    saga = evolve(PLAN, accepted(None), e.TurnedBack(at=1.0, reason="no"))
    deaths = RECOVERIES_MAX + 1
    for attempt in range(1, deaths + 1):
        undo = e.CompensationStarted(at=1.0, step="reserve", attempt=attempt)
        saga = evolve(PLAN, saga, undo)
        saga = evolve(PLAN, saga, e.Recovered(at=1.0, epoch=attempt + 1, innocent=innocent))
    known = saga.steps["reserve"]
    assert Phase.COMPENSATION_WAITING is known.phase
    assert (deaths if innocent else 0) == known.compensation_forgiven
    assert (0 if innocent else deaths) == saga.recoveries
    assert not isinstance(decide(PLAN, saga, 1.0)[0], Rest)
