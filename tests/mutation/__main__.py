"""The mutation score of the rooms that decide: `make mutation` (figures F4 and F28).

    python -m tests.mutation [--sample N] [--seed S] [--processes P] [--only FILE ...]

First each test says which lines it runs. Then a sample of the changes that the rooms offer is
judged: each is made, and the tests that meet its lines are run until one fails. The score is the
share of changes that were noticed. docs/evidence/mutation.json has every change that was not, with
its line: it is the place of a test that is missing, or of code that does nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tests.mutation.judge import BROKEN, NO_CHANGE, Verdict, judge, warm
from tests.mutation.lines import FOLDER, ROOMS, ROOT, TestLines
from tests.mutation.operators import Change, changes_of
from tests.simulation.level_l import commit, machine, write

SUITES = ("tests/unit", "tests/scenario", "tests/simulation")
ELSEWHERE = ("tests/unit/cli", "tests/unit/benchmarks", "tests/unit/docs", "tests/unit/stubs")
"""Tests that run our code in their own process, and those among them that start others.

The fault kits are left out: they take minutes for one change, and `make mutants` judges them.
"""
TESTS_MAX = 120
"""Tests that judge one change: those of its own room, and others that are quick."""
GOAL = 0.9
CONTROL_FILES = 2
CONTROLS = {NO_CHANGE: Verdict.SURVIVED, BROKEN: Verdict.BROKE}
"""The controls, judged for so many files before all changes."""
FILE = "mutation.json"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One change and how it was judged."""

    file: str
    change: Change
    verdict: Verdict
    tests: int


def offered(only: Sequence[str]) -> list[tuple[str, Change]]:
    """All changes of the rooms, or of these files."""
    files = only or sorted(
        str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).glob("*.py")
    )
    return [
        (file, change)
        for file in files
        for change in changes_of((ROOT / file).read_text(encoding="utf-8"))
    ]


def covering_tests(known: Sequence[TestLines], file: str, change: Change) -> list[str]:
    """The tests that run a line of the change: those of the same room, then the quickest.

    A line of a class or of a module runs when it is imported: then each test of the file counts.
    """
    of_file = [each for each in known if file in each.lines]
    meet = [each for each in of_file if not set(change.lines).isdisjoint(each.lines[file])]
    inside = {line for each in of_file for line in each.lines[file]}
    if not meet and inside.isdisjoint(change.lines):
        meet = of_file if _runs_at_import(file, change) else []
    own = f"tests/unit/{file.split('/')[1]}/"
    order = sorted(meet, key=lambda each: (not each.test.startswith(own), each.seconds))
    return [each.test for each in order[:TESTS_MAX]]


def _runs_at_import(file: str, change: Change) -> bool:
    """Whether the line stands in no function."""
    code = compile((ROOT / file).read_text(encoding="utf-8"), file, "exec")
    return change.line in {line for _, _, line in _lines_at_import(code)}


def _lines_at_import(code: Any) -> Iterator[tuple[int, int, int | None]]:
    """The lines of a module's code and of its classes."""
    yield from code.co_lines()
    for each in code.co_consts:
        if hasattr(each, "co_lines") and "__module__" in each.co_names:  # the body of a class
            yield from _lines_at_import(each)


def lines_of_tests(processes: int) -> list[TestLines]:
    """The lines that each test runs, from one run of all of them."""
    with TemporaryDirectory(prefix="stage-lines-") as kept:
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.mutation.lines"),
            *("-n", str(processes), "--timeout", "600", "-m", "not kit and not execs"),
            *(f"--ignore={folder}" for folder in ELSEWHERE),
            *SUITES,
        ]
        environ = {**os.environ, FOLDER: kept}
        subprocess.run(command, cwd=ROOT, env=environ, check=False)
        found = [
            msgspec.json.decode(path.read_bytes(), type=list[TestLines])
            for path in Path(kept).glob("*.json")
        ]
    return [each for of_worker in found for each in of_worker]


