"""The state of a saga before anything is known of it: no flag is up that no event has raised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stage.core.saga import Saga, StepState
from stage.core.states import ENDED, Phase, SagaState
from stage.core.steps import Plan
from tests.unit.core import plans
from tests.unit.core.world import ONE


@pytest.mark.parametrize("state", [Saga(id="s"), StepState(phase=Phase.STARTED, order=0)])
def test_no_flag_is_up_that_no_event_has_raised(state: msgspec.Struct) -> None:
    values = [getattr(state, name) for name in state.__struct_fields__]
    assert not [value for value in values if value is True]


@pytest.mark.parametrize("state", list(SagaState))
def test_a_saga_has_ended_in_three_states(state: SagaState) -> None:
    assert (state in ENDED) is Saga(id="s", state=state).ended
    assert {SagaState.COMPLETED, SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE} == ENDED


def test_a_saga_runs_under_its_own_plan_where_it_has_one() -> None:
    newest, own = plans.usual(), plans.unprobed()
    assert newest is Saga(id="s").under(newest)
    assert own is Saga(id="s", plan=own).under(newest)
    assert isinstance(own, Plan)


@pytest.mark.parametrize(
    "members, may_stand",
    [
        ({}, False),
        ({"result": ONE}, True),
        ({"doubted": True}, True),
        ({"may_come": True}, True),
        ({"result": ONE, "asked": True}, False),
        ({"doubted": True, "phase": Phase.COMPENSATED}, False),
        ({"result": ONE, "phase": Phase.COMPENSATION_FAILED}, True),
    ],
)
def test_an_effect_may_stand_until_it_is_undone(members: dict[str, Any], may_stand: bool) -> None:
    """A result, or a doubt. A person's decision leaves nothing."""
    step = StepState(**{"phase": Phase.REFUSED, "order": 0, **members})
    assert may_stand is step.may_stand
