"""Every kind of failure that people reported is a test, and stands on the page of guarantees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.cases import CASES


def broken(page: str, tests: str, names: tuple[str, ...]) -> list[str]:
    """The names that the page does not give, or that no test has."""
    return [
        name for name in names if (f"::{name}`" not in page and f"`{name}`" not in page)
        or f"def {name}(" not in tests
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """The two tables of cases."""
    text = (root / "docs" / "guarantees.md").read_text(encoding="utf-8")
    return text.partition("## What was reached")[0]


@pytest.fixture(scope="module")
def tests(root: Path) -> str:
    """The text of all tests."""
    files = sorted((root / "tests").rglob("test_*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_there_are_eighteen() -> None:
    """None is left out."""
    assert list(range(1, 19)) == sorted(CASES)


@pytest.mark.parametrize("number", CASES)
def test_a_case_is_a_test_and_stands_on_the_page(number: int, page: str, tests: str) -> None:
    """Each part of it, by the name of the test."""
    parts = {part: broken(page, tests, names) for part, names in CASES[number].items()}

    assert {} == {part: names for part, names in parts.items() if names}


def test_a_name_that_is_nowhere_is_seen(page: str, tests: str) -> None:
    """One that only the page has is none."""
    assert ["test_x"] == broken("`unit/test_it.py::test_x`", "", ("test_x",))
    assert ["test_x"] == broken("", "def test_x() -> None:", ("test_x",))
