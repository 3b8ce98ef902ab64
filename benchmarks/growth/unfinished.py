"""P8: 10,000 sagas that a crash left unfinished, and new ones come in while they are run.

All of them were cut within their call, so each is in doubt and settled first. New sagas come at a
fixed rate, far below what the stage could do; their latency meanwhile is compared with the same
load on a stage that has nothing to recover.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.contestants import STAGE, Place, running
from benchmarks.figures import Figure
from benchmarks.growth.client import offer_at_rate
from benchmarks.growth.filling import fill
from benchmarks.growth.found import Found
from benchmarks.growth.real import cut
from benchmarks.growth.start import until_ready
from benchmarks.open_loop import Answered, percentile

RATE = 100.0
OVER_SECONDS = 60.0
"""The unfinished sagas were accepted within the minute before the crash."""
WARM_UP_SECONDS = 1.0
DRAIN_SECONDS_MAX = 120.0
UNFINISHED = "SELECT count(*) FROM saga WHERE due_at IS NOT NULL AND accepted_at < ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One start with unfinished sagas, and one without for the same time. Times in seconds."""

    ready: float
    drained: float
    quiet: Sequence[Answered]
    meanwhile: Sequence[Answered]
    states: dict[str, int]


def measure(neighbours: str, folder: Path, *, sagas: int, rounds: int) -> Found:
    """Make the unfinished sagas once, and recover a copy of them in every round."""
    # Long because a measurement is its steps in their order: prepare, measure, write down.
    made = Place(folder=folder / "cut", neighbours=neighbours)
    took = fill(made.folder / "stage.db", cut(made), sagas - 1, over_seconds=OVER_SECONDS)
    print(f"{sagas} unfinished sagas in {took:.0f} s", flush=True)
    found: list[Recovery] = []
    for number in range(rounds):
        each = asyncio.run(_round(neighbours, made, folder, number))
        found.append(each)
        print(_line(number, each), flush=True)
    quiet = [one.latency for each in found for one in each.quiet]
    meanwhile = [one.latency for each in found for one in each.meanwhile]
    p99 = percentile(meanwhile, 99) / percentile(quiet, 99)
    wrong = [one.status for each in found for one in (*each.quiet, *each.meanwhile)
             if one.status != 200]  # fmt: skip
    return Found(
        figures=[
            Figure(name="P8", says=f"ready with {sagas:,} unfinished sagas, seconds",
                   value=median(each.ready for each in found), goal=2.0, at_most=True),
            Figure(name="P8", says="all of them drained, seconds after the start",
                   value=median(each.drained for each in found), goal=60.0, at_most=True),
            Figure(name="P8", says=f"p99 of new sagas meanwhile ({RATE:.0f}/s), against without",
                   value=p99, goal=2.0, at_most=True),
        ],
        notes=[
            f"p99 without recovery: {percentile(quiet, 99) * 1e3:.1f} ms of {len(quiet)}",
            f"p99 during it: {percentile(meanwhile, 99) * 1e3:.1f} ms of {len(meanwhile)}",
            f"answered other than 200: {len(wrong)}",
        ],
        raw={
            "sagas": sagas,
            "rate": RATE,
            "rounds": [
                {
                    "ready": each.ready,
                    "drained": each.drained,
                    "states": each.states,
                    "quiet": _summary(each.quiet),
                    "meanwhile": _summary(each.meanwhile),
                }
                for each in found
            ],
        },
    )  # fmt: skip


async def _round(neighbours: str, made: Place, folder: Path, number: int) -> Recovery:
    place = Place(folder=folder / f"recovery-{number}", neighbours=neighbours)
    shutil.copytree(made.folder, place.folder)
    crashed = time.time()
    dice = random.Random(number)
    began = time.monotonic()
    with running(STAGE, place) as service:
        until_ready(service)
        ready = time.monotonic() - began
        over = asyncio.Event()
        load = asyncio.create_task(offer_at_rate(service.url, rate=RATE, until=over, dice=dice))
        await _until_drained(place.folder / "stage.db", crashed)
        drained = time.monotonic() - began
        over.set()
        meanwhile = await load
    quiet = await _quiet(neighbours, folder / f"quiet-{number}", drained, dice)
    with closing(sqlite3.connect(place.folder / "stage.db")) as database:
        old = "SELECT state, count(*) FROM saga WHERE accepted_at < ? GROUP BY state"
        states = dict(database.execute(old, (crashed,)).fetchall())
    return Recovery(ready=ready, drained=drained, quiet=quiet, meanwhile=meanwhile, states=states)


async def _quiet(
    neighbours: str, folder: Path, seconds: float, dice: random.Random
) -> list[Answered]:
    with running(STAGE, Place(folder=folder, neighbours=neighbours)) as service:
        until_ready(service)
        over = asyncio.Event()
        load = asyncio.create_task(offer_at_rate(service.url, rate=RATE, until=over, dice=dice))
        await asyncio.sleep(seconds)
        over.set()
        return await load


async def _until_drained(file: Path, crashed: float) -> None:
    """Return once none of the old sagas is due. Raises TimeoutError."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            while database.execute(UNFINISHED, (crashed,)).fetchone() != (0,):
                await asyncio.sleep(0.2)


def _summary(answers: Sequence[Answered]) -> dict[str, object]:
    """How many got which status, and the latency at each percentile from 1 to 100."""
    latencies = [one.latency for one in answers]
    return {
        "statuses": Counter(str(one.status) for one in answers),
        "percentiles_ms": [round(percentile(latencies, n) * 1e3, 1) for n in range(1, 101)],
    }


def _line(number: int, each: Recovery) -> str:
    quiet = percentile([one.latency for one in each.quiet], 99)
    meanwhile = percentile([one.latency for one in each.meanwhile], 99)
    return (
        f"round {number}  ready {each.ready:.2f} s  drained {each.drained:.1f} s  p99 of new"
        f" {meanwhile * 1e3:.1f} ms, without {quiet * 1e3:.1f} ms  old sagas now {each.states}"
    )
