"""F8: the disk fills up under load and is freed again, CYCLES times."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.acceptance.kills.bench import STRACE, Bench, CannotTrace, placing
from tests.acceptance.kills.http1 import Broken, Peer, request_bytes
from tests.kits import Strikes
from tests.sizes import SIZES, TIER

CYCLES = SIZES.cycles
NOT_READY_SECONDS_MAX = 1.0 if TIER == "prove" else 10.0
BACK_SECONDS_MAX = 5.0 if TIER == "prove" else 20.0
"""The small helping runs beside other tests."""
FULL_SECONDS = 1.0
PAGE_BYTES = 4_096
FREE_SECONDS = 0.5
FINISH_SECONDS_MAX = 30.0
CLIENTS = 8
ANSWER_SECONDS_MAX = 20.0
ENDS = {200: "completed", 409: "compensated"}
"""Final answers (the world declines a few), and what they say of the saga."""
EXPECTED = {*ENDS, 202, 429, 503}
"""Answers that a caller may get; after one that is not final it asks again."""


@asynccontextmanager
async def limited(bench: Bench) -> AsyncIterator[None]:
    """No file may be written to behind its first page (EFBIG)."""
    before = resource.prlimit(bench.stage.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(bench.stage.pid, resource.RLIMIT_FSIZE, (PAGE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.prlimit(bench.stage.pid, resource.RLIMIT_FSIZE, before)


@asynccontextmanager
async def refusing(bench: Bench) -> AsyncIterator[None]:
    """Every write of the database says that no space is left (ENOSPC)."""
    inject = "inject=pwrite64:error=ENOSPC"
    tracer: Process = await bench.trace(bench.folder / "strace.txt", "-e", inject)
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of the stage
        await tracer.wait()


FULL: dict[str, Callable[[Bench], AbstractAsyncContextManager[None]]] = {
    "files too large": limited,
    "no space left": refusing,
}


class Clients:
    """They place one saga after the other until told to stop, and finish what they began."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.heard: Counter[int] = Counter()
        self.ends: dict[str, str] = {}
        self.enough = False

    async def place(self, client: int) -> None:
        peer = Peer(self._port)
        number = 0
        while not self.enough:
            number += 1
            await self.finish(peer, f"d{client}-{number}")
        peer.close()

    async def finish(self, peer: Peer, saga_id: str) -> None:
        """Ask until the answer is final."""
        while (status := await self.ask(peer, placing(saga_id))) not in ENDS:
            assert status in EXPECTED
            await asyncio.sleep(0.05)
        self.ends[saga_id] = ENDS[status]

    async def ask(self, peer: Peer, raw: bytes) -> int:
        try:
            status = (await peer.ask(raw, ANSWER_SECONDS_MAX)).status
        except Broken as error:
            raise AssertionError(f"the stage did not answer: {error}") from error
        self.heard[status] += 1
        return status


async def ready(peer: Peer) -> bool:
    """Whether the stage is ready, as a load balancer sees it."""
    return (await peer.ask(request_bytes("GET", "/readyz"), 5.0)).status == 200


async def until_ready(peer: Peer, *, wanted: bool, seconds: float) -> float:
    """How long it took. Raises TimeoutError."""
    since = time.monotonic()
    async with asyncio.timeout(seconds):
        while await ready(peer) is not wanted:  # noqa: ASYNC110 - as a load balancer does
            await asyncio.sleep(0.01)
    return time.monotonic() - since


@pytest.mark.kit("F8")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", FULL)
async def test_a_full_disk_is_survived(how: str, tmp_path: Path, strikes: Strikes) -> None:
    """Not ready at once, never a 500, nothing lost, and back as soon as there is room."""
    if how == "no space left" and STRACE is None:
        pytest.skip("strace is not installed")
    left, back = list[float](), list[float]()
    async with Bench(tmp_path).prepared() as bench, bench.neighbours():
        await bench.stage.start()
        clients, looking = Clients(bench.port), Peer(bench.port)
        async with asyncio.TaskGroup() as group:
            for client in range(CLIENTS):
                group.create_task(clients.place(client))
            for cycle in range(CYCLES):
                await asyncio.sleep(FREE_SECONDS)
                try:
                    async with FULL[how](bench):
                        seconds = NOT_READY_SECONDS_MAX
                        left.append(await until_ready(looking, wanted=False, seconds=seconds))
                        assert 503 == await clients.ask(looking, placing(f"late-{cycle}"))
                        await asyncio.sleep(FULL_SECONDS)
                        assert not await ready(looking)
                except CannotTrace as error:
                    clients.enough = True
                    pytest.skip(f"strace may not trace here: {error}")
                back.append(await until_ready(looking, wanted=True, seconds=BACK_SECONDS_MAX))
                await clients.finish(looking, f"late-{cycle}")
            clients.enough = True
        async with asyncio.timeout(FINISH_SECONDS_MAX):
            assert 0 == await bench.stage.stop()
        looking.close()
    note = f"{how}: not ready within {max(left):.2f} s, back within {max(back):.2f} s"
    strikes.report("cycles", len(back), note=note)
    assert set(clients.heard) <= EXPECTED
    assert CYCLES == len(back)
    with closing(sqlite3.connect(bench.database)) as books:
        states = dict(books.execute("SELECT id, state FROM saga"))
    with closing(sqlite3.connect(tmp_path / "world.db")) as books:
        charges = dict(books.execute("SELECT saga_id, sum(made) FROM charge GROUP BY saga_id"))
    assert clients.ends == states
    assert {saga_id: int(end == "completed") for saga_id, end in states.items()} == charges
