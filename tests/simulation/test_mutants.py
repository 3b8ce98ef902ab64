"""F4: planted defects of our own rules, each of which the simulation has to find.

This tests the testers. A defect is looked for at the seed that found it last (`make mutants`), and
from there on; the rules as they are have to pass at the same seed.
"""

from __future__ import annotations

import pytest

from stage.core import machine
from tests.kits import Strikes
from tests.simulation.find_mutants import SEEDS_MAX, find, recorded
from tests.simulation.mutants import FURTHER, MUTANTS, Patches, planted
from tests.sizes import DEFECTS, SIZES

pytestmark = pytest.mark.blocking  # some defects write where they must not

SEEDS = 400
"""A change of the engine or of the simulation shifts the dice, and with them the seed a little."""


def test_there_are_forty() -> None:
    """As many as F4 asks for, and each was found within the seeds that F4 allows."""
    assert DEFECTS == len(MUTANTS)
    assert MUTANTS.keys() | FURTHER.keys() == recorded().keys()
    assert max(recorded().values()) < SEEDS_MAX


@pytest.mark.kit("F4")
@pytest.mark.parametrize("name", [*MUTANTS, *[*FURTHER][:: SIZES.defect_stride]])
def test_a_planted_defect_is_found(name: str, strikes: Strikes) -> None:
    """And the same world without it holds every invariant: `find` looks at both."""
    seed = recorded().get(name, 0)

    result = find(name, (seed, *range(SEEDS)))

    unit = "defects" if name in MUTANTS else "further defects"
    strikes.report(unit, int(result is not None))
    assert result is not None, f"{name} was not found at seed {seed} nor in {SEEDS} others"


def test_a_planted_defect_is_gone_afterwards() -> None:
    """Everything that was replaced is put back."""
    before = {name: value for name, value in vars(machine).items() if callable(value)}
    for name in (*MUTANTS, *FURTHER):
        with planted(name):
            pass
    assert before == {name: value for name, value in vars(machine).items() if callable(value)}


def test_a_defect_that_would_change_nothing_cannot_be_planted() -> None:
    """The rule that a defect replaces has to be there: one that moved must not make it idle."""
    with pytest.raises(AttributeError, match="would change nothing"):
        Patches().set(machine, "no_such_rule", None)
