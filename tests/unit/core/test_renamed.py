"""A journal that holds former names means what it meant before the deploy (rule 32, I9)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict, replace

from stage.core import events as e
from stage.core.saga import Saga
from stage.core.steps import FORWARD_PREFIX, Plan
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE, Driver


def renamed(plan: Plan) -> Plan:
    """The plan of a release in which each step, and each downstream, has another name."""
    today = {
        step.name: FORWARD_PREFIX + f"new-{step.peer}"
        if step.name.startswith(FORWARD_PREFIX)
        else f"new_{step.name}"
        for step in plan.steps
    }
    steps = {name: replace(plan.by_name[name], name=new) for name, new in today.items()}
    return replace(
        plan,
        steps=tuple(steps.values()),
        waves=tuple(tuple(steps[step.name] for step in wave) for wave in plan.waves),
        by_name={step.name: step for step in steps.values()},
        renamed=today,
        peers_renamed={
            step.peer: f"new-{step.peer}"
            for step in plan.steps
            if step.name.startswith(FORWARD_PREFIX)
        },
    )


def without_names(plan: Plan, saga: Saga) -> dict[str, Any]:
    """All that is known of the saga, but for the names, and for keys and pauses made of them."""
    steps = {
        plan.renamed.get(name, name): replace(step, key="", due=0.0)
        for name, step in saga.steps.items()
    }
    return {**asdict(saga), "steps": steps}


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("named", ["usual", "unprobed", "grouped", "pivoted"])
def test_a_journal_of_former_names_is_folded_as_before(named: str, seed: int) -> None:
    """Its state, its reasons and all that neighbours may read of them."""
    before = getattr(plans, named)()
    driver = Driver(before, seed, deadline=1_006.0)
    driver.run()
    journal = [
        replace(event, said=True) if isinstance(event, e.StepRefused) else event
        for event in driver.journal
    ]
    plan = renamed(before)
    known, today = (fold(each, *journal, saga=Saga(id="s-1")) for each in (before, plan))
    assert without_names(plan, known) == without_names(plan, today)


def test_the_reason_of_a_no_outlives_a_deploy_that_renames_its_step() -> None:
    """Neighbours read it: the same request gets the same bytes."""
    plan = plans.usual()
    journal = (
        e.Accepted(at=1.0, upstream="order"),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepRefused(at=2.0, step="charge", reason="card declined", said=True),
        e.TurnedBack(at=2.0, step="charge", reason="card declined"),
    )
    assert "card declined" == fold(plan, *journal).detail
    assert "card declined" == fold(renamed(plan), *journal).detail
    unsaid = fold(renamed(plan), *journal[:3], e.TurnedBack(at=2.0, step="charge"))
    assert "step charge did not succeed" == unsaid.detail
