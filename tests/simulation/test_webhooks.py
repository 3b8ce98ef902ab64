"""Worlds whose API tells by webhooks how its calls ended (decision 0067).

It tells before its answer, late, twice and never; the network loses, delays and repeats what it
says, and processes die meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core import machine
from stage.engine.embedded.commands import EmbeddedCommands
from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.mutants import Patches

pytestmark = pytest.mark.blocking

SEEDS = range(12)
DEFECT_SEEDS = range(360, 420)
"""Where every defect is found soon. A process seldom dies between an early word and the answer."""
RAISED = "defect"


def world(seed: int) -> Result:
    """A stage alone or behind another one, often with two replicas."""
    chain = ("hooked",) if seed % 2 else ("plain", "hooked")
    scenario = Scenario(
        sagas=8,
        chain=chain,
        tail=False,
        without=frozenset({"outage"}),
        always=frozenset({"api_refuses"} | ({"crash", "replicas"} if seed % 3 == 0 else set())),
    )
    return simulate_world(seed, scenario)


def test_worlds_with_webhooks_hold_every_invariant() -> None:
    """And webhooks are heard in them: before the answer, after it, of a yes and of a no."""
    states: Counter[str] = Counter()
    heard: Counter[type] = Counter()
    early = 0
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        flying: set[tuple[str, str]] = set()
        for line in result.transcript.lines:
            step = (line.saga, getattr(line.what, "step", ""))
            heard[type(line.what)] += 1
            match line.what:
                case e.StepStarted():
                    flying.add(step)
                case e.WebhookFound() | e.WebhookRefused():
                    early += step in flying
                case e.StepSucceeded() | e.StepPending() | e.StepInDoubt() | e.StepRefused():
                    flying.discard(step)
    assert early and heard[e.WebhookFound] > early and heard[e.WebhookRefused]
    assert heard[e.StillPending]
    assert states["completed"] and states["compensated"]


# --- planted defects -----------------------------------------------------------------------------


def acknowledged_before_it_is_durable(patches: Patches) -> None:
    """The API is told 200, and a crash loses what it said."""

    def make(original: Any) -> Any:
        async def durably(self: Any, live: Any, event: Any, until: float) -> None:
            if isinstance(event, e.Webhook):
                return  # the word is on its way, as it were
            await original(self, live, event, until)

        return durably

    patches.wrap(EmbeddedCommands, "_durably", make)


def forgotten_by_the_next_run(patches: Patches) -> None:
    """A word that came before the answer is gone when the process dies before that."""

    def make(original: Any) -> Any:
        return lambda plan, saga, event: replace(original(plan, saga, event), heard={})

    patches.wrap(machine, "_recover", make)


def a_no_is_a_yes(patches: Patches) -> None:
    """A call that was declined counts as made."""

    def make(original: Any) -> Any:
        def hear(plan: Any, saga: Any, event: Any) -> Any:
            return original(plan, saga, e.WebhookFound(at=event.at, step=event.step))

        return hear

    patches.wrap(machine, "_hear", make)


DEFECTS = (
    acknowledged_before_it_is_durable,
    forgotten_by_the_next_run,
    a_no_is_a_yes,
)


@pytest.mark.parametrize("plant", DEFECTS)
def test_a_planted_defect_of_webhooks_is_found(plant: Callable[[Patches], None]) -> None:
    """By the world's books, in a world that holds without the defect."""
    for seed in DEFECT_SEEDS:
        patches = Patches()
        plant(patches)
        try:
            found = world(seed).violations
        finally:
            patches.undo()
        if found and found[0].invariant != RAISED:
            assert [] == world(seed).violations
            return
    raise AssertionError("not found")
