"""Defects found by killing, stopping and restarting the stage."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Http, Saga, Stage
from stage.bootstrap.database import migration_folders
from stage.core.errors import StoreUnavailable
from stage.core.machine import RECOVERIES_MAX
from stage.demo.chain import free_ports
from stage.demo.payment import payment
from stage.engine.clock import SystemClock
from stage.engine.embedded.engine import EmbeddedEngine
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.engine import Busy, Unsettled
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest
from tests.scenario.attacks.world import running_world
from tests.scenario.chain import HOST, ORDER
from tests.waits import HANG_SECONDS, until

T = TypeVar("T")
STARTS_MAX = RECOVERIES_MAX + 5

POISON = """
import os
import msgspec
from stage import Saga, Stage

class Order(msgspec.Struct):
    order_id: str

stage = Stage("payment", accepts=Order)

@stage.transaction(compensation=None, reason="it writes nothing")
async def reserve(tx, saga):
    if saga.attempt == 1:
        raise RuntimeError("not yet")
    os._exit(9)
"""


async def serve(folder: Path, port: int) -> Process:
    """A stage in a process of its own; returns when it listens or is gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stage", "serve", "poison:stage", "--port", str(port),
        "--auth", "none", "--database", f"sqlite:///{folder / 'stage.db'}",
        stdout=PIPE, stderr=PIPE, cwd=folder, env={**os.environ, "STAGE_LOG_FORMAT": "json"},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(HANG_SECONDS):
        await process.stdout.readline()
    return process


