"""Tells every story to every caller, and writes the table.

    python -m tests.acceptance.orchestrators --out docs/evidence/orchestrators.json
    python -m tests.acceptance.orchestrators --rounds 4 --out docs/evidence/driven-kills.json

With `--rounds` it kills instead of telling: each round runs so many sagas anew under Temporal, with
the number of the round as its seed, and the file is written behind each.

Exit status 1 when a story or a saga ends otherwise than it should.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.acceptance.kills.__main__ import commit, machine
from tests.acceptance.orchestrators import killing
from tests.acceptance.orchestrators.callers import CALLERS, Caller, NotThere
from tests.acceptance.orchestrators.stories import STORIES


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


async def run() -> dict[str, Any]:
    """All callers, one after the other."""
    found: dict[str, Any] = {}
    for name, make in CALLERS.items():
        with tempfile.TemporaryDirectory(prefix="stage-callers-") as folder:
            caller = make(Path(folder))
            try:
                await caller.start()
                found[name] = {"stories": await tell(caller)}
            finally:
                await caller.stop()
    return found


async def strike(given: argparse.Namespace) -> AsyncIterator[dict[str, Any]]:
    """Each round and what its sagas came to, as they end.

    Most of a round is waiting: for a process that starts, or a worker that is missed. So some run
    at once, each with a server, stages and books of its own.
    """
    places = asyncio.Semaphore(given.together)

    async def one(seed: int, name: str) -> dict[str, Any]:
        async with places:
            with tempfile.TemporaryDirectory(prefix="stage-killed-") as folder:
                began = time.perf_counter()
                sagas, kills = given.sagas, given.kills
                found = await killing.run(name, Path(folder), sagas=sagas, kills=kills, seed=seed)
                took = round(time.perf_counter() - began)
                return {"caller": name, "seed": seed, **asdict(found), "seconds": took}

    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(one(seed, name))
            for seed in range(1, given.rounds + 1)
            for name in killing.KILLED
        ]
        for each in asyncio.as_completed(running):
            yield await each


async def strikes(options: argparse.Namespace, about: dict[str, Any]) -> int:
    """Print and write each round; the exit status."""
    rounds: list[dict[str, Any]] = []
    began = time.perf_counter()
    async for found in strike(options):
        rounds.append(found)
        print(found, flush=True)
        if options.out is not None:
            took = {"seconds": round(time.perf_counter() - began), "together": options.together}
            report = {**about, **took, "totals": totals(rounds), "rounds": rounds}
            options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any(each["wrong"] for each in rounds) else 0


def totals(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Sagas, kills, and sagas that ended wrongly, by caller."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for each in rounds:
        total = found[each["caller"]]
        total["sagas"] += sum(each["outcomes"].values())
        total["kills"] += sum(each["killed"].values())
        total["wrong"] += len(each["wrong"])
    return {caller: dict(total) for caller, total in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.orchestrators")
    parser.add_argument("--out", type=Path, help="file for the result, as JSON")
    parser.add_argument("--rounds", type=int, default=0, help="kill, and in so many rounds")
    parser.add_argument("--sagas", type=int, default=250, help="in each round, under each caller")
    parser.add_argument("--kills", type=int, default=25, help="in each round, under each caller")
    parser.add_argument("--together", type=int, default=4, help="rounds and callers at once")
    options = parser.parse_args(arguments)
    about = {"figure": "F29", **commit(), "machine": machine()}
    if options.rounds:
        return asyncio.run(strikes(options, about))
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
    return rows


if __name__ == "__main__":
    sys.exit(main())
