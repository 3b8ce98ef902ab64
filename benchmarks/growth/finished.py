"""P6: throughput with a million finished sagas in the database, against an empty one.

Three stages in turns, one alive at a time: an empty database; the full one; and the full one
where all of it may be closed at once (compensation window 0), so that the janitor works while
sagas come in.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.contestants import STAGE, Contestant, Place, running
from benchmarks.figures import Figure
from benchmarks.growth.filling import fill
from benchmarks.growth.found import Found
from benchmarks.growth.real import completed
from benchmarks.load import offer
from benchmarks.throughput import WIDE

WARM_UP_SECONDS = 2.0
DAY = 86_400.0
OVER_SECONDS = 6 * DAY
"""Younger than the compensation window of 7 days: nothing of it may be closed yet."""
EMPTY, FULL, CLOSING = "empty", "full", "full, all of it closable"
TIDYING = Contestant(
    name="stage-closing",
    title="stage, compensation window 0",
    command=lambda place, port: [
        *STAGE.command(place, port), "--compensation-window-seconds", "0",
    ],
    environment=STAGE.environment,
)  # fmt: skip
RUNS = ((EMPTY, STAGE), (FULL, STAGE), (CLOSING, TIDYING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One of the three under load once. Times in seconds; `closed` counts sagas of the janitor."""

    database: str
    round: int
    rate: float
    p50: float
    p99: float
    closed: int
    took: float


def measure(
    wrk: str, neighbours: str, folder: Path, *, sagas: int, rounds: int, seconds: float
) -> Found:
    """Fill, then measure in turns. Raises RuntimeError when a saga is answered wrongly."""
    places = {
        EMPTY: Place(folder=folder / "empty", neighbours=neighbours),
        FULL: Place(folder=folder / "full", neighbours=neighbours),
        CLOSING: Place(folder=folder / "closing", neighbours=neighbours),
    }
    template = completed(places[FULL])
    took = fill(places[FULL].folder / "stage.db", template, sagas, over_seconds=OVER_SECONDS)
    size = (places[FULL].folder / "stage.db").stat().st_size
    print(f"{sagas} finished sagas in {took:.0f} s, {size / 1e9:.1f} GB", flush=True)
    shutil.copytree(places[FULL].folder, places[CLOSING].folder)
    found: list[Round] = []
    for number in range(rounds):
        for name, contestant in RUNS:
            each = _round(wrk, name, contestant, places[name], number, seconds)
            found.append(each)
            print(_line(each), flush=True)
    full, closing = ratio(found, FULL), ratio(found, CLOSING)
    return Found(
        figures=[
            Figure(name="P6", says=f"throughput with {sagas:,} finished sagas, against none",
                   value=full, goal=0.95),
            Figure(name="P6", says="the same while all of them are being closed",
                   value=closing, goal=0.95),
        ],
        notes=[_closed(found)],
        raw={
            "sagas": sagas,
            "fill_seconds": took,
            "bytes": size,
            "connections": WIDE,
            "rounds": [asdict(each) for each in found],
        },
    )  # fmt: skip


def ratio(rounds: Sequence[Round], database: str) -> float:
    """The median rate with that database against the median rate with the empty one."""

    def rate(name: str) -> float:
        return median(each.rate for each in rounds if each.database == name)

    return rate(database) / rate(EMPTY)


def _round(
    wrk: str, name: str, contestant: Contestant, place: Place, number: int, seconds: float
) -> Round:
    before = _count_closed(place)
    with running(contestant, place) as service:
        for stretch, wide in ((WARM_UP_SECONDS, 8), (seconds, WIDE)):
            run = f"{contestant.name}-{number}-{wide}"
            seen = offer(wrk, service.url, connections=wide, seconds=stretch, run=run)
            if seen.status_errors or seen.socket_errors or not seen.requests:
                raise RuntimeError(f"with the database {name}: answered wrongly: {seen}")
    return Round(
        database=name,
        round=number,
        rate=seen.rate,
        p50=seen.p50,
        p99=seen.p99,
        closed=_count_closed(place) - before,
        took=WARM_UP_SECONDS + seconds,
    )


def _count_closed(place: Place) -> int:
    file = place.folder / "stage.db"
    if not file.exists():
        return 0
    with closing(sqlite3.connect(file)) as database:
        # The ended sagas that are not in the index of what may be closed.
        (ended,) = database.execute(
            "SELECT count(*) FROM saga WHERE state IN ('completed', 'compensated')"
        ).fetchone()
        (closable,) = database.execute(
            "SELECT count(*) FROM saga INDEXED BY saga_closable WHERE closed_at IS NULL"
            " AND due_at IS NULL AND parked = '' AND state IN ('completed', 'compensated')"
        ).fetchone()
    return int(ended) - int(closable)


def _closed(rounds: Sequence[Round]) -> str:
    mine = [each for each in rounds if each.database == CLOSING]
    closed, took = sum(each.closed for each in mine), sum(each.took for each in mine)
    return f"meanwhile {closed} sagas were closed in {took:.0f} s: {closed / took:.0f}/s"


def _line(each: Round) -> str:
    return (
        f"round {each.round}  {each.database:26} {each.rate:7.0f}/s"
        f"  p50 {each.p50 * 1e3:7.2f} ms  p99 {each.p99 * 1e3:7.1f} ms  closed {each.closed}"
    )
