"""Citations of numbered pages: what the pages define, what a text cites, what does not resolve."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_SPACE = r"[\s#*]+"  # a citation may go on behind a line end, also within a comment
_LIST = rf"\d+(?:(?:,|{_SPACE}(?:and|or|to)){_SPACE}\d+)*"
_SECTION = r"\d+\.\d+"
_CITED = {
    "rule": re.compile(rf"\brules?{_SPACE}({_LIST})\b", re.IGNORECASE),
    "protocol": re.compile(
        rf"\bprotocol{_SPACE}({_SECTION})"
        rf"|(?<!RFC \d\d\d\d, )\bsections?{_SPACE}(3\.\d+)"
        r"|\((3\.\d+)(?=, rule\b)",
        re.IGNORECASE,
    ),
    "decision": re.compile(rf"\bdecisions?{_SPACE}(\d{{4}})\b", re.IGNORECASE),
    "invariant": re.compile(r"\b(I\d{1,2})\b"),
    "figure": re.compile(r"\b([PF][1-9]\d?)\b"),
    "promise": re.compile(r"\b(G\d{1,2})\b"),
}
_DEFINED = {
    "rule": ("docs/rules.md", re.compile(r"^\| (\d+) \|", re.MULTILINE)),
    "protocol": ("docs/neighbour.md", re.compile(rf"^#+ ({_SECTION}) ", re.MULTILINE)),
    "invariant": ("docs/invariants.md", re.compile(r"^\| (I\d+) \|", re.MULTILINE)),
    "figure": ("docs/figures.md", re.compile(r"^\| ([PF]\d+) \|", re.MULTILINE)),
    "promise": ("docs/guarantees.md", re.compile(r"^\| (G\d+) \|", re.MULTILINE)),
}


class Citation(NamedTuple):
    """One number that a text cites; `line` counts from 1."""

    kind: str
    number: str
    line: int


def numbers_defined(root: Path) -> dict[str, list[str]]:
    """The numbers that the pages define, by kind, in the order of the page."""
    found = {
        kind: pattern.findall((root / page).read_text(encoding="utf-8"))
        for kind, (page, pattern) in _DEFINED.items()
    }
    records = sorted((root / "docs" / "decisions").glob("[0-9]*.md"))
    return {**found, "decision": [record.name[:4] for record in records]}


def cited(text: str) -> Iterator[Citation]:
    """Every number that a text cites."""
    for kind, pattern in _CITED.items():
        for match in pattern.finditer(text):
            numbers = next(group for group in match.groups() if group)
            line = text.count("\n", 0, match.start()) + 1
            for number in re.findall(r"[IPFG]?\d+(?:\.\d+)?", numbers):
                yield Citation(kind, number, line)


def unresolved(text: str, defined: Mapping[str, list[str]]) -> list[str]:
    """Citations of a number that no page defines, each as `line: kind number`."""
    return [
        f"{each.line}: {each.kind} {each.number}"
        for each in cited(text)
        if each.number not in defined[each.kind]
    ]
