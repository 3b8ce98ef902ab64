"""Worlds with answers beyond the limit, of an API and of downstream, and results beyond theirs.

An answer that is not read leaves a doubt. A result that cannot be kept, and data of downstream that
make an answer nobody could read, turn the saga back (decision 0103).
"""

from __future__ import annotations

from collections import Counter

import pytest

from stage.core import events as e
from stage.simulation.world import Result, Scenario, simulate_world

pytestmark = pytest.mark.blocking

SEEDS = range(6)
KINDS = ("plain", "paired", "bundle", "looked")
ALWAYS = frozenset({"api_oversized", "result_oversized", "tail_oversized"})


def world(seed: int) -> Result:
    """A stage with a downstream behind it; few sagas, for each may hold megabytes."""
    chain = (KINDS[seed % len(KINDS)],)
    scenario = Scenario(
        sagas=6, chain=chain, tail=True, without=frozenset({"outage"}), always=ALWAYS
    )
    return simulate_world(seed, scenario)


def test_worlds_with_too_much_in_an_answer_hold_every_invariant() -> None:
    """And each of the three happens in them, on the way to either end."""
    states: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        struck.update(result.struck)
        for line in result.transcript.lines:
            match line.what:
                case e.StepRefused(may_stand=True, reason=reason) if "are kept" in reason:
                    said["result"] += 1
                case e.StepInDoubt(reason=reason) if "with more than" in reason:
                    said["forward" if line.what.step.startswith("forward") else "call"] += 1
                case e.TurnedBack(reason=reason) if "no upstream could read" in reason:
                    said["answer"] += 1
                case _:
                    pass
    assert all(struck[kind] for kind in ALWAYS)
    assert all(said[each] for each in ("result", "forward", "call", "answer")), said
    assert states["completed"] and states["compensated"]
