"""Further defects: slow bodies, parked runs with calls in flight, names that nobody knows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec.structs import force_setattr

from stage import Http, Saga, Stage
from stage.core.errors import ConfigurationError
from stage.store.sqlite.store import SqliteStore
from tests.scenario.attacks.world import running_world
from tests.scenario.chain import HOST, SERVICE, running_chain
from tests.waits import HANG_SECONDS


class Order(msgspec.Struct):
    order_id: str


async def test_a_file_by_another_name_is_the_same_file(tmp_path: Path) -> None:
    """One process per file, guarded: a symbolic link is no other file (5)."""
    first = SqliteStore(tmp_path / "a.db")
    await first.open()
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    second = SqliteStore(tmp_path / "b.db")
    try:
        with pytest.raises(ConfigurationError):
            await second.open()
    finally:
        await second.close()
        await first.close()


async def test_a_database_that_was_removed_is_away(tmp_path: Path) -> None:
    """A write to a file that nobody can open again is not durable: no 200 for it."""

    def remove() -> None:
        for file in tmp_path.glob("payment.db*"):
            file.unlink()

    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        await asyncio.to_thread(remove)
        status, _, _ = await chain.send("s-2")
        assert 503 == status


async def test_a_body_that_stalls_is_answered_408(tmp_path: Path) -> None:
    """The caller hears 408 not_executed, and not a broken connection: that would be unknown."""
    async with running_chain(tmp_path) as chain:
        assert chain.app is not None
        force_setattr(chain.app[SERVICE], "body_seconds_max", 0.3)
        reader, writer = await asyncio.open_connection(HOST, int(chain.stage.rsplit(":", 1)[1]))
        writer.write(
            b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        async with asyncio.timeout(HANG_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 408"), head


# Long because the stage and its API are written out beside the story.
async def test_a_defect_beside_a_call_in_flight_starts_no_compensation_beside_it(
    tmp_path: Path,
) -> None:
    """A saga parked for a defect still has its call in flight: rule 10 holds for it too."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", together="both", timeout=20.0)
    async def fast(http: Http, saga: Saga[Order]) -> object:
        await http.post("/do/fast", json={})
        raise ValueError("\udce9")

    @fast.compensation
    async def undo_fast(http: Http, saga: Saga[Order], result: Any) -> None:
        await http.post("/undo/fast", json={})

    @stage.call(to="psp", together="both", timeout=20.0)
    async def slow(http: Http, saga: Saga[Order]) -> object:
        return (await http.post("/do/slow", json={})).json()

    @slow.compensation
    async def undo_slow(http: Http, saga: Saga[Order], result: Any) -> None:
        await http.post("/undo/slow", json={})

    late: list[str] = []
    asked: list[web.Request] = []

    async def hang(request: web.Request) -> web.Response:
        asked.append(request)
        await asyncio.sleep(1.5)
        late.append("answered")
        return web.json_response({})

    beside: list[str] = []

    async def undo(_: web.Request) -> web.Response:
        transport = asked[0].transport
        if not late and transport is not None and not transport.is_closing():
            beside.append("compensated beside the call")
        return web.json_response({})

    async with running_world(tmp_path, stage, downstreams={}) as (chain, world):
        world.behaves |= {"do/slow": hang, "undo/slow": undo}
        sending = asyncio.create_task(chain.send("s-1"))
        await asyncio.sleep(0.5)
        await chain.compensate("s-1")
        await asyncio.sleep(1.5)
        await sending
        assert [] == beside, world.seen


async def test_a_late_failure_without_a_known_upstream_is_visible(tmp_path: Path) -> None:
    """202 was said to a caller that is not configured: a person has to see it (rule 22)."""
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="refuse")
        await chain.send("s-1", via="ordr", Prefer="respond-async")
        view = await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert view["told_upstream"] is not None or view["parked"], view
