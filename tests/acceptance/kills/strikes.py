"""Where each kill struck, read afterwards from the journals and from the proxy's record.

A run that takes a saga over writes `recovered`. The entry before it says where the run before
was lost: `step_started charge` means between the intent and the outcome of the charge. The time
of the takeover says which kill it was.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

INTENTS = frozenset(
    {"step_started", "request_prepared", "compensation_started", "probe_started", "tell_started"}
)
"""Entries that announce something which has left the process, or was about to."""
RECOVERED = """
WITH fault AS (
    SELECT name, at, lag(name) OVER saga AS before, lag(event) OVER saga AS event
    FROM journal WINDOW saga AS (PARTITION BY saga_id ORDER BY number)
)
SELECT at, before, json_extract(event, '$.step') FROM fault WHERE name = 'recovered'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One SIGKILL."""

    number: int
    process: str
    at: float
    starting: bool
    """It struck while the process was starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strikes:
    """The hits of the kills. Kills count once, sagas as often as they were hit."""

    kills: dict[str, int]
    """Kills by process."""
    starting: int
    striking: dict[str, int]
    """Kills, by process, that hit at least one saga between an intent and its outcome."""
    places: dict[str, int]
    """Sagas by the place where they were hit, such as `payment: step_started charge`."""
    carried: int
    """Kills that took at least one request with them which the network had just delivered."""


def strikes(folder: Path, stages: Iterable[str], kills: Sequence[Kill]) -> Strikes:
    """Read what the kills hit."""
    places: Counter[str] = Counter()
    struck: set[int] = set()
    for stage in stages:
        mine = [kill for kill in kills if kill.process == stage]
        times = [kill.at for kill in mine]
        with sqlite3.connect(folder / f"{stage}.db") as books:
            for at, before, step in books.execute(RECOVERED):
                if before not in INTENTS:
                    continue
                places[f"{stage}: {before} {step or ''}".strip()] += 1
                if (index := bisect_right(times, at)) > 0:
                    struck.add(mine[index - 1].number)
        books.close()
    return Strikes(
        kills=dict(Counter(kill.process for kill in kills)),
        starting=sum(kill.starting for kill in kills),
        striking=dict(Counter(kill.process for kill in kills if kill.number in struck)),
        places=dict(sorted(places.items())),
        carried=_carried(folder / "faults.jsonl", kills),
    )


def faults(record: Path) -> dict[str, int]:
    """The faults of the proxy, by kind."""
    with record.open() as lines:
        return dict(Counter(json.loads(line)["what"] for line in lines))


def _carried(record: Path, kills: Sequence[Kill]) -> int:
    """Kills with a request in the hands of their process, as the proxy saw it."""
    times = sorted((kill.at, kill.number, kill.process) for kill in kills)
    struck: set[int] = set()
    with record.open() as lines:
        for line in lines:
            fault = json.loads(line)
            if fault["what"] != "target_went_away":
                continue
            target = fault["link"].partition("-")[2]
            before = [
                number
                for at, number, process in times[: bisect_right(times, (fault["at"] + 0.05,))][-20:]
                if process == target and fault["at"] - at < 1.0
            ]
            struck.update(before[-1:])
    return len(struck)
