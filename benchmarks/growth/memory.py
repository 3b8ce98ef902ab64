"""P11: memory with 1,000 sagas in flight, and how it grows over 100,000 sagas."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmarks.contestants import STAGE, Contestant, Place, Running, running, stage_command
from benchmarks.figures import Figure
from benchmarks.growth.client import all_at_once
from benchmarks.growth.found import Found
from benchmarks.growth.real import slow_external
from benchmarks.growth.start import until_ready
from benchmarks.load import offer
from benchmarks.processes import resident_bytes
from benchmarks.throughput import WIDE

IN_FLIGHT = 1_000
ANSWER_SECONDS = 2.0
"""How long the external API takes. The stage has 100 calls under way to one peer at most, so that
the last of 1,000 sagas is answered after 20 s, before its caller is told 202."""
OPEN_SECONDS_MAX = 30.0
LASTING = 100_000
SETTLED_SHARE = 0.2
"""From here on caches are full and memory must stay: 20,000 of 100,000 sagas."""
MEGABYTE = 1e6
CHUNK_SECONDS = 2.0


def measure_in_flight(neighbours: str, folder: Path, *, sagas: int = IN_FLIGHT) -> Found:
    """Resident memory of an idle stage, and with so many sagas waiting for a slow external API.

    Raises RuntimeError when one of them is answered other than 200 or 202.
    """
    with slow_external(seconds=ANSWER_SECONDS) as slow:
        deferrable = Contestant(
            name="stage-patient",
            title="stage, with an external API that takes its time",
            command=lambda place, port: stage_command(
                place, port, "--log-level", "warning",
                target="benchmarks.services.patient:patient", external=slow,
            ),
            environment=STAGE.environment,
        )  # fmt: skip
        place = Place(folder=folder / "in-flight", neighbours=neighbours)
        with running(deferrable, place) as service:
            until_ready(service)
            idle = resident_bytes(service.pid)
            high, statuses = asyncio.run(_peak(service, sagas))
            after = resident_bytes(service.pid)
    answers = dict(Counter(statuses))
    if not answers.keys() <= {200, 202}:
        raise RuntimeError(f"the {sagas} sagas were answered {answers}")
    return Found(
        figures=[
            Figure(name="P11", says=f"memory with {sagas:,} sagas in flight, MB above idle",
                   value=(high - idle) / MEGABYTE, goal=150.0, at_most=True),
        ],
        raw={
            "sagas": sagas,
            "idle": idle,
            "in_flight": high,
            "after": after,
            "answers": answers,
        },
    )  # fmt: skip


async def _peak(service: Running, sagas: int) -> tuple[int, list[int]]:
    """The most memory seen once all were open at the same time, and how they were answered."""
    offered = asyncio.create_task(all_at_once(service.url, sagas, random.Random(0)))
    async with aiohttp.ClientSession() as session, asyncio.timeout(OPEN_SECONDS_MAX):
        while await _live(session, service.url) < sagas:
            await asyncio.sleep(0.05)
    high = resident_bytes(service.pid)
    while not offered.done():
        await asyncio.sleep(0.05)
        high = max(high, resident_bytes(service.pid))
    return high, offered.result()


async def _live(session: aiohttp.ClientSession, url: str) -> int:
    """How many sagas the stage has in memory, by its own metrics."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    return next(
        int(float(line.split()[1])) for line in text.splitlines() if line.startswith("stage_runs")
    )


def measure_slope(wrk: str, neighbours: str, folder: Path, *, sagas: int = LASTING) -> Found:
    """Resident memory while so many sagas go through, at 32 connections."""
    points: list[tuple[int, int]] = []
    done = 0
    with running(STAGE, Place(folder=folder / "slope", neighbours=neighbours)) as service:
        until_ready(service)
        while done < sagas:
            seen = offer(
                wrk, service.url, connections=WIDE, seconds=CHUNK_SECONDS, run=f"s{len(points)}"
            )
            if seen.status_errors or seen.socket_errors or not seen.requests:
                raise RuntimeError(f"answered wrongly: {seen}")
            done += seen.requests
            points.append((done, resident_bytes(service.pid)))
    settled = [point for point in points if point[0] >= SETTLED_SHARE * sagas]
    grown = slope(settled) * (1 - SETTLED_SHARE) * sagas / MEGABYTE
    ends = (settled[0], settled[-1])
    says = f"memory gained between {SETTLED_SHARE * sagas:,.0f} and {sagas:,} sagas, MB"
    return Found(
        figures=[Figure(name="P11", says=says, value=grown, goal=2.0, at_most=True)],
        notes=[" and ".join(f"{size / MEGABYTE:.1f} MB after {count:,}" for count, size in ends)],
        raw={"sagas": sagas, "points": points},
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line of least squares through the points."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    square = sum((x - middle_x) ** 2 for x, _ in points)
    if not square:
        raise ValueError("a slope needs points at two places")
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / square
