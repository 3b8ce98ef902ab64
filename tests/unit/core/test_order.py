"""The order of steps, either way, and that every room asks for it in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

import stage
from stage.core.forecast import forecast
from stage.core.order import backward, next_backward, next_forward, wave_of, waves
from stage.core.saga import Saga, StepState
from stage.core.states import Phase
from stage.core.steps import Plan, Step, plan_of
from stage.engine.saga.fast_path import undos_of
from tests.unit.core import plans
from tests.unit.core.world import ONE

MAY_KNOW_WAVES = {"core/order.py", "core/steps.py"}


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


def succeeded(*steps: str) -> Saga:
    done = StepState(phase=Phase.SUCCEEDED, order=0, result=ONE)
    return Saga(id="s-1", steps={name: replace(done, order=n) for n, name in enumerate(steps)})


def test_forward_a_wave_waits_for_the_one_before() -> None:
    """Steps of a group come together, and only those that have not succeeded."""
    plan = plans.grouped()

    assert ["north", "south"] == names(next_forward(plan, succeeded()))
    assert ["south"] == names(next_forward(plan, succeeded("north")))
    assert ["book"] == names(next_forward(plan, succeeded("north", "south")))
    assert [] == next_forward(plan, succeeded("north", "south", "book"))


def test_backward_the_last_wave_comes_first() -> None:
    """A step never started, without compensation or compensated is passed over (rule 7)."""
    plan = plans.grouped()
    saga = succeeded("north", "south", "book")

    assert ["book"] == names(next_backward(plan, saga))
    undone = replace(saga.steps["book"], phase=Phase.COMPENSATED)
    saga = replace(saga, steps={**saga.steps, "book": undone})
    assert ["north", "south"] == names(next_backward(plan, saga))
    assert [] == next_backward(plans.usual(), succeeded("record"))


def undone_in_turn(plan: Plan, saga: Saga) -> list[str]:
    """The steps as they are compensated."""
    found: list[str] = []
    while turn := names(next_backward(plan, saga)):
        found += turn
        undone = {name: replace(saga.steps[name], phase=Phase.COMPENSATED) for name in turn}
        saga = replace(saga, steps={**saga.steps, **undone})
    return found


def test_steps_that_a_deploy_put_in_another_order_are_undone_by_their_start() -> None:
    """A saga began them as the release before had them (rule 7)."""
    reserve, charge, _ = plans.usual().steps[:3]
    today = plan_of("payment", (charge, reserve), ("shipping",))
    saga = succeeded("reserve", "charge", "forward:shipping")

    assert ["forward:shipping", "charge", "reserve"] == undone_in_turn(today, saga)
    assert ["forward:shipping", "charge", "reserve"] == names(list(undos_of(today, saga) or ()))
    assert ["forward:shipping", "charge", "reserve"] == [
        line.step for line in forecast(today, saga)
    ]


def test_a_step_that_a_deploy_put_first_is_undone_by_its_start() -> None:
    """It ran behind what had been done already, and before the hand-over or behind it."""
    reserve, charge, _ = plans.usual().steps[:3]
    audit = replace(reserve, name="audit")
    today = plan_of("payment", (audit, reserve, charge), ("shipping",))

    before = succeeded("reserve", "charge", "audit", "forward:shipping")
    behind = succeeded("reserve", "charge", "forward:shipping", "audit")
    for saga in (before, behind):
        assert ["forward:shipping", "audit", "charge", "reserve"] == undone_in_turn(today, saga)


def test_the_whole_order_either_way() -> None:
    """Backward is forward reversed by waves; the order within a wave is that of declaration."""
    plan = plans.grouped()

    assert [["north", "south"], ["book"]] == [names(list(wave)) for wave in waves(plan)]
    assert ["book", "north", "south"] == names(list(backward(plan)))
    assert {"north", "south"} == wave_of(plan, "north")
    with pytest.raises(KeyError):
        wave_of(plan, "east")


def test_no_other_file_reads_the_waves_of_a_plan() -> None:
    """How a plan stores them may change without a reader outside the core."""
    package = Path(stage.__file__).parent
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\.waves\b", path.read_text())
    }

    assert MAY_KNOW_WAVES >= readers
    assert "core/order.py" in readers
