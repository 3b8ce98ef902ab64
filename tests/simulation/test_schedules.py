"""F3: all schedules of execute, duplicate, compensate, recover, zombie, up to two preemptions."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from tests.kits import Strikes
from tests.simulation.mutants import planted
from tests.simulation.schedules import (
    OPERATIONS,
    PREEMPTIONS_MAX,
    Ran,
    Schedule,
    orders,
    run,
    schedules,
)
from tests.sizes import SIZES

BEGINNINGS = [
    (first, second, tail) for tail in (False, True) for first, second in permutations(OPERATIONS, 2)
][:: SIZES.schedule_stride]
"""The first two operations of a schedule, and whether the stage hands on to another one."""

pytestmark = pytest.mark.blocking  # the virtual loop never waits for anything real


def holds(schedule: Schedule, ran: Ran) -> None:
    """Every invariant, the saga over, and nobody who has to look."""
    result = ran.result
    story = "\n".join(result.transcript.history("s-1"))
    assert not result.violations, f"{schedule}: {result.violations[0]}\n{story}"
    assert not result.states["parked"], f"{schedule} is parked\n{story}"
    assert 1 == result.states["compensated"], f"{schedule}: {result.states}\n{story}"


@pytest.mark.kit("F3")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first, second, tail", BEGINNINGS)
def test_every_schedule_ends_as_it_should(
    first: str, second: str, tail: bool, strikes: Strikes
) -> None:
    """Somebody asked to compensate, so nothing stands in the end, whoever went first."""
    counted: Counter[int] = Counter()
    taken = list(orders(first, second))[:: SIZES.order_stride]
    for order in taken:
        for preemptions in range(PREEMPTIONS_MAX + 1):
            for schedule, ran in schedules(order, preemptions, tail=tail):
                holds(schedule, ran)
                counted[preemptions] += 1

    strikes.report("schedules", counted.total())
    assert len(taken) == counted[0] == 6 // SIZES.order_stride
    assert counted[1] >= 8 // SIZES.order_stride, counted
    assert counted[2] >= 2, counted


def test_a_preemption_really_takes_the_turn() -> None:
    """The same order with and without one is not the same history, and the pauses differ."""
    order = ("execute", "compensate", "duplicate", "recover", "zombie")
    digests = {
        preemptions: run(Schedule(order, preemptions)).result.transcript.digest()
        for preemptions in ((), ((0, 1),), ((0, 2),), ((0, 3),), ((0, 1), (1, 1)))
    }
    assert 5 == len(set(digests.values()))
    assert 0 == run(Schedule(order, ((0, 150),))).missed


FOUND_IN = {
    "the_tombstone_is_forgotten": "compensate execute duplicate recover zombie",
    "compensation_runs_beside_execution": "execute compensate recover duplicate zombie",
    "a_duplicate_is_not_joined": "recover zombie duplicate execute compensate",
    "a_stale_epoch_is_accepted": "execute duplicate compensate zombie recover",
    "the_epoch_is_not_raised": "execute duplicate compensate recover zombie",
    "the_guard_row_is_written_with_the_call": "duplicate compensate recover execute zombie",
    "the_answer_differs_on_replay": "execute duplicate compensate recover zombie",
}
"""The order in which each defect was found last. It is looked at first, and then all others."""


@pytest.mark.parametrize("defect", FOUND_IN)
def test_the_schedules_find_a_planted_defect(defect: str) -> None:
    """Two of them at once are enough to show each (this tests the tester)."""
    with planted(defect):
        assert any(
            ran.result.violations
            for order in (tuple(FOUND_IN[defect].split()), *permutations(OPERATIONS))
            for preemptions in range(2)
            for _, ran in schedules(order, preemptions)
        ), f"{defect} was not found"
