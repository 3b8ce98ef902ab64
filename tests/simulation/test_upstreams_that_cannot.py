"""Worlds whose client says 409 to the notification of a failure: it cannot compensate, for now.

The saga is parked for it. A person has it notified again, or the client turns back by itself.
"""

from __future__ import annotations

from collections import Counter

import pytest

from stage.core import events as e
from stage.simulation.world import Result, Scenario, simulate_world

pytestmark = pytest.mark.blocking

SEEDS = range(10)


def world(seed: int) -> Result:
    """A stage whose downstream fails late, so that its client has a yes by then."""
    always = {"client_cannot", "not_waiting", "tail_fails_late"} | (
        {"operator"} if seed % 2 else set()
    )
    scenario = Scenario(
        sagas=8,
        chain=("plain",),
        tail=True,
        without=frozenset({"outage"}),
        always=frozenset(always),
    )
    return simulate_world(seed, scenario)


def test_worlds_with_an_upstream_that_cannot_compensate_hold_every_invariant() -> None:
    """And in them it is notified again, turns back by itself, and goes on believing its yes."""
    notified_again = asked_itself = 0
    parked: Counter[str] = Counter()
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        parked.update(result.states)
        refused: set[str] = set()
        for line in result.transcript.lines:
            match line.what:
                case e.TellRefused():
                    refused.add(line.saga)
                case e.TellDelivered():
                    notified_again += line.saga in refused
                case e.CompensationRequested(requested_by="client"):
                    asked_itself += line.saga in refused
                case _:
                    pass
    assert notified_again and asked_itself and parked["parked"]
