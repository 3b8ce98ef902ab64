"""Idempotency keys: one effect has one key, and another effect has another (rule 2)."""

from __future__ import annotations

from itertools import product

import pytest

from stage.core.ids import Direction, compensation_key, idempotency_key, step_of_key

DO, UNDO = Direction.EXECUTE, Direction.COMPENSATE


@pytest.mark.parametrize(
    "key, direction, ordinal, number",
    [
        ("s:payment:charge:do", DO, 1, 1),
        ("s:payment:charge:do:2", DO, 2, 1),
        ("s:payment:charge:undo", UNDO, 1, 1),
        ("s:payment:charge:undo.2", UNDO, 1, 2),
        ("s:payment:charge:undo.2:3", UNDO, 3, 2),
    ],
)
def test_the_form_of_a_key(key: str, direction: Direction, ordinal: int, number: int) -> None:
    """External APIs hold these: the form never changes."""
    assert key == idempotency_key("s", "payment", "charge", direction, ordinal, number)


def test_every_effect_has_a_key_of_its_own() -> None:
    effects = list(product(("a", "b"), ("one", "two"), ("c", "d"), Direction, (1, 2), (1, 2)))
    assert len(effects) == len({idempotency_key(*effect) for effect in effects})


@pytest.mark.parametrize("number, key", [(1, "old:undo"), (2, "old:undo.2"), (3, "old:undo.3")])
def test_the_undo_of_a_renamed_step_keeps_the_key_of_its_effect(number: int, key: str) -> None:
    """As the journal binds it (rule 32)."""
    assert key == compensation_key("old:do", number)
    assert "old:undo" == compensation_key("old:do")
    made = idempotency_key("s", "payment", "charge", DO)
    assert idempotency_key("s", "payment", "charge", UNDO, number=number) == compensation_key(
        made, number
    )


def test_a_key_reads_back_to_its_step() -> None:
    assert "charge" == step_of_key("s:1:payment:charge:do", "s:1", "payment")
