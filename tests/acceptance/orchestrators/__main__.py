"""Tells every story to every caller, measures each, and writes the table.

    python -m tests.acceptance.orchestrators --out docs/evidence/orchestrators.json

Exit status 1 when a story ends otherwise than it should.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.kills.__main__ import commit, machine
from tests.acceptance.orchestrators.callers import CALLERS, Caller, NotThere
from tests.acceptance.orchestrators.stories import STORIES

ALONE = 20
AT_ONCE = 30
BUDGET_SECONDS = 300.0
"""No deadline may end a saga that is measured."""


async def tell(caller: Caller) -> dict[str, str]:
    """Each story as `ok`, `-` where the caller has no such process, or what came out."""
    ends: dict[str, str] = {}
    for name, story in STORIES.items():
        saga_id = f"{name}-1"
        try:
            outcome = await story.act(caller, saga_id)
            await caller.parts.until(saga_id, story.books)
            ends[story.title] = "ok" if outcome == story.outcome else outcome
        except NotThere:
            ends[story.title] = "-"
        except TimeoutError:
            ends[story.title] = f"books: {await caller.parts.books(saga_id)}"
    return ends


async def measure(caller: Caller) -> dict[str, float]:
    """The time of one saga alone, and how many a second when many are begun at once."""

    async def one(saga_id: str) -> float:
        began = time.perf_counter()
        assert "executed" == await caller.run(saga_id, BUDGET_SECONDS)
        return time.perf_counter() - began

    alone = [await one(f"alone-{number}") for number in range(ALONE)]
    began = time.perf_counter()
    await asyncio.gather(*(one(f"many-{number}") for number in range(AT_ONCE)))
    took = time.perf_counter() - began
    return {
        "alone_ms_median": round(statistics.median(alone) * 1000, 1),
        "at_once_per_second": round(AT_ONCE / took, 1),
    }


async def run() -> dict[str, Any]:
    """All callers, one after the other."""
    found: dict[str, Any] = {}
    for name, make in CALLERS.items():
        with tempfile.TemporaryDirectory(prefix="stage-callers-") as folder:
            caller = make(Path(folder))
            try:
                await caller.start()
                found[name] = {"measured": await measure(caller), "stories": await tell(caller)}
            finally:
                await caller.stop()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.orchestrators")
    parser.add_argument("--out", type=Path, help="file for the result, as JSON")
    options = parser.parse_args(arguments)
    about = {"figure": "F29", **commit(), "machine": machine()}
    found = asyncio.run(run())
    if options.out is not None:
        options.out.write_text(json.dumps({**about, "callers": found}, indent=2) + "\n")
    for row in table(found):
        print(row)
    ends = {end for each in found.values() for end in each["stories"].values()}
    return 0 if ends <= {"ok", "-"} else 1


def table(found: dict[str, Any]) -> list[str]:
    """The stories as rows of Markdown, one column a caller."""
    rows = [f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for title in next(iter(found.values()))["stories"]:
        ends = [each["stories"][title] for each in found.values()]
        rows.append(f"| {title} | {' | '.join(ends)} |")
    for word in ("alone_ms_median", "at_once_per_second"):
        values = [str(each["measured"][word]) for each in found.values()]
        rows.append(f"| {word} | {' | '.join(values)} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
