"""Peers that are away for a while, and connections that end at the wrong moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from stage import Http, Saga, Stage
from stage.demo.chain import free_ports
from stage.demo.psp import app as psp_service
from tests.scenario.chain import HOST, running_chain

KEPT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Impatient:
    """An API that hangs up as the second request on a connection arrives."""

    def __init__(self) -> None:
        self.taken = 0
        self.hung_up = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            for number in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                if number:
                    self.hung_up += 1
                    return
                await reader.readexactly(length)
                self.taken += 1
                writer.write(KEPT)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def impatient() -> AsyncIterator[tuple[Impatient, str]]:
    """That API and its address."""
    api = Impatient()
    server = await asyncio.start_server(api.serve, HOST, 0)
    try:
        yield api, f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def charging(*, idempotent: bool) -> Stage[Any, Any]:
    """A stage with one call."""
    stage: Stage[Any, Any] = Stage("payment", accepts=dict[str, Any])

    @stage.call(to="psp", idempotent=idempotent, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Any]) -> None:
        await http.post("/charges", json={})

    return stage


@pytest.mark.parametrize("idempotent, hung_up", [(False, 0), (True, 1)])
async def test_a_connection_that_ends_as_the_request_arrives_parks_nothing(
    tmp_path: Path, idempotent: bool, hung_up: int
) -> None:
    """A call that may not be repeated gets a fresh connection; the others struck, and repeat."""
    async with impatient() as (api, url):
        options: dict[str, Any] = {"externals": {"psp": url}, "downstreams": {}}
        stage = charging(idempotent=idempotent)
        async with running_chain(tmp_path, stage=stage, **options) as chain:
            for saga in ("s-1", "s-2"):
                assert 200 == (await chain.send(saga))[0]
                view = await chain.view(saga)
                assert ("completed", False) == (view["state"], view["parked"])
    assert (2, hung_up) == (api.taken, api.hung_up)


async def test_an_api_that_was_down_for_a_second_costs_no_saga(tmp_path: Path) -> None:
    """With a second of outage and a minute of budget four attempts are no reason to give up."""
    port = free_ports(1)[0]
    psp = TestServer(psp_service.make_app(), host=HOST, port=port)
    options: dict[str, Any] = {"externals": {"psp": f"http://{HOST}:{port}"}}
    async with running_chain(tmp_path, **options) as chain:
        sending = asyncio.create_task(chain.send("s-1"))
        await chain.until("s-1", lambda view: view["steps"][1]["attempts"] > 4)
        await psp.start_server()
        try:
            assert 200 == (await sending)[0]
            assert "step_transient" in await chain.events("s-1")
        finally:
            await psp.close()
