"""Makes a failing world small: one saga, as few kinds of faults as can be, the same thing wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, combinations

from msgspec.structs import replace

from stage.simulation.faults import KINDS
from stage.simulation.summary import failure_of
from stage.simulation.world import Result, Scenario, simulate_world

SIZES = ((1, 60), (2, 60), (3, 4))
"""So many kinds of faults at once, and worlds of one saga that are looked at for each choice."""
SAGAS = (1, 2, 3, 5, 8, 13, 21)


def shortest(failing: Result, scenario: Scenario) -> tuple[Result, Scenario]:
    """The world with the shortest history found in which the same invariant does not hold."""
    wanted = failing.violations[0].invariant
    for worlds in chain(_alone(failing, scenario), _smaller(failing, scenario)):
        found = [(result, how) for result, how in worlds if _fails(result, wanted)]
        if found:
            return min(found, key=lambda each: len(failure_of(each[0]).history))
    return failing, scenario


def _fails(result: Result, invariant: str) -> bool:
    return bool(result.violations) and result.violations[0].invariant == invariant


Worlds = Iterator[tuple[Result, Scenario]]


def _alone(failing: Result, scenario: Scenario) -> Iterator[Worlds]:
    """Worlds of one saga with a few of the faults of the failing world, and no others."""
    kinds = sorted(failing.struck.keys() & KINDS.keys())
    for size, seeds in SIZES:
        for chosen in combinations(kinds, size):
            tried = _only(replace(scenario, sagas=1), chosen)
            yield ((simulate_world(seed, tried), tried) for seed in range(seeds))


def _smaller(failing: Result, scenario: Scenario) -> Iterator[Worlds]:
    """The failing world with fewer sagas."""
    for sagas in SAGAS:
        if sagas < scenario.sagas:
            tried = replace(scenario, sagas=sagas)
            yield iter([(simulate_world(failing.seed, tried), tried)])


def _only(scenario: Scenario, kinds: Sequence[str]) -> Scenario:
    some = frozenset(kinds)
    return replace(scenario, without=frozenset(KINDS) - some, always=some)
