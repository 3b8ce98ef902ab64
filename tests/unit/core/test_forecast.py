"""The way back as `stage plan` shows it."""

from __future__ import annotations

import pytest

from stage.cli.operate import PROSPECTS
from stage.core import events as e
from stage.core.forecast import Prospect, forecast
from stage.core.machine import evolve
from stage.core.saga import Saga
from tests.unit.core import plans
from tests.unit.core.world import ONE

HELD = (
    e.Accepted(at=1.0),
    e.StepStarted(at=1.0, step="hold", attempt=1),
    e.StepSucceeded(at=1.0, step="hold", result=ONE),
)
PAYING = e.StepStarted(at=1.0, step="pay", attempt=1)


def prospects(*events: e.Event) -> list[tuple[str, str]]:
    """Step and prospect, in the order of the way back."""
    plan, saga = plans.pivoted(), Saga(id="s-1")
    for event in events:
        saga = evolve(plan, saga, event)
    return [(line.step, line.prospect.value) for line in forecast(plan, saga)]


def test_before_the_pivot_what_was_done_is_undone() -> None:
    assert [("hold", "compensate")] == prospects(*HELD)


@pytest.mark.parametrize(
    "after",
    [(), (e.StepInDoubt(at=2.0, step="pay", reason="cut"),)],
    ids=["in flight", "in doubt"],
)
def test_while_the_pivot_is_undecided_so_is_all_that_was_before_it(
    after: tuple[e.Event, ...],
) -> None:
    """A plan that says `compensated` of money that may have left would be believed (rule 20)."""
    assert [("pay", "pivot_first"), ("hold", "pivot_first")] == prospects(*HELD, PAYING, *after)


def test_behind_the_pivot_only_a_person_can() -> None:
    landed = e.StepSucceeded(at=2.0, step="pay", result=ONE)
    assert [("pay", "cannot"), ("hold", "cannot")] == prospects(*HELD, PAYING, landed)


def test_the_command_has_words_for_each() -> None:
    assert {prospect.value for prospect in Prospect} == set(PROSPECTS)
