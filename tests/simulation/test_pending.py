"""Worlds whose API takes calls on and ends them later or never (decision 0060)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import machine
from stage.core.events import ProbePending
from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.mutants import Patches

pytestmark = pytest.mark.blocking

SEEDS = range(12)
DEFECT_SEEDS = range(60)


def world(seed: int) -> Result:
    """A stage alone or behind another one; days of an outage would show nothing more."""
    chain = ("pending",) if seed % 2 else ("plain", "pending")
    return simulate_world(
        seed, Scenario(sagas=8, chain=chain, tail=False, without=frozenset({"outage"}))
    )


@contextmanager
def a_pending_call_counts_as_not_made() -> Iterator[None]:
    """A planted defect: a call that turns back while pending is not undone."""
    patches = Patches()

    def make(original: Any) -> Any:
        def pend(plan: Any, saga: Any, event: Any) -> Any:
            after = original(plan, saga, event)
            step = replace(after.steps[event.step], doubted=False)
            return replace(after, steps={**after.steps, event.step: step})

        return pend

    patches.wrap(machine, "_pend_call", make)
    try:
        yield
    finally:
        patches.undo()


def test_worlds_with_pending_calls_hold_every_invariant() -> None:
    """And calls are pending in them, of sagas that complete and of sagas that turn back."""
    states: Counter[str] = Counter()
    pended = 0
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        pended += sum(isinstance(line.what, ProbePending) for line in result.transcript.lines)
    assert pended
    assert states["completed"] and states["compensated"]


def test_a_planted_defect_of_pending_calls_is_found() -> None:
    """The world sees an effect stand that the stage says is undone."""
    for seed in DEFECT_SEEDS:
        with a_pending_call_counts_as_not_made():
            found = world(seed).violations
        if found and found[0].invariant != "defect":
            assert [] == world(seed).violations
            return
    raise AssertionError("not found")
