"""Rules that were each written with one shape of a step in mind, kept where two come together."""

from __future__ import annotations

import pytest

from tests.unit.core.mixed import (
    Walk,
    asked_around_a_pivot,
    looked_behind_an_undo,
    waits_for_a_person,
)

SEEDS, WALKS = 8, 800


@pytest.mark.parametrize("seed", range(SEEDS))
def test_steps_of_mixed_shapes_come_to_an_end_that_the_world_agrees_with(seed: int) -> None:
    """Nothing leaves that may not, each park has a way out, and the end is true."""
    walks = [Walk(seed * WALKS + each) for each in range(WALKS)]
    for walk in walks:
        try:
            walk.play()
        except AssertionError as error:
            error.add_note(f"{walk.saga.id}: {walk.plan.steps}")
            raise
        assert [] == walk.wrong, (walk.saga.id, walk.plan.steps, walk.journal)
    for strikes in (waits_for_a_person, looked_behind_an_undo, asked_around_a_pivot):
        assert any(map(strikes, walks)), strikes.__name__
