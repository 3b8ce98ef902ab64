"""The code blocks of the pages, with the page and the line where each stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """One of them. An output or a drawing has no language."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README.md, README.ko.md, the other pages beside them, and docs with the run book."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs" / "runbook").glob("*.md")),
    ]


def blocks(language: str) -> list[Block]:
    """All of one language, page by page."""
    return [each for page in pages() for each in _blocks_of(page) if each.language == language]


def _blocks_of(page: Path) -> Iterator[Block]:
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    for found in _BLOCK.finditer(text):
        yield Block(name, text.count("\n", 0, found.start()) + 2, found[1], found[2])


def spans() -> Iterator[Block]:
    """The code that stands within a line of prose."""
    for page in pages():
        text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
        bare = _BLOCK.sub(lambda found: "\n" * found[0].count("\n"), text)
        for found in _SPAN.finditer(bare):
            yield Block(name, bare.count("\n", 0, found.start()) + 1, "", found[1])
