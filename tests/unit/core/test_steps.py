"""Plans: what can be compensated is ordered, and what cannot is refused with the fix."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import retry
from stage.core.errors import DeclarationError
from stage.core.states import StepKind
from stage.core.steps import Plan, Step, adjusted, forward_to, plan_of

CALL, APPROVAL = StepKind.CALL, StepKind.APPROVAL


def call(name: str, group: str = "") -> Step:
    """A call that can be undone."""
    return Step(name=name, kind=CALL, peer="psp", compensatable=True, group=group)


PIVOT = Step(name="pay", kind=CALL, peer="bank", pivot=True)


def test_a_step_has_no_property_that_its_author_did_not_declare() -> None:
    """But one: an API that is called honours keys, unless its author says that it ignores them."""
    step = Step(name="charge", kind=CALL)
    flags = {name: value for name, value in vars_of(step).items() if isinstance(value, bool)}
    assert {name for name, value in flags.items() if value} == {"idempotent"}


def vars_of(step: Step) -> dict[str, object]:
    """The members of a step."""
    return {name: getattr(step, name) for name in step.__struct_fields__}


def test_each_downstream_is_handed_the_context_as_one_wave() -> None:
    """At the same time, last of all, and under the rules of neighbours."""
    plan = plan_of("payment", (call("a"), call("b")), ("shipping", "billing"))

    assert ["a", "b", "forward:shipping", "forward:billing"] == [step.name for step in plan.steps]
    assert [["a"], ["b"], ["forward:shipping", "forward:billing"]] == names(plan)
    forward = plan.step("forward:billing")
    assert forward is plan.steps[3]
    assert forward_to("billing") == forward
    assert (StepKind.FORWARD, "billing", True, 30.0) == (
        forward.kind, forward.peer, forward.compensatable, forward.timeout_seconds,
    )  # fmt: skip
    assert (retry.NEIGHBOUR, retry.NEIGHBOUR_SETTLEMENT, retry.NEIGHBOUR_COMPENSATION) == (
        forward.execution, forward.settlement, forward.compensation,
    )  # fmt: skip


def names(plan: Plan) -> list[list[str]]:
    """The names of the steps, wave by wave."""
    return [[step.name for step in wave] for wave in plan.waves]


def test_steps_of_one_group_are_one_wave() -> None:
    """Neighbours of one word run together; without a word each runs by itself."""
    steps = (call("a"), call("b", "x"), call("c", "x"), call("d", "y"), call("e"), call("f"))
    assert [["a"], ["b", "c"], ["d"], ["e"], ["f"]] == names(plan_of("offers", steps))


def test_the_pivot_is_known_by_its_place() -> None:
    assert 1 == plan_of("payout", (call("hold"), PIVOT), ("shipping",)).pivot
    assert 0 == plan_of("payout", (PIVOT,), ("shipping",)).pivot
    assert plan_of("payout", (call("hold"),)).pivot is None


@pytest.mark.parametrize(
    "stage, steps, said",
    [
        ("Payment", (), "stage name 'Payment': use 1 to 48"),
        ("", (), "stage name ''"),
        ("payment", (call("Charge"),), "step name 'Charge'"),
        ("payment", (call("forward:shipping"),), "step name 'forward:shipping'"),
        ("payment", (call("a"), call("a")), "two steps named 'a': rename one"),
        ("payment", (PIVOT, replace(PIVOT, name="b")), r"several pivots \(pay, b\): keep one"),
        ("payment", (replace(PIVOT, compensatable=True),), "is the pivot and has a compensation"),
        ("payment", (replace(PIVOT, group="x"),), "the pivot and runs together with others"),
        (
            "payment",
            (PIVOT, Step(name="ask", kind=APPROVAL)),
            "step 'ask' .* is an approval and comes after the pivot 'pay'",
        ),
        ("payment", (PIVOT, call("late")), "step 'late' .* has a compensation but comes after"),
        (
            "payment",
            (call("a", "x"), call("b"), call("c", "x")),
            "steps 'a' and 'c' .* together='x', and 'b' stands between them",
        ),
    ],
)
def test_a_plan_that_could_not_be_compensated_is_refused(
    stage: str, steps: tuple[Step, ...], said: str
) -> None:
    """The message names the step, and what the author is to do."""
    with pytest.raises(DeclarationError, match=said):
        plan_of(stage, steps, ("shipping",))


def test_a_step_before_the_pivot_or_without_an_undo_is_allowed() -> None:
    plan = plan_of(
        "payout",
        (Step(name="ask", kind=APPROVAL), call("hold"), PIVOT, Step(name="note", kind=CALL)),
        ("shipping",),
    )
    assert 2 == plan.pivot


def test_adjusted_rules_hold_wherever_the_plan_has_them() -> None:
    """One step, one set of rules: in the list, in the waves, and by name."""
    plan = plan_of("payment", (call("a", "x"), call("b", "x")), ("shipping",))
    slow = adjusted(plan, lambda step: replace(step, timeout_seconds=77.0))

    assert {77.0} == {step.timeout_seconds for step in slow.steps}
    assert slow.steps == tuple(step for wave in slow.waves for step in wave)
    assert slow.by_name == {step.name: step for step in slow.steps}
    assert names(plan) == names(slow)
