"""The files that the house judges for language and length, and the places that break a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

# Decisions tell what was said at their time; evidence is raw.
NOT_READ = ("docs/decisions/", "docs/evidence/")
ROOMS = (
    *("stage/", "tests/", "docs/", "upstream_stub/", "downstream_stub/"),
    *("benchmarks/", "deploy/", "examples/"),
)

Check = Callable[[str, str], list[str]]
"""From the name and the text of a file to the places that break the check, each with its line."""


def judged(names: Iterable[str]) -> list[str]:
    """The files that are judged: code, SQL and pages of the rooms, and the pages at the root.

    A migration is not among them: it is recorded with its digest, and never edited.
    """
    return [
        name
        for name in names
        if (name.endswith((".py", ".md")) or ("/sql/" in name and name.endswith(".sql")))
        and (name.startswith(ROOMS) or "/" not in name)
        and not name.startswith(NOT_READ)
    ]


def broken(root: Path, names: Iterable[str], check: Check) -> dict[str, list[str]]:
    """The places of each file that break a check; files that keep it are left out."""
    found = {name: check(name, (root / name).read_text(encoding="utf-8")) for name in judged(names)}
    return {name: places for name, places in found.items() if places}
