"""The mutation score of the rooms that decide: `make mutation` (figures F4 and F28).

    python -m tests.mutation [--sample N] [--seed S] [--processes P] [--only FILE ...] [--survivors]

First each test says which lines it runs; that is kept, and brought up to date after an edit. Then a
sample of the changes that the rooms offer is judged: each is made in memory, and the tests that
meet its lines are run until one fails, the likeliest first. The score is the share of changes that
were noticed. docs/evidence/mutation.json has every change that was not, with its line: it is the
place of a test that is missing, or of code that does nothing.

Each verdict is kept in a progress file as well. A run that was cut off goes on where it stopped;
one behind an edit judges all anew, and asks the tests first that noticed a change before.
`--survivors` judges only the changes that were not noticed last time.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.mutation.choice import Batch, batches
from tests.mutation.judge import BROKEN, NO_CHANGE, Judgement, Verdict, judge, warm
from tests.mutation.known import up_to_date
from tests.mutation.lines import ROOMS, ROOT, TestLines
from tests.mutation.operators import Change, changes_of
from tests.mutation.progress import Judged, Progress, tree
from tests.simulation.level_l import commit, machine, write

GOAL = 0.9
CONTROL_FILES = 2
CONTROLS = {NO_CHANGE: Verdict.SURVIVED, BROKEN: Verdict.BROKE}
"""The controls, judged for so many files before all changes."""
FILE = "mutation.json"
KEPT = ROOT / ".mutation"
"""The files that a run leaves for the next one."""


def offered(only: Sequence[str]) -> list[tuple[str, Change]]:
    """All changes of the rooms, or of these files and folders."""
    files = [each for given in only or ROOMS for each in _files(given)]
    return [
        (file, change)
        for file in files
        for change in changes_of((ROOT / file).read_text(encoding="utf-8"))
    ]


def _files(given: str) -> list[str]:
    """That file, or the modules of that folder."""
    path = (ROOT / given).resolve()
    found = sorted(path.glob("*.py")) if path.is_dir() else [path]
    return [str(each.relative_to(ROOT)) for each in found]


def judged(
    sample: Sequence[tuple[str, Change]],
    known: Sequence[TestLines],
    progress: Progress,
    processes: int,
) -> Iterator[Judged]:
    """Each change of the sample as it is judged; `processes` of them at a time."""
    now = tree()
    left = []
    for file, change in sample:
        if (before := progress.verdict(file, change)) is not None:
            yield before
        else:
            left.append((file, change))
    # A process that forks has to be one without threads, and without a room of ours.
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=warm) as pool:
        _control(pool, left, known)
        asked: dict[Future[Judgement], tuple[str, Change, list[Batch]]] = {}
        while left or asked:
            while left and len(asked) < processes:
                file, change = left.pop(0)
                tests = batches(known, file, change, progress.hints(file, change))
                future = pool.submit(judge, ROOT, file, change.number, tests)
                asked[future] = (file, change, tests)
            for future in wait(asked, return_when=FIRST_COMPLETED).done:
                file, change, tests = asked.pop(future)
                found = Judged(
                    file=file,
                    change=change,
                    verdict=future.result().verdict,
                    tests=sum(len(batch.tests) for batch in tests),
                    by=future.result().by,
                    tree=now,
                )
                progress.add(found)
                yield found


def _control(
    pool: ProcessPoolExecutor, sample: Sequence[tuple[str, Change]], known: Sequence[TestLines]
) -> None:
    """Judge controls: where they are not judged as they must be, the kit is at fault."""
    first = dict(reversed(sample))
    for file in sorted(first)[:CONTROL_FILES]:
        tests = batches(known, file, first[file])[:1]
        for control, wanted in CONTROLS.items():
            found = pool.submit(judge, ROOT, file, control, tests).result()
            if tests and found.verdict is not wanted:
                text = f"{file}, control {control}: {found.verdict.value} {found.by}"
                raise SystemExit(f"{text}: mend that first")


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
    asked = _parser().parse_args(given)
    _compile_once()
    known = up_to_date(asked.lines, asked.processes)
    progress = Progress(asked.progress, tree())
    offers = offered(asked.only)
    sample = offers
    if 0 < asked.sample < len(offers):
        sample = random.Random(asked.seed).sample(offers, asked.sample)
    if asked.survivors:
        sample = [(file, change) for file, change in sample if progress.survived(file, change)]
    began, found = time.monotonic(), []
    for each in judged(sample, known, progress, asked.processes):
        found.append(each)
        if each.verdict is Verdict.SURVIVED:
            _print(each)
    if not asked.only and not asked.survivors:
        write(FILE, report(found, len(offers), asked.seed))
    score = _score(found)
    minutes = (time.monotonic() - began) / 60
    print(
        f"mutation: {score or 0:.3f} of {len(found)} changes noticed (of {len(offers)} offered,"
        f" seed {asked.seed}); {minutes:.0f} min",
        flush=True,
    )
    return int(score is None or score < GOAL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=600, help="changes to judge; 0: all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--lines", type=Path, default=KEPT / "lines.json", help="where the lines are kept"
    )
    parser.add_argument(
        "--progress", type=Path, default=KEPT / "progress.jsonl", help="where verdicts are kept"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="FILE", help="files or folders")
    parser.add_argument(
        "--survivors", action="store_true", help="only changes that were not noticed last time"
    )
    return parser


def _print(each: Judged) -> None:
    change = each.change
    print(
        f"survived ({each.tests} tests): {each.file}:{change.line} #{change.number}"
        f" {change.operator}: {change.before[:100]}",
        flush=True,
    )


def _compile_once() -> None:
    """Keep compiled code beside the other files where none may lie beside ours.

    Each process of a change would compile the product, the tests and all libraries.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(KEPT / "compiled")
        sys.dont_write_bytecode = False


if __name__ == "__main__":
    sys.exit(main())
