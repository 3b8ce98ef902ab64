"""Why a saga waits for a person, as code reads it: one cause for each way to get there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stage.core import events as e
from stage.core.commands import Record
from stage.core.machine import RECOVERIES_MAX, decide, evolve
from stage.core.saga import Saga
from stage.core.states import ParkCause
from stage.core.steps import Plan, Step, StepKind, plan_of
from tests.unit.core import plans
from tests.unit.core.world import ONE

ACCEPTED = e.Accepted(at=1.0, upstream="order")
BLUNT = plan_of("payment", (Step(name="charge", kind=StepKind.CALL, peer="psp", idempotent=False),))
CHARGING = e.StepStarted(at=1.0, step="charge", attempt=1)
LOST = [e.Recovered(at=1.0, epoch=number) for number in range(2, RECOVERIES_MAX + 3)]
HELD = e.StepSucceeded(at=1.0, step="hold", result=ONE)
PAID = e.StepSucceeded(at=1.0, step="pay", result=ONE)
PAY_IN_DOUBT: list[e.Event] = [
    e.StepStarted(at=1.0, step="pay", attempt=1),
    e.StepRefused(at=1.0, step="pay", reason="no", may_stand=True),
]
UNDO_FAILED: list[e.Event] = [
    e.StepSucceeded(at=1.0, step="reserve", result=ONE),
    e.TurnedBack(at=1.0, reason="no"),
    e.CompensationStarted(at=1.0, step="reserve", attempt=1),
    e.CompensationRefused(at=1.0, step="reserve", reason="no"),
    e.FailedToCompensate(at=1.0, stands=("reserve",)),
]


def fold(plan: Plan, *events: e.Event) -> Saga:
    saga = Saga(id="s-1")
    for event in (ACCEPTED, *events):
        saga = evolve(plan, saga, event)
    return saga


@pytest.mark.parametrize(
    "cause, plan, journal",
    [
        (ParkCause.LOST_RUNS, plans.usual(), LOST),
        (ParkCause.IN_DOUBT, BLUNT, [CHARGING, e.StepInDoubt(at=1.0, step="charge")]),
        (ParkCause.PIVOT_IN_DOUBT, plans.pivoted(), [HELD, *PAY_IN_DOUBT]),
        (
            ParkCause.BEHIND_PIVOT,
            plans.pivoted(),
            [HELD, PAID, e.StepRefused(at=1.0, step="note", reason="no")],
        ),
    ],
)
def test_the_machine_parks_with_a_cause(
    cause: ParkCause, plan: Plan, journal: list[e.Event]
) -> None:
    """And the saga keeps the cause beside the text for people."""
    saga = fold(plan, *journal)

    (park,) = decide(plan, saga, 2.0)

    assert isinstance(park, Record) and isinstance(park.event, e.Parked)
    assert cause is park.event.cause
    parked = evolve(plan, saga, park.event)
    assert (cause, park.event.reason) == (parked.parked_cause, parked.parked)


@pytest.mark.parametrize(
    "cause, journal",
    [
        (ParkCause.FAILED_TO_COMPENSATE, UNDO_FAILED),
        (
            ParkCause.UPSTREAM_CANNOT,
            [e.TellStarted(at=1.0, attempt=1), e.TellRefused(at=1.0, reason="no")],
        ),
        (
            ParkCause.UPSTREAM_AWAY,
            [e.TellRefused(at=1.0, reason="no connection", cause=ParkCause.UPSTREAM_AWAY)],
        ),
    ],
)
def test_an_end_that_needs_a_person_has_a_cause(cause: ParkCause, journal: list[e.Event]) -> None:
    """Without an entry of its own: the event that brings the end says enough."""
    saga = fold(plans.usual(), *journal)

    assert cause is saga.parked_cause
    assert saga.parked


@pytest.mark.parametrize(
    "freed",
    [
        e.Retried(at=2.0, actor="ops", why="again"),
        e.Forgotten(at=2.0, actor="ops", why="given up"),
        e.Resolved(at=2.0, actor="ops", why="by hand", step="reserve"),
    ],
)
def test_a_verb_that_unparks_a_saga_removes_the_cause_too(freed: e.Event) -> None:
    """Cause and text are there together or not at all."""
    saga = fold(plans.usual(), *UNDO_FAILED, freed)

    assert ("", None) == (saga.parked, saga.parked_cause)


def test_the_page_for_operators_says_what_to_do_for_each_cause() -> None:
    """One row a cause: an alert that names one leads to its mend."""
    page = Path(__file__).parents[3].joinpath("docs", "operator.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n### Parked sagas\n")
    table = section.partition("\n## ")[0]

    assert set(ParkCause) == set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
