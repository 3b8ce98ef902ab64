"""README.ko.md says what README.md says: the same code blocks, headings in number, and links."""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^```\w*\n.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ ", re.MULTILINE)
ITEM = re.compile(r"^- ", re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+)\)")
EACH_OTHER = {"README.md", "README.ko.md"}


def shape(text: str) -> tuple[list[str], list[str], int, set[str]]:
    """The code blocks, the levels of the headings, the items of lists, and the links."""
    bare = BLOCK.sub("", text)
    links = set(LINK.findall(bare)) - EACH_OTHER
    return BLOCK.findall(text), HEADING.findall(bare), len(ITEM.findall(bare)), links


def test_the_korean_readme_has_what_the_english_one_has(root: Path) -> None:
    """A change of a block, a section, an item or a link of one is a change of both."""
    english, korean = (
        (root / name).read_text(encoding="utf-8") for name in sorted(EACH_OTHER)[::-1]
    )
    assert shape(english) == shape(korean)
    assert EACH_OTHER == {
        link for text in (english, korean) for link in LINK.findall(text) if link in EACH_OTHER
    }


def test_a_changed_block_a_lost_item_and_a_lost_link_are_seen() -> None:
    """The comparison can fail."""
    page = "# A\n\n- [b](c.md)\n\n```\nmake demo\n```\n"
    assert shape(page) == shape(page.replace("# A", "# 가"))
    for changed in (
        page.replace("make demo", "make test"),
        page.replace("- ", ""),
        page.replace("c.md", "d.md"),
        page.replace("# A", "## A"),
    ):
        assert shape(page) != shape(changed)
