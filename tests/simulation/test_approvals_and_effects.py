"""Worlds whose sagas wait for a person, and whose effects are code that nobody sees into.

The person says yes, no, nothing, too late or twice; replicas die and older databases are put back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from stage import Refused, Saga, Stage
from stage.authoring.conversation import EffectConversation, FunctionConversation
from stage.core import events as e
from stage.core import machine, verbs
from stage.core.states import Phase
from stage.engine.embedded.commands import EmbeddedCommands
from stage.simulation import ask
from stage.simulation.stages import Purchase
from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.mutants import Patches

pytestmark = pytest.mark.blocking

SEEDS = range(24)
DEFECT_SEEDS = range(40)
RAISED = "defect"


def world(seed: int, kind: str) -> Result:
    """A stage alone or behind another one, often with two replicas, sometimes with a restore."""
    always = {"operator"}
    if seed % 3 == 0:
        always |= {"crash", "replicas"}
    if seed % 4 == 1:
        always |= {"restore"}
    scenario = Scenario(
        sagas=8,
        chain=(kind,) if seed % 2 else ("plain", kind),
        tail=False,
        without=frozenset({"outage"}),
        always=frozenset(always),
    )
    return simulate_world(seed, scenario)


def calm_world(seed: int, kind: str) -> Result:
    """A stage alone, whose saga reaches each of its steps more often."""
    scenario = Scenario(
        sagas=8,
        chain=(kind,),
        tail=False,
        without=frozenset({"outage"}),
        always=frozenset({"operator"}),
    )
    return simulate_world(seed, scenario)


def test_worlds_with_approvals_hold_every_invariant() -> None:
    """And in them a person says yes and no, comes too late, and says nothing until the time-out."""
    states: Counter[str] = Counter()
    seen: Counter[type] = Counter()
    struck: Counter[str] = Counter()
    late = 0
    for seed in SEEDS:
        result = world(seed, "approved")
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        struck.update(result.struck)
        for line in result.transcript.lines:
            seen[type(line.what)] += 1
            late += isinstance(line.what, e.TurnedBack) and "in time" in line.what.reason
    assert seen[e.ApprovalAsked] and seen[e.Approved] and seen[e.Rejected]
    assert late and struck["verb_decided_late"]
    assert struck["crash"]
    assert states["completed"] and states["compensated"]


def test_worlds_with_effects_hold_every_invariant() -> None:
    """And effects end well, in doubt, found, and undone without a result in them."""
    states: Counter[str] = Counter()
    seen: Counter[tuple[type, str]] = Counter()
    for seed in SEEDS:
        result = world(seed, "effective")
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        for line in result.transcript.lines:
            seen[type(line.what), getattr(line.what, "step", "")] += 1
    for kind in (e.StepSucceeded, e.StepInDoubt, e.ProbeFound, e.CompensationSucceeded):
        assert seen[kind, "upload"], kind
    assert seen[e.StepInDoubt, "publish"] and not seen[e.ProbeStarted, "publish"]
    assert states["completed"] and states["compensated"]


def a_stage_of_an_author() -> Stage[Purchase, Any]:
    """A person with days of time, and a client of a vendor."""
    stage: Stage[Purchase, Any] = Stage("payment", accepts=Purchase)

    @stage.approval("risk")
    def risk(saga: Saga[Purchase]) -> dict[str, int]:
        return {"amount": saga.input.amount}

    @stage.effect(to="s3", timeout=1.0)
    async def upload(saga: Saga[Purchase]) -> str:
        answer = await ask("s3", "PUT", "/receipts", key=saga.key)
        said = msgspec.json.decode(answer.body)
        if answer.status in (402, 410) and said["code"] in ("refused", "closed_key"):
            raise Refused("full")
        return str(said["id"])

    @upload.compensation
    async def remove(saga: Saga[Purchase], made: str | None) -> None:
        answer = await ask("s3", "DELETE", "/receipts", key=saga.key)
        if answer.status == 402:
            raise Refused("kept by law")
        if answer.status != 200 or "undone" not in msgspec.json.decode(answer.body):
            raise OSError(answer.status)

    return stage


def test_a_stage_of_an_author_with_both_holds_and_comes_to_rest() -> None:
    """Its person is asked for at most three days, and decides before that."""
    states: Counter[str] = Counter()
    for seed in range(10):
        scenario = Scenario(sagas=5, stage=a_stage_of_an_author(), tail=False)
        result = simulate_world(seed, scenario)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
    assert states["completed"] and states["compensated"]


def silence_approves(patches: Patches) -> None:
    """Decision 0075: the time-out says yes."""

    def late(step: Any, said: str) -> Any:
        if "in time" in said:
            return replace(step, phase=Phase.SUCCEEDED, result=Raw(b"{}"))
        return replace(step, phase=Phase.REFUSED, error=said, said=said)

    patches.set(verbs, "refused_approval", late)


def nobody_waits(patches: Patches) -> None:
    """An approval that was asked for counts as given."""

    def asked(saga: Any, plan: Any, event: Any) -> Any:
        before = machine._known(saga, event.step)
        return machine._put(saga, event.step, replace(before, phase=Phase.SUCCEEDED))

    patches.set(machine, "_ask_approval", asked)


def a_second_decision_counts(patches: Patches) -> None:
    """The last word is right."""

    def refuse(plan: Any, saga: Any, verb: Any) -> str | None:
        return None if verb.step in saga.steps else "nobody was asked"

    patches.set(verbs, "_refuse_decision", refuse)


def a_decision_is_said_to_be_taken_before_it_is_durable(patches: Patches) -> None:
    """The person is told yes, and the stage forgets it."""

    def make(original: Any) -> Any:
        async def operate(self: Any, saga_id: str, verb: Any, **options: Any) -> Any:
            if isinstance(verb, e.Approved | e.Rejected):
                return await self.get_saga(saga_id)
            return await original(self, saga_id, verb, **options)

        return operate

    patches.wrap(EmbeddedCommands, "operate", make)


def an_effect_that_breaks_did_not_happen(patches: Patches) -> None:
    """Decision 0076: an exception out of it counts as certain."""
    patches.set(EffectConversation, "proceed", FunctionConversation.proceed)


DEFECTS = [
    ("approved", silence_approves),
    ("approved", nobody_waits),
    ("approved", a_second_decision_counts),
    ("approved", a_decision_is_said_to_be_taken_before_it_is_durable),
    ("effective", an_effect_that_breaks_did_not_happen),
]


@pytest.mark.parametrize("kind, plant", DEFECTS)
def test_a_planted_defect_of_approvals_and_effects_is_found(
    kind: str, plant: Callable[[Patches], None]
) -> None:
    """By the world's books, in a world that holds without the defect."""
    for seed, simulated in product(DEFECT_SEEDS, (calm_world, world)):
        patches = Patches()
        plant(patches)
        try:
            found = simulated(seed, kind).violations
        finally:
            patches.undo()
        if found and found[0].invariant != RAISED:
            assert [] == simulated(seed, kind).violations
            return
    raise AssertionError("not found")
