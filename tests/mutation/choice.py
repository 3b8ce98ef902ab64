"""The tests that judge a change, the likeliest one first.

The tests of the module itself come first, then those of its room, then others; quick ones before
slow ones. A test with many parameters has its turn with one of them, and again when the others had
theirs: a hundred bodies that are refused say less than ten tests of ten rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tests.mutation.lines import ROOT, TestLines
from tests.mutation.operators import Change

OWN_MAX = 1_000
"""Tests of the module of the change: each parameter of them may be the one that says it."""
NEAR_MAX = 80
"""Other tests of its room."""
FAR_MAX = 40
"""Tests of other rooms, and scenarios."""
SECONDS_MAX = 10.0
"""Traced; a test that takes longer judges no change."""
BATCH_SECONDS_MAX = 40.0
"""The same of all that run in one process."""


class Batch(msgspec.Struct, frozen=True):
    """Tests that one process runs, in their order."""

    tests: tuple[str, ...]
    seconds: float
    """The time of all of them together when they were traced."""


def batches(
    known: Sequence[TestLines], file: str, change: Change, noticed: Sequence[str] = ()
) -> list[Batch]:
    """The tests of the change: those that noticed its like, those of the room, and others.

    A batch is run where no test of those before it has failed: few changes need the last one.
    """
    meeting = [each for each in _meeting(known, file, change) if each.seconds <= SECONDS_MAX]
    by_name = {each.test: each for each in meeting}
    room = f"tests/unit/{file.split('/')[1]}/"
    first = [by_name[test] for test in noticed if test in by_name]
    rest = [each for each in meeting if each not in first]
    own = [each for each in rest if each.test.startswith(f"{room}test_{Path(file).stem}.py::")]
    near = [each for each in rest if each.test.startswith(room) and each not in own]
    far = [each for each in rest if not each.test.startswith(room)]

    def likely(each: TestLines) -> tuple[bool, float]:
        return (not _names(each.test, file), each.seconds)

    chosen = (
        first,
        _in_turns(own, likely, _function)[:OWN_MAX],
        _in_turns(near, likely, _function)[:NEAR_MAX],
        _in_turns(far, likely, _file)[:FAR_MAX],
    )
    return [batch for batch in map(_batch, chosen) if batch.tests]


def _batch(tests: Sequence[TestLines]) -> Batch:
    """The first of them, as many as there is time for."""
    taken: list[str] = []
    seconds = 0.0
    for each in tests:
        if seconds + each.seconds <= BATCH_SECONDS_MAX:
            taken.append(each.test)
            seconds += each.seconds
    return Batch(tuple(taken), seconds)


def _in_turns(tests: Sequence[TestLines], key: Any, group: Any) -> list[TestLines]:
    """The first of each group, then the second of each, each time in that order."""
    turns: Counter[str] = Counter()
    ranked = []
    for each in sorted(tests, key=key):
        name = group(each.test)
        ranked.append((turns[name], each))
        turns[name] += 1
    return [each for _, each in sorted(ranked, key=lambda one: one[0])]


def _function(test: str) -> str:
    return test.partition("[")[0]


def _file(test: str) -> str:
    return test.partition("::")[0]


def _meeting(known: Sequence[TestLines], file: str, change: Change) -> list[TestLines]:
    """The tests that run a line of the change.

    A line that none of them runs may have run when it was imported, in a class or in a function
    that makes a table: then each test counts that runs a function of the file, or stands in a file
    that imports it.
    """
    of_file = [each for each in known if file in each.lines]
    meet = [each for each in of_file if not set(change.lines).isdisjoint(each.lines[file])]
    return meet or [each for each in known if file in each.lines or _names(each.test, file)]


def _names(test: str, file: str) -> bool:
    """Whether the file of the test imports the module."""
    room, _, name = file.removesuffix(".py").replace("/", ".").rpartition(".")
    text = _text(_file(test))
    return f"from {room}.{name} import" in text or f"from {room} import {name}" in text


@cache
def _text(file: str) -> str:
    path = ROOT / file
    return path.read_text(encoding="utf-8") if path.exists() else ""