def judged(
    sample: Sequence[tuple[str, Change]], known: Sequence[TestLines], processes: int
) -> Iterator[Judged]:
    """Each change of the sample, judged; `processes` of them at a time."""
    # A process that forks has to be one without threads, and without a room of ours.
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=warm) as pool:
        _control(pool, sample, known)
        asked = [
            (file, change, tests, pool.submit(judge, ROOT, file, change.number, tests))
            for file, change in sample
            for tests in [covering_tests(known, file, change)]
        ]
        for file, change, tests, verdict in asked:
            yield Judged(file=file, change=change, verdict=verdict.result(), tests=len(tests))


def _control(
    pool: ProcessPoolExecutor, sample: Sequence[tuple[str, Change]], known: Sequence[TestLines]
) -> None:
    """Judge controls: where they are not judged as they must be, the kit is at fault."""
    for file in sorted({file for file, _ in sample})[:CONTROL_FILES]:
        found = sorted((each for each in known if file in each.lines), key=lambda one: one.seconds)
        tests = [each.test for each in found[:TESTS_MAX]]
        for control, wanted in CONTROLS.items():
            verdict = pool.submit(judge, ROOT, file, control, tests).result()
            if tests and verdict is not wanted:
                raise SystemExit(f"{file}, control {control}: {verdict.value}: mend that first")


def report(found: Sequence[Judged], offers: int, seed: int) -> dict[str, Any]:
    """The document of a run."""
    verdicts = Counter(each.verdict for each in found)
    survived = [each for each in found if each.verdict is Verdict.SURVIVED]
    rooms = {
        room: _score([each for each in found if str(Path(each.file).parent) == room])
        for room in sorted({str(Path(each.file).parent) for each in found})
    }
    return {
        "what": "F4, F28: changes of the rooms that decide, and whether a test notices each",
        "commit": commit(),
        "machine": machine(),
        "offered": offers,
        "seed": seed,
        "judged": len(found),
        "verdicts": {each.value: verdicts[each] for each in Verdict},
        "score": _score(found),
        "rooms": rooms,
        "survived": [
            {
                "at": f"{each.file}:{each.change.line}",
                "number": each.change.number,
                "operator": each.change.operator,
                "before": each.change.before,
                "tests": each.tests,
            }
            for each in survived
        ],
    }


def _score(found: Sequence[Judged]) -> float | None:
    """The share that was noticed."""
    if not found:
        return None
    noticed = sum(each.verdict is not Verdict.SURVIVED for each in found)
    return round(noticed / len(found), 4)


def main(given: Sequence[str] | None = None) -> int:
    """Judge a sample, and write the file. Exit status 1 below the goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=600, help="changes to judge; 0: all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--lines", type=Path, help="a file to keep the lines of each test in")
    parser.add_argument("--only", nargs="+", default=(), metavar="FILE")
    asked = parser.parse_args(given)
    known = _known(asked.lines, asked.processes)
    offers = offered(asked.only)
    sample = offers
    if 0 < asked.sample < len(offers):
        sample = random.Random(asked.seed).sample(offers, asked.sample)
    began, found = time.monotonic(), []
    for each in judged(sample, known, asked.processes):
        found.append(each)
        if each.verdict is Verdict.SURVIVED:
            change = each.change
            print(
                f"survived ({each.tests} tests): {each.file}:{change.line} #{change.number}"
                f" {change.operator}: {change.before[:100]}",
                flush=True,
            )
    document = report(found, len(offers), asked.seed)
    if not asked.only:
        write(FILE, document)
    minutes = (time.monotonic() - began) / 60
    print(
        f"mutation: {document['score']:.3f} of {len(found)} changes noticed (of {len(offers)}"
        f" offered); {minutes:.0f} min",
        flush=True,
    )
    return int(document["score"] < GOAL)


def _known(kept: Path | None, processes: int) -> list[TestLines]:
    """The lines that each test runs: from that file, where it is there."""
    if kept is not None and kept.exists():
        return msgspec.json.decode(kept.read_bytes(), type=list[TestLines])
    known = lines_of_tests(processes)
    if kept is not None:
        kept.write_bytes(msgspec.json.encode(known))
    return known


if __name__ == "__main__":
    sys.exit(main())
