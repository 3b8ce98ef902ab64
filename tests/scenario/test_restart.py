"""The stage is started again: what it takes over, and what it leaves alone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from stage.engine.embedded.limits import EVICT_AFTER_SECONDS, RECOVERY_SCAN_SECONDS
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.downstream.script import Script, ScriptName
from tests.scenario.chain import HOST, running_chain
from tests.waits import HANG_SECONDS, until

SCANS = 3


async def test_a_saga_that_waits_for_long_is_taken_over_once_a_start(tmp_path: Path) -> None:
    """Downstream asked for patience: the scan leaves the saga alone until then (rule 16).

    It was once brought back by every scan, and parked as a crash loop after six of them.
    """
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="flaky", seconds=4 * EVICT_AFTER_SECONDS)
        await chain.send("s-1", Prefer="respond-async")
        await chain.until("s-1", lambda saga: "next_action_at" in saga)
    async with running_chain(tmp_path) as chain:
        await asyncio.sleep(SCANS * RECOVERY_SCAN_SECONDS + 0.5)
        assert 1 == (await chain.events("s-1")).count("recovered")
        assert not (await chain.view("s-1"))["parked"]


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """The URL of a neighbour that takes every request and never answers."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_neighbour_that_hangs_does_not_keep_others_from_being_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for two, six wait for shipping: between their attempts another one comes in."""
    monkeypatch.setattr("stage.engine.saga.sender.FORWARD_COMPENSATION_TIMEOUT_SECONDS", 0.5)
    stuck = [f"s-{number}" for number in range(6)]
    async with AsyncExitStack() as stack:
        downstreams = {"shipping": await stack.enter_async_context(silent())}
        options: dict[str, Any] = {"downstreams": downstreams, "drain_seconds": 0.1}
        async with running_chain(tmp_path, forward_timeout_seconds=0.2, **options) as chain:
            for saga_id in stuck:
                assert 202 == (await chain.send(saga_id, Prefer="wait=0"))[0]
                assert 202 == (await chain.compensate(saga_id, Prefer="wait=0"))[0]
            await chain.script(chain.psp, script="effect-then-hang")
            assert 202 == (await chain.send("healthy", Prefer="wait=0"))[0]
            assert 202 == (await chain.compensate("healthy", Prefer="wait=0"))[0]
        async with running_chain(tmp_path, concurrency_max=4, **options) as chain:

            async def undone() -> bool:  # while it is not in memory nobody tells of it
                view = await chain.view("healthy")
                return bool("compensated" == view["state"])

            await until(undone, 2 * HANG_SECONDS)
            for saga_id in stuck:
                tried = (await chain.view(saga_id))["steps"][-1]["compensation_attempts"]
                assert tried <= 4, f"{saga_id} was tried {tried} times first"


@asynccontextmanager
async def lasting_shipping() -> AsyncIterator[str]:
    """The URL of a shipping that outlives the stage; it takes its time over each saga."""
    door = socket.create_server((HOST, 0))
    script = Script(ScriptName.SLOW, seconds=2.0)
    app = make_downstream(name="shipping", upstream=f"http://{HOST}:9", script=script)
    server = TestServer(app, host=HOST, socket_factory=lambda *_: door)
    await server.start_server(shutdown_timeout=0.1)
    try:
        yield f"http://{HOST}:{door.getsockname()[1]}"
    finally:
        await server.close()


async def test_the_effect_of_downstream_is_found_after_the_deadline(tmp_path: Path) -> None:
    """The stage was away until then: it looks, gets the answer again, and starts nothing."""
    async with lasting_shipping() as shipping, ClientSession() as session:

        async def shipped() -> dict[str, Any]:
            async with session.get(f"{shipping}/sagas/s-1", headers={"Prefer": "wait=1"}) as answer:
                shown: dict[str, Any] = await answer.json()
                return shown

        options: dict[str, Any] = {"downstreams": {"shipping": shipping}}
        async with running_chain(tmp_path, drain_seconds=0.0, **options) as chain:
            deadline = time.time() + 3.0
            await chain.send("s-1", deadline=deadline, Prefer="wait=0")
            while (await shipped()).get("outcome") != "in_progress":
                pass
        while (await shipped()).get("outcome") != "executed":
            pass
        await asyncio.sleep(max(0.0, deadline - time.time()))  # a deadline tells nobody
        async with running_chain(tmp_path, **options) as chain:
            seen = await chain.until("s-1", lambda saga: saga["outcome"] != "in_progress")
            assert "executed" == seen["outcome"]
            assert ["recovered", "probe_started", "probe_found", "completed"] == (
                await chain.events("s-1")
            )[-4:]
            status, headers, body = await chain.send("s-1")
            assert (200, "true") == (status, headers["Idempotency-Replayed"])
            assert {"id": "shipping-s-1"} == msgspec.json.decode(body)["data"]["shipping"]
        assert "executed" == (await shipped())["outcome"]
