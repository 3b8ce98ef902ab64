"""F18: addresses that a neighbour, an API or a payload chooses are never called (rule 25)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Http, Saga, Stage
from stage.config.values import check_url
from tests.kits import Strikes
from tests.scenario.chain import AT, HOST, Chain, running_chain

ADDRESSES = (
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://psp@127.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.internal/",
    "//127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/#psp",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_x",
)
"""`port` is that of a listener that nobody may reach."""
SETTINGS = (
    *("file:///etc/passwd", "gopher://x/", "ftp://x/", "unix:///run/x.sock", "//x/", "x", ""),
    *("http://", "http://user:secret@x/", "http://x/?to=y", "http://x/#y", "http://x\\@y/"),
    *("http://x y/", "http://x:0/", "http://x:99999/", "http://[::1/", "javascript:alert(1)"),
)


NAMING = ("Location", "Content-Location", "Link", "Refresh", "Alt-Svc", "X-Callback")
"""Headers in which an answer may name an address."""


class Order(msgspec.Struct):
    callback: str = ""


stage: Stage[Order, Any] = Stage("payment", accepts=Order)


@stage.call(to="psp", timeout=2.0)
async def charge(http: Http, saga: Saga[Order]) -> dict[str, Any]:
    found: dict[str, Any] = (await http.post("/do", json={"callback": saga.input.callback})).json()
    return found


@charge.compensation
async def refund(http: Http, saga: Saga[Order], found: dict[str, Any] | None) -> None:
    await http.post("/undo", json={})


class Hostile:
    """An API and a downstream that name an address wherever an answer may hold one."""

    def __init__(self) -> None:
        self.address, self.code = "", 200
        self.asked: set[str] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        names = dict.fromkeys(NAMING, self.address)
        if request.path == "/do":
            return web.json_response({"next": self.address}, status=self.code, headers=names)
        if request.path == "/undo":
            return web.json_response({}, headers=names)
        if request.path == "/sagas":
            return web.json_response(self._said("in_progress"), status=202, headers=names)
        outcome = "compensated" if request.path.endswith("/compensate") else "executed"
        return web.json_response(self._said(outcome), headers=names)

    def _said(self, outcome: str) -> dict[str, str]:
        return {"outcome": outcome}


@asynccontextmanager
async def hostile_chain(folder: Path) -> AsyncIterator[tuple[Chain, Hostile, int]]:
    hostile = Hostile()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", hostile.handle)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    url = f"http://{HOST}:{server.port}"
    options: dict[str, Any] = {
        "externals": {"psp": url},
        "downstreams": {"shipping": url},
        "attempts_max": 1,
        "drain_seconds": 0.1,
    }
    try:
        async with running_chain(folder, stage=stage, **options) as chain:
            yield chain, hostile, server.port or 0
    finally:
        await server.close()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """Every address that a socket of this process is connected to."""
    seen: set[Any] = set()
    connect = asyncio.SelectorEventLoop.sock_connect

    async def spy(loop: Any, sock: socket.socket, address: Any) -> None:
        seen.add(address[:2])
        await connect(loop, sock, address)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", spy)
    return seen


def envelope(saga_id: str, callback: str, trail: str = "order") -> bytes:
    data = {"saga_id": saga_id, "data": {"callback": callback}}
    return msgspec.json.encode({**data, "trail": [{"stage": trail, "at": AT}]})


@pytest.mark.kit("F18")
async def test_no_address_of_others_is_called(
    tmp_path: Path, called: set[Any], strikes: Strikes
) -> None:
    """In payload, trail, `requested_by`, redirects, Location, headers of answers and the target
    of a request: 14 addresses each. Sockets are opened to configured peers alone."""
    tried = 0
    with socket.create_server((HOST, 0)) as trap:
        trap.setblocking(False)
        port = trap.getsockname()[1]
        async with hostile_chain(tmp_path) as (chain, hostile, peers):
            post = f"{chain.stage}/sagas"
            for number, address in enumerate(each.format(port=port) for each in ADDRESSES):
                hostile.address, hostile.code = address, 200
                quick = {"Prefer": "wait=1", "Saga_Budget_Ms": "1500"}
                await chain.request("POST", post, envelope(f"p-{number}", address), **quick)
                named = await chain.request("POST", post, envelope("t-1", "", address))
                undo = msgspec.json.encode({"requested_by": address, "reason": address})
                await chain.request("POST", f"{post}/p-{number}/compensate", undo)
                await chain.request("GET", f"{post}/p-{number}?view=chain", Chain_Asked=address)
                hostile.code = (301, 302, 303, 307, 308)[number % 5]
                await chain.request("POST", post, envelope(f"r-{number}", ""), **quick)
                line = f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
                reader, writer = await asyncio.open_connection(HOST, int(chain.stage[17:]))
                writer.write(line.encode())
                answered = await reader.readuntil(b"\r\n\r\n")
                writer.close()
                assert (422, b"4") == (named[0], answered[9:10])
                tried += 6
            allowed = {int(url.rsplit(":", 1)[1]) for url in (chain.stage, chain.order)} | {peers}
        with pytest.raises(BlockingIOError):
            trap.accept()

    foreign = {address for address in called if address[0] != HOST or address[1] not in allowed}
    strikes.report("addresses", tried + len(SETTINGS), violations=len(foreign))
    assert set() == foreign
    assert (HOST, peers) in called  # the spy sees what is called


@pytest.mark.parametrize("given", SETTINGS)
def test_a_setting_that_is_no_address_of_a_peer_is_refused(given: str) -> None:
    """By its scheme, its parts or its characters, and without showing the password."""
    with pytest.raises(ValueError, match=r".") as refused:
        check_url(given)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["http://x/", "//x/", "x", "", "\\\\x\\", "@x/"])
def test_a_path_of_a_step_leads_to_its_api(path: str) -> None:
    """An address in a payload that an author puts into a path leads nowhere else."""
    with pytest.raises(ValueError, match="path"):
        _ = Http("psp").get(path)
