"""F13: five times what a stage can do is offered; it goes on doing what it can, and undoes at once.

The load is closed: so many connections that each asks again as soon as it is answered, and starts
that are shed are answered at a bounded rate.

A rate counts the seconds in which the stage could have run. The load itself takes a processor, more
of it the more it offers, and so do other processes; the time in which the event loop was ready to
run and got no processor, as the kernel counts it, is left out.

Machines have better and worse minutes. So the load comes in spells, each between two peaks. The
median of the spells counts, each as a part of its own two peaks.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from stage.demo.chain import LOOPBACK, free_ports
from tests.kits import Strikes
from tests.sizes import SIZES, TIER

SPELLS = 5 if TIER == "prove" else 1
PEAK_CONNECTIONS = 100
"""More of them do no more. With 32 the stage waits for its load."""
PEAK_SECONDS = 3.0 if TIER == "prove" else 2.0
LEARNING_SECONDS = 5.0
"""After that the stage knows how much it can do."""
FORGETTING_SECONDS = 3.0
"""After that the stage has forgotten the limit that it set itself."""
TIMES = 5.0
HELD_SECONDS = 0.75
"""How long a start that is shed waits for its answer, in the middle."""
CONNECTIONS_MAX = 3_500
GOODPUT_MIN = 0.9 if TIER == "prove" else 0.1
"""A part of the peak. The small helping runs beside other tests."""
UNDO_SECONDS_MAX = 1.0 if TIER == "prove" else 6.0
UNDO_PAUSE_SECONDS = 0.05


class Rate(NamedTuple):
    """Sagas that were executed in some seconds, and those in which the stage had no processor."""

    executed: int
    seconds: float
    kept_seconds: float

    @property
    def a_second(self) -> float:
        """Sagas a second in which the stage could run."""
        return self.executed / (self.seconds - self.kept_seconds)

    def __str__(self) -> str:
        """As a report says it."""
        kept = self.kept_seconds / self.seconds
        return f"{self.a_second:.0f}/s ({self.executed / self.seconds:.0f}/s, {kept:.0%} kept)"


class Load:
    """Connections that send starts, and one that compensates what has ended."""

    def __init__(self, port: int, prefix: str) -> None:
        self._port = port
        self._prefix = prefix
        self._number = 0
        self.done: list[str] = []
        self.codes: Counter[int] = Counter()
        self.wrong: list[bytes] = []
        self.undone: list[float] = []
        """How long each compensation took."""
        self.over = False

    async def start(self) -> None:
        """One connection, until it is over."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        while not self.over:
            self._number += 1
            saga_id = f"{self._prefix}-{self._number}"
            body = b'{"saga_id":"%s","data":{"amount":1}}' % saga_id.encode()
            head = await exchange(reader, writer, b"/sagas", body, saga_id.encode())
            code = int(head[9:12])
            self.codes[code] += 1
            if code == 200:
                self.done.append(saga_id)
            elif code not in (429, 503) or b"\r\nRetry-After: " not in head:
                self.wrong.append(head)
        writer.close()

    async def compensate(self) -> None:
        """One after the other, each of a saga that was executed."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        taken = 0
        while not self.over:
            await asyncio.sleep(UNDO_PAUSE_SECONDS)
            if taken == len(self.done):
                continue
            saga_id = self.done[taken].encode()
            taken = len(self.done)
            began = time.monotonic()
            path = b"/sagas/%s/compensate" % saga_id
            head = await exchange(reader, writer, path, b'{"requested_by":"order"}', b"")
            self.undone.append(time.monotonic() - began)
            if not head.startswith(b"HTTP/1.1 200"):
                self.wrong.append(head)
        writer.close()

    async def run(self, connections: int, seconds: float) -> None:
        """So many connections for so long. It waits for the answers that are held back then."""
        self.over = False
        tasks = [asyncio.create_task(self.start()) for _ in range(connections)]
        tasks.append(asyncio.create_task(self.compensate()))
        await asyncio.sleep(seconds)
        self.over = True
        _, late = await asyncio.wait(tasks, timeout=15.0)
        assert not late, f"{len(late)} connections got no answer"
        for task in tasks:
            task.result()

    async def rate(self, seconds: float, pid: int) -> Rate:
        """Sagas a second that were executed, over that time from now on."""
        before, waited, began = self.codes[200], waited_seconds(pid), time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        kept = waited_seconds(pid) - waited
        return Rate(executed=self.codes[200] - before, seconds=passed, kept_seconds=kept)


def waited_seconds(pid: int) -> float:
    """How long the first thread of that process was ready to run, and got no processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: bytes,
    body: bytes,
    key: bytes,
) -> bytes:
    """One request on a kept connection; the head of its answer."""
    named = b"Idempotency-Key: %s\r\n" % key if key else b""
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s"
        b"Content-Length: %d\r\n\r\n%s" % (path, named, len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return head


@asynccontextmanager
async def stage_process(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """The port of a stage, and its process."""
    [port] = free_ports(1)
    command = [
        *(sys.executable, "-m", "stage", "serve", "tests.acceptance.overload_stage:payment"),
        *("--auth", "none", "--port", str(port), "--database", f"sqlite:///{folder / 'o.db'}"),
    ]
    environ = {**os.environ, "STAGE_LOG_FORMAT": "json", "STAGE_LOG_LEVEL": "warning"}
    with (folder / "stage.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=log, env=environ
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            await process.stdout.readline()
        yield port, process.pid
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Spell(NamedTuple):
    """Five times the load for a while, and the peaks before and after it."""

    before: Rate
    goodput: Rate
    after: Rate
    load: Load
    connections: int

    @property
    def part(self) -> float:
        """The goodput as a part of the peak."""
        return 2 * self.goodput.a_second / (self.before.a_second + self.after.a_second)

    def __str__(self) -> str:
        """As a report says it."""
        asked = self.goodput.seconds + LEARNING_SECONDS
        offered = sum(self.load.codes.values()) / asked
        return (
            f"{self.part:.2f}: {self.connections} connections offered {offered:.0f}/s; goodput"
            f" {self.goodput} of {self.before} before and {self.after} after"
        )


@pytest.mark.kit("F13")
@pytest.mark.quiet
@pytest.mark.timeout(300)
async def test_five_times_the_load_leaves_the_goodput(tmp_path: Path, strikes: Strikes) -> None:
    """At least 0.9 of the peak, refusals that say when to come back, compensations within 1 s."""
    spells: list[Spell] = []
    async with stage_process(tmp_path) as (port, pid):
        calm = Load(port, "calm")
        before = await measured(calm, pid, PEAK_CONNECTIONS, PEAK_SECONDS, FORGETTING_SECONDS)
        for number in range(SPELLS):
            load = Load(port, f"full-{number}")
            asked = int(TIMES * before.executed / before.seconds * HELD_SECONDS) + PEAK_CONNECTIONS
            connections = min(CONNECTIONS_MAX, asked)
            seconds = SIZES.overload_seconds / SPELLS
            goodput = await measured(load, pid, connections, seconds, LEARNING_SECONDS)
            after = await measured(calm, pid, PEAK_CONNECTIONS, PEAK_SECONDS, FORGETTING_SECONDS)
            spells.append(Spell(before, goodput, after, load, connections))
            before = after

    codes = sum((spell.load.codes for spell in spells), Counter[int]())
    times = sorted(seconds for spell in spells for seconds in spell.load.undone)
    undone = times[int(len(times) * 0.99)] if times else 99.0
    wrong = [*calm.wrong, *(head for spell in spells for head in spell.load.wrong)]
    part = median(spell.part for spell in spells)
    note = (
        f"goodput {part:.2f} of the peak; {dict(codes)}; {len(times)} compensations,"
        f" p99 {undone:.2f} s; {'; '.join(map(str, spells))}"
    )
    strikes.report("seconds", int(SIZES.overload_seconds), violations=len(wrong), note=note)
    assert [] == wrong[:3], note
    assert part >= GOODPUT_MIN, note
    assert undone < UNDO_SECONDS_MAX, note


async def measured(load: Load, pid: int, connections: int, seconds: float, learning: float) -> Rate:
    """The goodput under that load, once it was learnt."""
    running = asyncio.create_task(load.run(connections, learning + seconds))
    await asyncio.sleep(learning)
    rate = await load.rate(seconds, pid)
    await running
    return rate
