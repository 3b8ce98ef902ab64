"""The verdicts so far, a line each: a run that was cut off goes on where it stopped.

A verdict holds as long as neither the product nor a test is edited. After an edit it is a hint: the
test that noticed the change is asked first, and mostly notices it again within a second.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.mutation.judge import Verdict
from tests.mutation.known import digest_of
from tests.mutation.lines import ROOT
from tests.mutation.operators import Change

HINTS_MAX = 4
"""Tests that noticed changes close by, and are asked before others."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One change and how it was judged."""

    file: str
    change: Change
    verdict: Verdict
    tests: int
    """Tests that were to judge it."""
    by: str = ""
    """The test that failed."""
    tree: str = ""
    """The product and its tests as they were."""


def tree() -> str:
    """One text for all that a verdict depends on."""
    return digest_of(
        path
        for folder in ("stage", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".sql")
    )


class Progress:
    """The file of verdicts."""

    def __init__(self, path: Path, tree: str) -> None:
        self._path = path
        self._tree = tree
        self._found = _read(path)
        self._last = {_key(each.file, each.change): each for each in self._found}
        self._by_number = {(each.file, each.change.number): each for each in self._found}

    def verdict(self, file: str, change: Change) -> Judged | None:
        """The verdict on that change, where nothing was edited since."""
        for each in reversed(self._found):
            if each.tree == self._tree and (each.file, each.change) == (file, change):
                return each
        return None

    def survived(self, file: str, change: Change) -> bool:
        """Whether no test noticed it when it was last judged: it, or one that reads the same."""
        return _key(file, change) in {
            _key(each.file, each.change)
            for each in self._by_number.values()
            if each.verdict is Verdict.SURVIVED
        }

    def hints(self, file: str, change: Change) -> list[str]:
        """The test that noticed this change before an edit, and those that noticed others by it."""
        last = self._last.get(_key(file, change))
        first = [last.by] if last is not None else []
        of_file = [each for each in self._found if each.file == file]
        near = sorted(of_file, key=lambda each: abs(each.change.line - change.line))
        names = dict.fromkeys(test for test in (*first, *(each.by for each in near)) if test)
        return list(names)[:HINTS_MAX]

    def add(self, judged: Judged) -> None:
        """Keep a verdict, in the file too."""
        self._found.append(judged)
        self._last[_key(judged.file, judged.change)] = judged
        self._by_number[judged.file, judged.change.number] = judged
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(judged) + b"\n")


def _key(file: str, change: Change) -> tuple[str, str, str]:
    """The properties of a change that an edit elsewhere in the file does not touch."""
    return (file, change.operator, change.before)


def _read(path: Path) -> list[Judged]:
    """The verdicts of the file. A last line that was cut off is taken away."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        path.write_bytes(whole)
    return [msgspec.json.decode(line, type=Judged) for line in whole.splitlines()]
