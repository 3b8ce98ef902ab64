"""Worlds whose APIs take an undo on with 202, or refuse it behind an effect that stands.

How it ends is there at a later look: it is done, it failed, or nobody ever says so.
"""

from __future__ import annotations

from collections import Counter

import pytest

from stage.core import events as e
from stage.simulation.world import Result, Scenario, simulate_world

pytestmark = pytest.mark.blocking

SEEDS = range(12)
CHAINS = (("unconfirmed",), ("plain", "unconfirmed"), ("hooked",), ("effective",))


def world(seed: int) -> Result:
    """A stage of a kind in turn, of which much is undone."""
    return simulate_world(
        seed,
        Scenario(
            sagas=8,
            chain=CHAINS[seed % len(CHAINS)],
            tail=False,
            without=frozenset({"outage"}),
            always=frozenset({"undo_accepted", "undo_denied", "late_compensation"}),
        ),
    )


def test_worlds_with_undos_that_take_their_time_hold_every_invariant() -> None:
    """And undos are under way, refused, and given up in them."""
    states: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    delayed = 0
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        struck.update(result.struck)
        for line in result.transcript.lines:
            match line.what:
                case e.CompensationDelayed(reason="the undo is under way"):
                    delayed += 1
                case e.CompensationRefused(reason=reason):
                    refused[reason[:7]] += 1
                case _:
                    pass
    assert delayed and struck["undo_accepted"] and struck["undo_denied"]
    assert refused["cannot "] and refused["gave up"]
    assert states["compensated"] and states["failed_to_compensate"]
