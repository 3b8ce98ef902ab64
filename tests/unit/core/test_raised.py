"""An exception is shown by its type and its place, never by its text (rule 38)."""

from __future__ import annotations

from stage.core.errors import StageError
from stage.core.raised import raised

CARD = "4111111111111111"


def test_type_and_place_are_kept() -> None:
    try:
        raise ValueError(f"cannot read {CARD}")
    except ValueError as error:
        text = raised(error)
    assert text.startswith("ValueError in test_type_and_place_are_kept (test_raised.py:")
    assert CARD not in text


def test_an_error_of_ours_says_its_fix() -> None:
    assert "StageError: add less" == raised(StageError("add less"))


def test_an_exception_that_was_never_raised_has_a_type() -> None:
    assert "KeyError" == raised(KeyError(CARD))
