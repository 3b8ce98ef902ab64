"""Decision records are one page of four sections, numbered in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.rules import DECISION_NAME, DECISION_SECTIONS, missing_sections

TEMPLATE = "template.md"
STATUS = re.compile(r"^Status: (?:proposed|accepted|replaced by \[?\d{4})\b.*\.$", re.MULTILINE)
MISSING_MAX = 4
"""Records that are written at the same time have their numbers before they are there."""


@pytest.fixture
def records(root: Path) -> list[Path]:
    """All decision records, in order."""
    found = sorted((root / "docs" / "decisions").glob("*.md"))
    return [file for file in found if file.name != TEMPLATE]


def test_every_record_has_the_four_sections(root: Path, records: list[Path]) -> None:
    """Context, decision, evidence, and what was given up: none missing and none empty."""
    template = root / "docs" / "decisions" / TEMPLATE
    wrong = {
        file.name: missing
        for file in [template, *records]
        if (missing := missing_sections(file.read_text(encoding="utf-8")))
    }

    assert records
    assert {} == wrong


def test_every_record_has_a_status(records: list[Path]) -> None:
    """It is proposed, accepted or replaced, in a whole sentence, with what others changed of it."""
    wrong = [file.name for file in records if not STATUS.search(file.read_text(encoding="utf-8"))]

    assert [] == wrong


def test_a_status_that_is_none_is_seen() -> None:
    """The word has to be one of three, and the sentence has to end."""
    assert STATUS.search("# 1. x\n\nStatus: accepted. Completes 2.\n")
    assert STATUS.search("Status: replaced by 0004.\n")
    assert not STATUS.search("Status: accepted\n")
    assert not STATUS.search("Status: good.\n")


def test_records_are_numbered(records: list[Path]) -> None:
    """0001, 0002, ...: a number is used once, and none is left out for long."""
    assert [] == [file.name for file in records if not DECISION_NAME.fullmatch(file.name)]
    numbers = [int(file.name[:4]) for file in records]
    assert len(set(numbers)) == len(numbers)
    assert set(range(1, numbers[-1] - MISSING_MAX)) <= set(numbers)


@pytest.mark.parametrize("section", DECISION_SECTIONS)
def test_a_missing_or_empty_section_is_seen(section: str) -> None:
    """A heading alone says nothing."""
    whole = "# 1. x\n\n" + "".join(f"## {name}\nText.\n\n" for name in DECISION_SECTIONS)

    assert [] == missing_sections(whole)
    assert [section] == missing_sections(whole.replace(f"## {section}\nText.", f"## {section}\n"))
    assert [section] == missing_sections(whole.replace(f"## {section}\n", ""))
