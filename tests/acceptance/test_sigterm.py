"""F14: SIGTERM under load, again and again: not ready at once, serving on, and gone in time."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.kills.bench import SLOW, Bench, placing
from tests.acceptance.kills.http1 import Broken, Connection, request_bytes
from tests.kits import Strikes
from tests.sizes import SIZES, TIER

TIMES = SIZES.times
SEED = SIZES.seed
DELAY_SECONDS = 0.25 if TIER == "prove" else 1.0
DRAIN_SECONDS = 0.5
"""Shorter than the slowest saga takes: some are cut off, and taken up by the next start."""
EXIT_SECONDS_MAX = DELAY_SECONDS + DRAIN_SECONDS + (2.0 if TIER == "prove" else 10.0)
ROTATION_SECONDS_MAX = 0.2 if TIER == "prove" else 0.9
"""The small helping runs beside other tests."""
CLIENTS = 8
SLOW_PERCENT = 10
ENDS = {200: "completed", 409: "compensated"}


class Clients:
    """Each places one saga after the other, each request on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._dice = random.Random(SEED)
        self.ends: dict[str, str] = {}
        self.refused: list[float] = []
        """When a connection was refused."""
        self.wrong: list[str] = []
        self.enough = False

    async def place(self, client: int) -> None:
        number = 0
        while not self.enough:
            number += 1
            slow = SLOW.decode() if self._dice.randrange(100) < SLOW_PERCENT else ""
            saga_id = f"t{client}-{number}{slow}"
            while (status := await self.ask(placing(saga_id))) not in ENDS:
                if status not in (0, 202, 429, 503):
                    self.wrong.append(f"{saga_id} was answered {status}")
                await asyncio.sleep(0.02)
            self.ends[saga_id] = ENDS[status]

    async def ask(self, raw: bytes) -> int:
        """The status, or 0 when nobody answered."""
        connection: Connection | None = None
        try:
            connection = await Connection.to(self._port)
            async with asyncio.timeout(10.0):
                return (await connection.ask(raw)).status
        except Broken:
            if connection is None:
                self.refused.append(time.monotonic())
            return 0
        finally:
            if connection is not None:
                connection.close()


@pytest.mark.kit("F14")
@pytest.mark.timeout(180)
async def test_a_stage_stops_well_on_sigterm(tmp_path: Path, strikes: Strikes) -> None:
    """In time, with status 0, no connection refused before the delay, and nothing lost."""
    dice = random.Random(SEED)
    options = ("--drain-delay-seconds", f"{DELAY_SECONDS}", "--drain-seconds", f"{DRAIN_SECONDS}")
    took: list[float] = []
    early = 0
    async with Bench(tmp_path, *options).prepared() as bench, bench.neighbours():
        stage, clients = bench.stage, Clients(bench.port)
        await stage.start()
        async with asyncio.TaskGroup() as group:
            for client in range(CLIENTS):
                group.create_task(clients.place(client))
            for _ in range(TIMES):
                since = time.monotonic()
                await asyncio.sleep(dice.uniform(0.1, 0.4))
                asked = time.monotonic()
                stage.send(signal.SIGTERM)
                await not_ready(clients)
                async with asyncio.timeout(EXIT_SECONDS_MAX):
                    await stage.ended.wait()
                took.append(time.monotonic() - asked)
                assert 0 == stage.ends[-1]
                early += sum(since < at < asked + DELAY_SECONDS for at in clients.refused)
                await stage.start()
            clients.enough = True
        assert 0 == await stage.stop()
    note = f"exit within {max(took):.2f} s, {early} connections refused early"
    strikes.report("times", len(took), violations=early + len(clients.wrong), seed=SEED, note=note)
    assert 0 == early
    assert clients.refused  # after the delay, so that the count can see them
    assert [] == clients.wrong
    with closing(sqlite3.connect(bench.database)) as books:
        states = dict(books.execute("SELECT id, state FROM saga"))
        lost_runs = "SELECT count(*) FROM journal WHERE name = 'recovered'"
        assert books.execute(lost_runs).fetchone()[0]  # some were cut off
    with closing(sqlite3.connect(tmp_path / "world.db")) as books:
        charges = dict(books.execute("SELECT saga_id, sum(made) FROM charge GROUP BY saga_id"))
    assert clients.ends == states
    assert {saga_id: int(end == "completed") for saga_id, end in states.items()} == charges


async def not_ready(clients: Clients) -> None:
    """Return when the load balancer would see it. Raises TimeoutError."""
    async with asyncio.timeout(ROTATION_SECONDS_MAX):
        while await clients.ask(request_bytes("GET", "/readyz")) != 503:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
