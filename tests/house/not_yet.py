"""The debts of the house: how many places of which file still break which check.

The numbers stand in not_yet.json and only ever become smaller. `python -m tests.house.not_yet`
writes them anew after a file was mended or moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.house.language import CHECKS
from tests.house.rules import ROOT, project_names
from tests.house.shape import too_long

FILE = Path(__file__).with_name("not_yet.json")
# Decisions tell what was said at their time; evidence is raw.
NOT_READ = ("docs/decisions/", "docs/evidence/")
ROOMS = ("stage/", "tests/", "docs/", "upstream_stub/", "downstream_stub/")

Check = Callable[[str, str], list[str]]


def _too_long(name: str, text: str) -> list[str]:
    return too_long(text) if name.endswith(".py") else []


ALL: Mapping[str, Check] = {**CHECKS, "long functions": _too_long}


def judged(names: Iterable[str]) -> list[str]:
    """The files that are judged: code and pages of the rooms, and the pages at the root."""
    return [
        name
        for name in names
        if name.endswith((".py", ".md"))
        and (name.startswith(ROOMS) or "/" not in name)
        and not name.startswith(NOT_READ)
    ]


def broken(root: Path, names: Iterable[str], check: Check) -> dict[str, list[str]]:
    """The places of each file that break a check; files that keep it are left out."""
    found = {name: check(name, (root / name).read_text(encoding="utf-8")) for name in judged(names)}
    return {name: places for name, places in found.items() if places}


def allowed() -> dict[str, dict[str, int]]:
    """The numbers of not_yet.json: by check, by file."""
    numbers: dict[str, dict[str, int]] = json.loads(FILE.read_text(encoding="utf-8"))
    return numbers


def main() -> None:
    """Write the numbers of today."""
    names = project_names(ROOT)
    numbers = {
        title: {name: len(places) for name, places in sorted(broken(ROOT, names, check).items())}
        for title, check in ALL.items()
    }
    FILE.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    for title, files in numbers.items():
        print(f"{title}: {sum(files.values())} places in {len(files)} files")


if __name__ == "__main__":
    main()
