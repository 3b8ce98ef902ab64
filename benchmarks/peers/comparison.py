"""Measures the systems in turns, one alive at a time, and compares the medians with the stage's."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.contestants import Place
from benchmarks.figures import Figure
from benchmarks.load import Load, offer
from benchmarks.peers.systems import OURS, Door, System
from benchmarks.processes import tree_cpu_seconds
from benchmarks.throughput import WIDE

FIRST_SECONDS_MAX = 60.0
WARM_UP_SECONDS = 5.0
WARM_UP_CONNECTIONS = 8
ANSWERS_PER_CONNECTION_MIN = 4
"""Fewer, and the rate is that of the beginning."""
LONGER = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One system under load once. Times in seconds."""

    system: str
    connections: int
    round: int
    rate: float
    p50: float
    p99: float
    cpu: float
    """Processor time a saga, of all processes of the system and its servers."""


class AnsweredWrongly(Exception):
    """A system answered something other than 200, or not at all."""


def measure(
    wrk: str,
    neighbours: str,
    tools: Path,
    folder: Path,
    system: System,
    *,
    number: int,
    widths: Sequence[int],
    seconds: float,
) -> Iterator[Sample]:
    """One round of one system, started anew with nothing in its database.

    Raises AnsweredWrongly, and RuntimeError when it does not start.
    """
    place = Place(folder=folder / f"{system.name}-{number}", neighbours=neighbours)
    place.folder.mkdir(parents=True)
    with system.start(tools, place) as door:
        _first(door)
        _offer(wrk, door, WARM_UP_CONNECTIONS, WARM_UP_SECONDS, "warm")
        for width in widths:
            before = _spent(door)
            seen, answered = _long_enough(wrk, door, width, seconds, f"r{number}-{width}")
            yield Sample(
                system=system.name,
                connections=width,
                round=number,
                rate=seen.rate,
                p50=seen.p50,
                p99=seen.p99,
                cpu=(_spent(door) - before) / answered,
            )


def _spent(door: Door) -> float:
    return sum(tree_cpu_seconds(pid) for pid in door.pids)


def _first(door: Door) -> None:
    """Send one saga and wait for its answer: some listen before they can do anything."""
    order = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
    request = urllib.request.Request(  # noqa: S310 - http, on loopback
        door.url + (door.path or "/sagas"),
        data=json.dumps({"saga_id": "first", "data": order}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=FIRST_SECONDS_MAX).close()  # noqa: S310 - that request
    except OSError as error:
        raise AnsweredWrongly(f"the first saga: {error}") from error


def _long_enough(wrk: str, door: Door, width: int, seconds: float, run: str) -> tuple[Load, int]:
    """Load for so long, and anew for longer when that was too short for a slow system.

    The load that counts, and how many sagas were answered in all.
    """
    seen = _offer(wrk, door, width, seconds, run)
    answered = seen.requests
    if seen.requests < ANSWERS_PER_CONNECTION_MIN * width:
        seen = _offer(wrk, door, width, LONGER * seconds, f"{run}-longer")
        answered += seen.requests
    if not seen.requests:
        raise AnsweredWrongly(f"no answer within {LONGER * seconds:.0f} s")
    return seen, answered


def _offer(wrk: str, door: Door, width: int, seconds: float, run: str) -> Load:
    seen = offer(wrk, door.url, connections=width, seconds=seconds, run=run, path=door.path)
    if seen.status_errors or seen.socket_errors:
        raise AnsweredWrongly(f"{seen.status_errors} wrong of {seen.requests}: {seen}")
    return seen


def rates(samples: Sequence[Sample]) -> dict[tuple[str, int], float]:
    """The median rate of every system at every width."""
    keys = dict.fromkeys((each.system, each.connections) for each in samples)
    return {
        key: median(each.rate for each in samples if (each.system, each.connections) == key)
        for key in keys
    }


def figures(samples: Sequence[Sample], systems: Sequence[System]) -> list[Figure]:
    """P5: how many times as many sagas a second the stage does, at 32 connections.

    The median of the rounds, as each system is measured once in a round.
    """
    wide = {(each.round, each.system): each.rate for each in samples if each.connections == WIDE}
    found = []
    for each in systems:
        ratios = [
            rate / wide[number, each.name]
            for (number, system), rate in wide.items()
            if system == OURS.name and (number, each.name) in wide
        ]
        if each.goal is not None and ratios:
            says = f"stage against {each.title}, {WIDE} connections"
            found.append(Figure(name="P5", says=says, value=median(ratios), goal=each.goal))
    return found


def table(samples: Sequence[Sample], systems: Sequence[System], widths: Sequence[int]) -> str:
    """Markdown: sagas a second at each width, latency alone, processor time of all processes."""
    found = rates(samples)
    lone, wide = min(widths), WIDE if WIDE in widths else max(widths)
    head = ["", *(f"{width} conn." for width in widths), f"p50 at {lone}", f"CPU a saga at {wide}"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for each in systems:
        if (each.name, lone) not in found:
            continue
        waits = [one.p50 for one in samples if (one.system, one.connections) == (each.name, lone)]
        spent = [one.cpu for one in samples if (one.system, one.connections) == (each.name, wide)]
        cells = [each.title, *(f"{found[each.name, width]:.0f}/s" for width in widths)]
        cells += [f"{median(waits) * 1e3:.1f} ms", f"{median(spent) * 1e3:.2f} ms"]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def words(systems: Sequence[System]) -> str:
    """The promises of each system, and those that it does not make."""
    return "\n".join(
        f"{each.title}\n  promises: {each.promises}\n  does not: {each.lacks}" for each in systems
    )
