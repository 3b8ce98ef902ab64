"""The lines of all tests, kept in a file and brought up to date: the choice of tests reads them.

To trace every test takes many minutes. So the file keeps the text of each source as it was, and the
digest of each file of tests. Later only new or changed files of tests are traced; where a source
was edited, the lines of the other tests move with it. A wrong line costs a verdict its best tests,
and never makes one: a test that does not meet a change cannot fail by it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.mutation.lines import FOLDER, ROOMS, ROOT, TestLines

SUITES = ("tests/unit", "tests/scenario", "tests/simulation")
ELSEWHERE = ("tests/unit/cli", "tests/unit/benchmarks", "tests/unit/docs", "tests/unit/stubs")
"""Tests that run our code in their own process, and those among them that start others.

The fault kits are left out: they take minutes for one change, and `make mutants` judges them.
"""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of each test, with the state of the files by which they were noted."""

    sources: dict[str, str]
    """The text of each file of the rooms."""
    suites: dict[str, str]
    """The digest of each file of tests."""
    tests: list[TestLines]


def up_to_date(kept: Path, processes: int) -> list[TestLines]:
    """The lines of all tests as of now, by that file; it is written anew where it was not."""
    sources, suites = _sources(), _suites()
    before = Known(sources={}, suites={}, tests=[])
    if kept.exists():
        before = msgspec.json.decode(kept.read_bytes(), type=Known)
    if (before.sources, before.suites) == (sources, suites):
        return before.tests
    new = sorted(file for file, digest in suites.items() if before.suites.get(file) != digest)
    usable = suites.keys() - set(new)
    tests = [
        TestLines(each.test, each.seconds, moved(each.lines, before.sources, sources))
        for each in before.tests
        if each.test.partition("::")[0] in usable
    ]
    known = Known(sources=sources, suites=suites, tests=[*tests, *_traced(new, processes)])
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(msgspec.json.encode(known))
    return known.tests


def moved(
    lines: dict[str, list[int]], before: dict[str, str], now: dict[str, str]
) -> dict[str, list[int]]:
    """The lines of a test in the sources of now.

    A line that was edited is met by a test that met the line above it or below it.
    """
    found = {}
    for file, met in lines.items():
        if file not in now:
            continue
        if before.get(file) == now[file]:
            found[file] = met
            continue
        wanted = set(met)
        table = _moves(before.get(file, ""), now[file])
        found[file] = [new for new, old in enumerate(table, 1) if not wanted.isdisjoint(old)]
    return {file: met for file, met in found.items() if met}


_TABLES: dict[tuple[str, str], list[tuple[int, ...]]] = {}


def _moves(before: str, now: str) -> list[tuple[int, ...]]:
    """For each line of now: that of before, or the two around a line that is new."""
    known = _TABLES.get((before, now))
    if known is not None:
        return known
    old, new = before.splitlines(), now.splitlines()
    table: list[tuple[int, ...]] = [()] * len(new)
    for tag, first, last, start, end in SequenceMatcher(None, old, new, False).get_opcodes():
        for place in range(start, end):
            same = (first + place - start + 1,)
            around = (first, *range(first + 1, last + 1), last + 1)
            table[place] = same if tag == "equal" else around
    _TABLES[before, now] = table
    return table


def _traced(files: Sequence[str], processes: int) -> list[TestLines]:
    """The lines of each test of these files, from one run of them."""
    if not files:
        return []
    with TemporaryDirectory(prefix="stage-lines-") as kept:
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.mutation.lines"),
            *("-n", str(processes), "--timeout", "600", "-m", "not kit and not execs"),
            *files,
        ]
        environ = {**os.environ, FOLDER: kept}
        subprocess.run(command, cwd=ROOT, env=environ, check=False)
        found = [
            msgspec.json.decode(path.read_bytes(), type=list[TestLines])
            for path in sorted(Path(kept).glob("*.json"))
        ]
    return [each for of_worker in found for each in of_worker]


def _sources() -> dict[str, str]:
    return {
        _name(path): path.read_text(encoding="utf-8")
        for room in ROOMS
        for path in (ROOT / room).glob("*.py")
    }


def _suites() -> dict[str, str]:
    return {
        _name(path): digest_of([path])
        for suite in SUITES
        for path in (ROOT / suite).rglob("test_*.py")
        if not _name(path).startswith(tuple(f"{folder}/" for folder in ELSEWHERE))
    }


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def digest_of(paths: Iterable[Path]) -> str:
    """One text for the contents of these files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{_name(path)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
