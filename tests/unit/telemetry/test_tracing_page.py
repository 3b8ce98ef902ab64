"""docs/tracing.md says what the code does: its tables and its pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage.telemetry import names, visible
from tests.acceptance.test_otlp import LATE_FAILURE

PAGE = Path(__file__).parents[3] / "docs" / "tracing.md"
CODE = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def rows(page: str, heading: str, first: str) -> Iterator[list[str]]:
    """The rows of the table under a heading whose first column has that title."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = section.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_table_of_attributes_is_that_of_the_code(page: str) -> None:
    """Every attribute, on the spans that may have it."""
    table = {
        CODE.findall(row[0])[0]: tuple(row[1].split(", "))
        for row in rows(page, "Attributes", "Attribute")
    }
    assert visible.SPAN_ATTRIBUTES == table


def test_the_table_of_spans_is_that_of_the_code(page: str) -> None:
    """Four types, each with a name that the code gives."""
    table = {row[0]: CODE.findall(row[1]) for row in rows(page, "Spans", "Span")}
    assert list(names.SPANS) == list(table)
    verbs = {name.partition(" ")[0] for name in table["attempt"]}
    assert set(names.ATTEMPT_VERBS.values()) == verbs
    assert [names.run_span("payment")] == table["run"]
    assert names.request_span("POST", "/sagas") == table["server"][0]
    assert [
        names.client_span("POST", "/sagas", "shipping"),
        names.client_span("GET", "/sagas/{saga_id}", "shipping"),
        names.client_span("POST", "", "psp"),
    ] == table["client"]


def test_the_outcomes_that_are_errors_are_those_of_the_code(page: str) -> None:
    """A list in a sentence."""
    (sentence,) = re.findall(r"for these outcomes: ([^.]*)\.", page)
    assert sorted(names.FAILED_OUTCOMES) == CODE.findall(sentence)


def test_the_levels_of_log_events_are_those_of_the_code(page: str) -> None:
    """Every event of the journal, and the defect."""
    table = {
        event: logging.getLevelNamesMapping()[row[0].upper()]
        for row in rows(page, "Logs", "Level")
        for event in CODE.findall(row[1])
    }
    assert {**visible.LOG_EVENTS, names.LOG_DEFECT: logging.ERROR} == table


def test_the_picture_is_that_of_the_demo(page: str) -> None:
    """The late failure, as the acceptance test sees it: but for the times."""
    picture = page.partition("```\n")[2].partition("\n```")[0]
    shape = re.sub(r" +\d+ ms +\d+ ms", "", picture)
    outline = [
        re.sub(r" +", " ", re.sub(r"  → \d+ linked", "", line)).rstrip()
        for line in shape.splitlines()
    ]
    assert [re.sub(r" +", " ", line) for line in LATE_FAILURE.splitlines()] == outline


def test_the_compose_file_has_the_ports_that_the_demo_sends_to() -> None:
    """The ports in it are those that the page and the file itself name."""
    compose = (PAGE.parents[1] / "examples" / "jaeger" / "compose.yaml").read_text()
    assert '"127.0.0.1:4318:4318"' in compose and '"127.0.0.1:16686:16686"' in compose
    assert "stage demo --otlp http://127.0.0.1:4318" in compose
