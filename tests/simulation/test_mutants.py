"""F4: planted defects of our own rules, each of which the simulation has to find.

This tests the testers. A defect is looked for at the seed that found it last (`make mutants`), and
from there on; the rules as they are have to pass at the same seed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stage.core import machine
from tests.simulation.find_mutants import SEEDS_MAX, find, recorded
from tests.simulation.mutants import FURTHER, MUTANTS, Patches, planted

pytestmark = pytest.mark.blocking  # some defects write where they must not

SEEDS = 400
"""A change of the engine or of the simulation shifts the dice, and with them the seed a little."""


def test_there_are_twenty_five() -> None:
    """As many as F4 asks for, and each was found within the seeds that F4 allows."""
    assert 25 == len(MUTANTS)
    assert MUTANTS.keys() | FURTHER.keys() == recorded().keys()
    assert max(recorded().values()) < SEEDS_MAX


@pytest.mark.parametrize("name", [*MUTANTS, *FURTHER])
def test_a_planted_defect_is_found(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    """And the same world without it holds every invariant: `find` looks at both."""
    seed = recorded().get(name, 0)

    result = find(name, (seed, *range(SEEDS)))

    if name in MUTANTS:
        record_property("counted", ("F4: planted defects found", int(result is not None)))
    assert result is not None, f"{name} was not found at seed {seed} nor in {SEEDS} others"


def test_what_was_planted_is_gone_afterwards() -> None:
    """Everything that was replaced is put back."""
    before = {name: value for name, value in vars(machine).items() if callable(value)}
    for name in (*MUTANTS, *FURTHER):
        with planted(name):
            pass
    assert before == {name: value for name, value in vars(machine).items() if callable(value)}


def test_a_defect_that_would_change_nothing_cannot_be_planted() -> None:
    """What a defect replaces has to be there: a rule that moved must not make it idle."""
    with pytest.raises(AttributeError, match="would change nothing"):
        Patches().set(machine, "no_such_rule", None)
