"""Worlds whose API says 200 to an undo without a result, and leaves the effect standing.

With `probe_after_undo` it is looked for: it is not there, it is there at a later look, or at once.
"""

from __future__ import annotations

from collections import Counter

import pytest

from stage.core import events as e
from stage.simulation.world import Result, Scenario, simulate_world

pytestmark = pytest.mark.blocking

SEEDS = range(12)


def world(seed: int) -> Result:
    """A stage alone or behind another one; answers are lost, and deadlines pass."""
    always = {"answer_lost", "deadline"} | ({"restore"} if seed % 4 == 1 else set())
    scenario = Scenario(
        sagas=8,
        chain=("looked",) if seed % 2 else ("plain", "looked"),
        tail=False,
        without=frozenset({"outage"}),
        always=frozenset(always),
    )
    return simulate_world(seed, scenario)


def test_worlds_with_looks_behind_an_undo_hold_every_invariant() -> None:
    """And in them the look finds nothing, later, and an effect, which is then undone by its id."""
    states: Counter[str] = Counter()
    seen: Counter[type] = Counter()
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        undone: set[tuple[str, str]] = set()
        for line in result.transcript.lines:
            event = line.what
            if getattr(event, "step", "") != "charge":
                continue
            if isinstance(event, e.CompensationSucceeded):
                undone.add((line.saga, line.who.partition("#")[0]))
            elif (line.saga, line.who.partition("#")[0]) in undone:
                seen[type(event)] += 1
    assert seen[e.ProbeNotThere] and seen[e.ProbeFound]
    assert seen[e.ProbePending] + seen[e.ProbeFailed]
    assert states["completed"] and states["compensated"]
