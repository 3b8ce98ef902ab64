"""The way back as `stage plan` shows it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.advice import PROSPECTS
from stage.core.forecast import Prospect, forecast
from stage.core.machine import evolve
from stage.core.saga import Saga, StepState
from stage.core.states import Phase
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


@pytest.mark.parametrize(
    "phase, members, prospect",
    [
        (Phase.SUCCEEDED, {"result": ONE}, "compensate"),
        (Phase.COMPENSATION_WAITING, {"result": ONE}, "compensate"),
        (Phase.COMPENSATING, {}, "compensate"),
        (Phase.STARTED, {}, "wait_first"),
        (Phase.PROBING, {"doubted": True}, "wait_first"),
        (Phase.IN_DOUBT, {"doubted": True}, "probe_first"),
        (Phase.PENDING, {"doubted": True}, "probe_first"),
        (Phase.IN_DOUBT, {"doubted": True, "not_there": 2}, "without_result"),
        (Phase.REFUSED, {"doubted": True}, "without_result"),
        (Phase.WAITING, {"may_come": True}, "without_result"),
        (Phase.COMPENSATION_FAILED, {"result": ONE}, "cannot"),
        (Phase.COMPENSATED, {"result": ONE}, None),
        (Phase.REFUSED, {}, None),
        (Phase.WAITING, {}, None),
    ],
)
def test_the_prospect_of_one_step(
    phase: Phase, members: dict[str, Any], prospect: str | None
) -> None:
    """One line for each step of which something may stand, before anything is ordered."""
    saga = Saga(id="s", steps={"charge": StepState(phase=phase, order=1, **members)})
    lines = forecast(plans.usual(), saga)
    expected = [] if prospect is None else [("charge", "call", "psp", prospect)]
    assert expected == [(each.step, each.kind, each.peer, each.prospect.value) for each in lines]


def test_a_step_without_a_compensation_has_none_to_run() -> None:
    saga = Saga(id="s", steps={"record": StepState(phase=Phase.SUCCEEDED, order=2, result=ONE)})
    (line,) = forecast(plans.usual(), saga)
    assert (Prospect.NOTHING, "stands") == (line.prospect, line.standing)


def test_a_call_without_keys_that_cannot_be_looked_up_is_settled_first() -> None:
    plan = plans.unprobed()
    step = replace(plan.step("charge"), idempotent=False)
    plan = replace(
        plan, waves=((plan.step("reserve"),), (step,)), by_name=plan.by_name | {"charge": step}
    )
    doubt = StepState(phase=Phase.IN_DOUBT, order=1, doubted=True)
    (line,) = forecast(plan, Saga(id="s", steps={"charge": doubt}))
    assert Prospect.SETTLE_FIRST is line.prospect


def test_a_saga_that_fits_no_version_is_undone_by_a_person() -> None:
    plan = replace(plans.usual(), misfit="no version fits")
    done = StepState(phase=Phase.SUCCEEDED, order=1, result=ONE)
    (line,) = forecast(plan, Saga(id="s", steps={"charge": done}))
    assert Prospect.CANNOT is line.prospect
