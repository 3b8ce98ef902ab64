"""The age of a saga: neither a clock that was set nor days without a process make it jump."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.age import GAP_SECONDS_MAX, WAIT_SECONDS_MAX, age_at, counted, is_due, lasted
from stage.core.commands import Command, Do, Record
from stage.core.machine import decide, evolve
from stage.core.retry import (
    COMPENSATION,
    NEIGHBOUR_COMPENSATION,
    OUTAGE_BACKOFF_SECONDS_MAX,
    PATIENCE_SECONDS,
    PENDING,
)
from stage.core.saga import Saga
from stage.core.steps import Step, StepKind, plan_of
from tests.unit.core.world import ONE

DAY = 86_400.0
PLAN = plan_of("payment", (Step(name="hold", kind=StepKind.CALL, compensatable=True),))
UNDOING: list[e.Event] = [
    e.Accepted(at=1_000.0),
    e.StepStarted(at=1_000.0, step="hold", attempt=1),
    e.StepSucceeded(at=1_000.5, step="hold", result=ONE),
    e.CompensationRequested(at=1_001.0, requested_by="order"),
    e.CompensationStarted(at=1_001.0, step="hold", attempt=1),
]


def fold(events: list[e.Event]) -> Saga:
    saga = Saga(id="s-1")
    for event in events:
        saga = evolve(PLAN, saga, event)
    return saga


def only(saga: Saga, now: float) -> Command:
    (command,) = decide(PLAN, saga, now)
    return command


def test_it_is_the_time_between_the_entries() -> None:
    """As long as the clock is right and a process is there."""
    saga = fold(UNDOING)

    assert 1.0 == saga.age
    assert 3.0 == age_at(saga, 1_003.0)
    assert 2.0 == lasted(saga, 1.0, 1_003.0)


@pytest.mark.parametrize("now", [1_000.0, 1_001.5, 1_700.0, 1_000_000.0])
def test_a_part_of_it_is_counted_as_the_whole(now: float) -> None:
    """From the instants alone, as a store reads them: also over a gap, and a clock set back."""
    events = [*UNDOING, e.CompensationDelayed(at=9_000.0, step="hold", reason="503")]
    events.append(e.CompensationStarted(at=8_999.0, step="hold", attempt=2))
    saga = fold(events)

    assert age_at(saga, now) == counted([*(event.at for event in events), now])
    assert 0.0 == counted([])


def test_a_saga_without_entries_has_none() -> None:
    """The first entry lies at no distance from anything."""
    assert 0.0 == age_at(Saga(id="s"), 1_000.0)
    assert 0.0 == evolve(PLAN, Saga(id="s"), e.Accepted(at=1_000.0)).age
    assert 0.0 == lasted(Saga(id="s"), None, 1_000.0)


@pytest.mark.parametrize("jump, counted", [(30 * DAY, GAP_SECONDS_MAX), (-3_600.0, 0.0)])
def test_a_jump_counts_as_one_wait_at_most(jump: float, counted: float) -> None:
    """Ahead or back, and the way back from there as well."""
    saga = fold(UNDOING)
    wrong = evolve(PLAN, saga, e.CompensationDelayed(at=1_001.0 + jump, step="hold", reason="away"))
    assert saga.age + counted == wrong.age

    right = evolve(PLAN, wrong, e.CompensationStarted(at=1_060.0, step="hold", attempt=2))

    assert right.age <= saga.age + GAP_SECONDS_MAX


def test_an_undo_is_not_given_up_by_a_process_that_starts_with_a_wrong_clock() -> None:
    """Ten days ahead, it took over after one attempt; patience is three days (rules 28, 34)."""
    saga = fold(UNDOING)
    ahead = 1_002.0 + 10 * DAY

    saga = evolve(PLAN, saga, e.Recovered(at=ahead, epoch=2))

    assert isinstance(only(saga, ahead), Do)


def test_days_without_a_process_use_up_no_patience() -> None:
    """A compensation that was not tried is not given up."""
    saga = fold(UNDOING)
    saga = evolve(PLAN, saga, e.CompensationDelayed(at=1_002.0, step="hold", reason="away"))

    assert isinstance(only(saga, 1_002.0 + 2 * PATIENCE_SECONDS), Do)


def test_patience_ends_after_as_much_trying() -> None:
    """A wait after the other, as in an outage of three days."""
    saga, at, attempt = fold(UNDOING), 1_002.0, 1
    while at < 1_001.0 + PATIENCE_SECONDS:
        saga = evolve(PLAN, saga, e.CompensationDelayed(at=at, step="hold", reason="away"))
        at = saga.steps["hold"].due
        attempt += 1
        if at < 1_001.0 + PATIENCE_SECONDS:
            started = e.CompensationStarted(at=at, step="hold", attempt=attempt)
            assert isinstance(only(saga, at), Do)
            saga = evolve(PLAN, saga, started)

    end = only(saga, at)

    assert isinstance(end, Record) and isinstance(end.event, e.CompensationRefused)


def test_nothing_waits_for_an_instant_that_a_wrong_clock_has_written() -> None:
    """A wait that was journaled ten days ahead is over when the clock is right again."""
    saga = fold(UNDOING)
    ahead = 1_002.0 + 10 * DAY
    saga = evolve(PLAN, saga, e.CompensationDelayed(at=ahead, step="hold", reason="away"))

    assert isinstance(only(saga, 1_003.0), Do)
    assert not is_due(1_010.0, 1_003.0)


def test_no_policy_waits_for_longer() -> None:
    """Or its waits would be cut short."""
    policies = (COMPENSATION, NEIGHBOUR_COMPENSATION, PENDING)

    assert WAIT_SECONDS_MAX > max(each.backoff_seconds_max for each in policies)
    assert min(WAIT_SECONDS_MAX, GAP_SECONDS_MAX) >= 2 * OUTAGE_BACKOFF_SECONDS_MAX