async def is_parked(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the stage is there and says so of the saga."""
    try:
        async with session.get(url) as response:
            return bool((await response.json()).get("parked"))
    except aiohttp.ClientError:
        return False


@pytest.mark.timeout(90)
async def test_a_saga_that_kills_the_process_is_parked(tmp_path: Path) -> None:
    """Attempts are counted before they start, transactions too: a crash loop ends (rule 15)."""
    (tmp_path / "poison.py").write_text(POISON)
    port = free_ports(1)[0]
    url = f"http://{HOST}:{port}/sagas"
    process = await serve(tmp_path, port)
    body = msgspec.json.encode({"saga_id": "s-1", "data": {"order_id": "o-1"}})
    async with aiohttp.ClientSession() as session:
        with suppress(aiohttp.ClientError):
            headers = {"Content-Type": "application/json"}
            await session.post(url, data=body, headers=headers)
        deaths = 0
        ended = asyncio.ensure_future(process.communicate())

        async def ended_or_parked() -> bool:
            return ended.done() or await is_parked(session, f"{url}/s-1")

        try:
            await until(ended_or_parked)
            while ended.done() and deaths < STARTS_MAX:
                assert 9 == process.returncode  # it died where the function kills it
                deaths += 1
                process = await serve(tmp_path, port)
                ended = asyncio.ensure_future(process.communicate())
                await until(ended_or_parked)
            assert 1 <= deaths < STARTS_MAX, f"died {deaths} times and was never parked"
            assert await is_parked(session, f"{url}/s-1")
        finally:
            if process.returncode is None:
                process.kill()
            await ended  # until its pipe is closed too


class SlowStore(MemoryStore):
    """Is slow to say that it has written."""

    def __init__(self) -> None:
        super().__init__(migrations=migration_folders(payment))
        self.written = asyncio.Event()
        """Set once the first unit is durable, which is not known yet."""

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        value = await super().transact(work)
        self.written.set()
        await asyncio.sleep(0.3)
        return value


async def test_no_accepted_saga_is_answered_not_executed_at_the_stop(tmp_path: Path) -> None:
    """503 says not_executed: not while the accept is on its way to the disk (3.3, rule 8)."""
    store = SlowStore()
    client = PeerClient(Transport(), clock=SystemClock())
    peers = http_peers(client, externals={"psp": "http://x"}, downstreams={}, upstreams={})
    engine = EmbeddedEngine(payment.bind(), store, peers, NullObserver())
    await store.open()
    await engine.start()
    accepting = asyncio.create_task(
        engine.accept(
            Envelope(saga_id="s-1", data=ORDER),
            trace=TraceContext(),
            deadline=None,
            respond_async=False,
            wait_seconds=5.0,
        )
    )
    await store.written.wait()
    assert await store.get("s-1") is not None  # the strike is between the commit and its news
    await engine.drain(0.0)
    answer: Any = None
    try:
        answer = await accepting
    except (Busy, Unsettled) as error:
        answer = error
    await store.close()
    assert not isinstance(answer, Busy), (
        f"accepted durably, and answered 503 not_executed: {answer}"
    )


class AwayStore(MemoryStore):
    """Is away from the moment on that `away` is set."""

    away = False

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        if self.away:
            raise StoreUnavailable("away: nothing was written")
        return await super().transact(work)


# Long because the database goes away in the middle of the story.
@pytest.mark.parametrize("who", ["accept", "compensate"])
async def test_nobody_waits_for_a_database_that_is_away_beyond_his_time(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait without a deadline is a defect (rule 26, STYLE 10): the caller hears something."""
    monkeypatch.setattr("stage.engine.embedded.limits.OPEN_SECONDS_MAX", 0.5)
    store = AwayStore(migrations=migration_folders(payment))

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.json_response({"id": "c-1"})

    psp = web.Application()
    psp.router.add_route("*", "/{tail:.*}", hang)
    server = TestServer(psp, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    transport = Transport()
    await transport.open()
    url = f"http://{HOST}:{server.port}"
    client = PeerClient(transport, clock=SystemClock())
    peers = http_peers(client, externals={"psp": url}, downstreams={}, upstreams={})
    engine = EmbeddedEngine(payment.bind(), store, peers, NullObserver())
    await store.open()
    await engine.start()
    accepting = asyncio.create_task(
        engine.accept(
            Envelope(saga_id="s-1", data=ORDER),
            trace=TraceContext(),
            deadline=None,
            respond_async=False,
            wait_seconds=0.6,
        )
    )

    async def there() -> bool:
        return await store.get("s-1") is not None

    await until(there)
    store.away = True
    await asyncio.sleep(0.4)
    work: Awaitable[Any] = accepting
    if who == "compensate":
        work = asyncio.create_task(
            engine.compensate(
                "s-1",
                asked=CompensateRequest(requested_by="order"),
                trace=TraceContext(),
                wait_seconds=0.6,
            )
        )
    try:
        with suppress(StoreUnavailable, Unsettled):
            async with asyncio.timeout(HANG_SECONDS):
                await asyncio.shield(work)
    finally:
        store.away = False
        await engine.drain(1.0)
        await asyncio.gather(accepting, work, return_exceptions=True)
        await transport.close()
        await server.close()
        await store.close()


class Order(msgspec.Struct):
    order_id: str


async def test_recovery_keeps_to_the_limit_of_concurrency(tmp_path: Path) -> None:
    """Unfinished sagas are taken over within the same bounds as new ones (rule 26)."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", timeout=30.0, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> Any:
        return (await http.post("/do/charge", json={})).json()

    running = most = 0
    pause = 5.0

    async def slow(_: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(pause)
        finally:
            running -= 1
        return web.json_response({"id": "2"})

    first = {"concurrency_max": 60, "drain_seconds": 0.0}
    async with running_world(tmp_path, stage, **first) as (chain, world):
        world.behaves["do/charge"] = slow
        for number in range(60):
            await chain.send(f"s-{number}", Prefer="respond-async")
    running = most = 0
    pause = 0.1
    async with running_world(tmp_path, stage, concurrency_max=10) as (chain, world):
        world.behaves["do/charge"] = slow
        async with asyncio.timeout(3 * HANG_SECONDS):
            for number in range(60):
                await chain.until(f"s-{number}", lambda saga: saga["state"] == "completed")
        assert 1 <= most <= 10, most
