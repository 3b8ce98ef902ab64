"""The instructions of a stage: what an attempt needs that no saga changes, made once at start."""

from __future__ import annotations

import pytest

from stage.core.bindings import binding_of
from stage.core.commands import AttemptKind, Do
from stage.core.ids import Direction, idempotency_key
from stage.core.saga import Saga
from stage.core.states import StepKind
from stage.demo.payment import payment
from stage.engine.clock import SystemClock
from stage.engine.saga.instructions import instructions_of
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.versions import Versions
from stage.ports.stage import Participant
from stage.telemetry.null import NullObserver


@pytest.fixture
def bound() -> Participant:
    return payment.bind(("shipping",))


def test_each_step_has_one_instruction_a_kind(bound: Participant) -> None:
    """To notify upstream belongs to no step."""
    compiled = instructions_of(bound)
    assert {AttemptKind.EXECUTE, AttemptKind.PROBE, AttemptKind.COMPENSATE} == set(compiled)
    for kind, steps in compiled.items():
        assert list(bound.plan.by_name) == list(steps)
        for name, each in steps.items():
            step = bound.plan.by_name[name]
            assert Do(kind=kind, step=name) == each.do
            assert (step, binding_of(step)) == (each.step, each.binding)
            assert (step.kind is StepKind.TRANSACTION) is each.is_local
            assert (step.kind is StepKind.CALL) is each.is_external


def test_its_key_is_that_of_the_names(bound: Participant) -> None:
    """Rule 2: with the id of any saga before it."""
    for name, each in instructions_of(bound)[AttemptKind.COMPENSATE].items():
        key = idempotency_key("s:1", "payment", name, Direction.EXECUTE)
        assert key == "s:1" + each.key_end


def test_a_repeat_has_its_own_number_and_nothing_else_of_its_own(bound: Participant) -> None:
    interpreter = Interpreter(Versions(bound), NullObserver(), SystemClock())
    first, third = (
        interpreter.instruction(
            Saga(id="s-1"), Do(kind=AttemptKind.EXECUTE, step="charge", attempt=attempt)
        )
        for attempt in (1, 3)
    )
    assert first is interpreter.newest[AttemptKind.EXECUTE]["charge"]
    assert 3 == third.do.attempt
    assert (first.step, first.key_end) == (third.step, third.key_end)
