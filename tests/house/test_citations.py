"""A number that is cited can be looked up: rules, invariants, protocol, decisions, figures."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house.citations import cited, numbers_defined, unresolved

MARKS = ("kept", "kept in part", "not kept yet")
# Raw results and hashes quote no rule; binary files are not read.
NOT_READ = ("docs/evidence/", "requirements/", "docs/pictures/")


def test_every_cited_number_is_defined(root: Path, project_files: list[Path]) -> None:
    """Each citation in each text file of the project resolves to a page of docs/."""
    defined = numbers_defined(root)
    names = {file: str(file.relative_to(root)) for file in project_files}
    wrong = [
        f"{name}:{line}"
        for file, name in names.items()
        if not name.startswith(NOT_READ)
        for line in unresolved(file.read_text(encoding="utf-8", errors="replace"), defined)
    ]

    assert [] == wrong


def test_the_pages_number_without_gaps(root: Path) -> None:
    """Rules 1 to 38 and I1 to I17, each exactly once; protocol sections 3.1 and on, in order."""
    defined = numbers_defined(root)

    assert [str(number) for number in range(1, 39)] == sorted(defined["rule"], key=int)
    assert [f"I{number}" for number in range(1, 18)] == defined["invariant"]
    sections = defined["protocol"]
    assert len(sections) >= 5
    assert [f"3.{number}" for number in range(1, len(sections) + 1)] == sections


@pytest.mark.parametrize(
    "template",
    [
        "as rule {} says",
        "(rules 1 and {})",
        "rules 1 to {}",
        "# so says rule\n# {}",
        "protocol 3.{}",
        "the table of section 3.{}",
        "a replay runs nothing (3.{}, rule 4)",
        "decision 98{}",
        "(I{})",
        "P{} is missed",
        "F{}: real kills",
        "as G{} promises",
    ],
)
def test_a_number_that_is_nowhere_is_seen(root: Path, template: str) -> None:
    """A citation of number 99 is found, with its line, however it is written."""
    wrong = unresolved("fine\n" + template.format(99), numbers_defined(root))

    assert 1 == len(wrong)
    assert wrong[0].startswith("2: ")


@pytest.mark.parametrize(
    "text", ["RFC 9562, section 5.7", "the p99 of it", '{"protocol": 1}', "protocol 1", "3.9 ms"]
)
def test_a_text_that_only_looks_like_a_citation_is_let_through(text: str) -> None:
    """Sections of an RFC, percentiles, versions and measurements are no citations."""
    assert [] == list(cited(text))


def rule_rows(root: Path) -> dict[int, tuple[str, str]]:
    """Mark and witnesses of each rule, as docs/rules.md has them."""
    page = (root / "docs" / "rules.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .+ \| ([^|]+) \| ([^|]+) \|$", page, flags=re.MULTILINE)
    return {int(number): (mark, witnesses) for number, mark, witnesses in rows}


def test_a_rule_that_is_kept_names_its_test(root: Path) -> None:
    """Each rule has a mark; kept ones name a test that fails, those in part say what is missing."""
    rows = rule_rows(root)

    assert set(range(1, 39)) == set(rows)
    assert [] == [number for number, (mark, _) in rows.items() if not mark.startswith(MARKS)]
    assert [] == [
        number
        for number, (mark, witnesses) in rows.items()
        if mark.startswith("kept") and "::test_" not in witnesses
    ]
    assert [] == [
        number
        for number, (mark, _) in rows.items()
        if mark.startswith("kept in part") and ": " not in mark
    ]


def test_a_check_of_an_invariant_is_a_function(root: Path) -> None:
    """Each `file`: `function` of docs/invariants.md is defined there and names its invariant."""
    page = (root / "docs" / "invariants.md").read_text(encoding="utf-8")
    wrong = []
    for number, row in re.findall(r"^\| (I\d+) \|(.+)\|$", page, flags=re.MULTILINE):
        for file, functions in re.findall(r"`([\w/]+\.py)`: (`\w+`(?:, `\w+`)*)", row):
            source = (root / file).read_text(encoding="utf-8")
            lines = source.splitlines()
            violating = {
                node.name
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and f'"{number}"' in "\n".join(lines[node.lineno - 1 : node.end_lineno])
            }
            missing = set(re.findall(r"\w+", functions)) - violating
            wrong += [f"{number}: {file}: {function}" for function in sorted(missing)]

    assert [] == wrong
