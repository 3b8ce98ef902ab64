"""By a proxy: a tunnel, TLS end to end within it, and no doubt while there is none."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.core.events import Request
from stage.outbound.client import PeerClient
from stage.outbound.credentials import Credentials, PeerCredentials
from stage.outbound.peers import http_peers
from stage.outbound.proxy import Proxy
from stage.outbound.transport import Transport
from stage.ports.connection import Connection
from stage.ports.external import ExternalRequest
from stage.ports.file_marks import LOOK_SECONDS
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from tests.certificates import Authority
from tests.tunnels import SILENT, Tunnels, tunnelling
from tests.unit.outbound.scripted import FixedClock

SECONDS = 20.0
SHORT_SECONDS = 1.0
"""Enough for a busy machine to connect twice."""
KIM = "Basic " + base64.b64encode(b"kim:p:w").decode()


@pytest.fixture
async def proxy() -> AsyncIterator[Tunnels]:
    async with tunnelling() as tunnels:
        yield tunnels


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Psp:
    """An API under TLS that keeps the heads of its requests."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.tls = tls
        """For a client: it trusts the authority."""
        self.requests: list[dict[str, str]] = []
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self.may.set()
        self.url = ""

    async def charge(self, request: web.Request) -> web.Response:
        """Answer once it may."""
        self.requests.append({name.lower(): value for name, value in request.headers.items()})
        self.asked.set()
        await self.may.wait()
        return web.json_response({"id": "c-1"})


@pytest.fixture
async def psp(authority: Authority) -> AsyncIterator[Psp]:
    async with psp_of(authority, authority) as found:
        yield found


@asynccontextmanager
async def psp_of(signs: Authority, trusted: Authority) -> AsyncIterator[Psp]:
    """An API whose certificate is from one authority, with a client that trusts another."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*signs.sign("psp", "127.0.0.1"))
    found = Psp(ssl.create_default_context(cafile=trusted.file))
    app = web.Application()
    app.router.add_post("/charges", found.charge)
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    found.url = str(server.make_url("/charges"))
    try:
        yield found
    finally:
        found.may.set()
        await server.close()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport()
    await opened.open()
    yield opened
    await opened.close()


async def sent(
    transport: Transport, psp: Psp, proxy: Proxy, timeout: float = SECONDS, *, fresh: bool = False
) -> Answer | Lost:
    return await transport.send(
        "POST",
        psp.url,
        headers=[("Authorization", "Bearer of-the-psp")],
        body=b"{}",
        timeout=timeout,
        tls=psp.tls,
        proxy=proxy,
        fresh=fresh,
    )


async def test_a_request_goes_through_a_tunnel(
    transport: Transport, psp: Psp, proxy: Tunnels
) -> None:
    """One for several requests. Neither is shown the credentials of the other."""
    way = Proxy(proxy.url, KIM)
    for fresh in (False, False, True):
        answer = await sent(transport, psp, way, fresh=fresh)
        assert isinstance(answer, Answer) and b'{"id": "c-1"}' == answer.body, answer

    assert 2 == len(proxy.heads)
    for head in proxy.heads:
        assert head.startswith(f"CONNECT {psp.url.split('/')[2]} HTTP/1.1\r\n".encode())
        assert f"Proxy-Authorization: {KIM}\r\n".encode() in head
        assert b"of-the-psp" not in head and b"charges" not in head
    assert 3 == len(psp.requests)
    assert all("Bearer of-the-psp" == each["authorization"] for each in psp.requests)
    assert all("proxy-authorization" not in each for each in psp.requests)
    assert KIM not in repr(way)


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "_basic_file"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!!", "the proxy answers 403"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "the proxy answers 302"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", "the proxy answers 201"),
        (b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 9\r\n\r\n", "the proxy answers 504"),
        (b"<html>", "gives no tunnel"),
        (b"\0\xff\r\n\r\n", "gives no tunnel"),
        (b"HTTP/1.1 200 OK\r\n", "gives no tunnel"),
    ],
    ids=["407", "403", "302", "201", "504", "html", "bytes", "cut off"],
)
async def test_without_a_tunnel_nothing_has_left(
    transport: Transport, psp: Psp, proxy: Tunnels, answer: bytes, reason: str
) -> None:
    """The peer was shown nothing, with any answer of the proxy but 200."""
    proxy.answer = answer
    lost = await sent(transport, psp, Proxy(proxy.url))
    assert isinstance(lost, Lost) and lost.certain, lost
    assert lost.reason.startswith("not sent: ") and reason in lost.reason
    assert "charges" not in lost.reason
    assert [] == psp.requests


async def test_a_proxy_that_keeps_silent_or_is_away_is_certain(
    transport: Transport, psp: Psp, proxy: Tunnels
) -> None:
    """Also where the time is over by then."""
    proxy.answer = SILENT
    lost = await sent(transport, psp, Proxy(proxy.url), SHORT_SECONDS)
    assert isinstance(lost, Lost) and lost.certain, lost
    away = await sent(transport, psp, Proxy("http://127.0.0.1:9"))
    assert isinstance(away, Lost) and away.certain, away
    assert "not sent: the proxy: refused" == away.reason


async def test_a_tunnel_that_ends_before_the_answer_leaves_doubt(
    transport: Transport, psp: Psp, proxy: Tunnels
) -> None:
    """The peer may have acted."""
    psp.may.clear()
    sending = asyncio.create_task(sent(transport, psp, Proxy(proxy.url)))
    await psp.asked.wait()
    proxy.cut.set()
    psp.may.set()
    lost = await sending
    assert isinstance(lost, Lost) and not lost.certain, lost


async def test_a_proxy_that_reads_along_is_not_believed(
    tmp_path: Path, transport: Transport, authority: Authority, proxy: Tunnels
) -> None:
    """The certificate has to be the peer's: it is the one that a tunnel leads to."""
    (tmp_path / "other").mkdir()
    async with psp_of(Authority(tmp_path / "other", "other"), authority) as stranger:
        lost = await sent(transport, stranger, Proxy(proxy.url))
    assert isinstance(lost, Lost) and lost.certain, lost
    assert [] == stranger.requests


async def test_a_peer_without_tls_is_not_reached_by_a_proxy(
    transport: Transport, proxy: Tunnels
) -> None:
    """It could be read, changed and repeated there."""
    lost = await transport.send(
        "POST", "http://psp:1/x", headers=[], body=b"", timeout=SECONDS, proxy=Proxy(proxy.url)
    )
    assert isinstance(lost, Lost) and [] == proxy.heads


async def test_the_password_of_the_proxy_is_rotated(
    tmp_path: Path, transport: Transport, psp: Psp, proxy: Tunnels, authority: Authority
) -> None:
    """The next request asks for a tunnel under the new one."""
    file = tmp_path / "proxy"
    file.write_text("kim:old\n")
    file.chmod(0o600)
    base = psp.url.removesuffix("/charges")
    connection = Connection(
        url=base, ca_file=str(authority.file), proxy=proxy.url, proxy_basic_file=str(file)
    )
    now = [0.0]
    credentials = PeerCredentials("externals.psp", connection, warn=print, monotonic=lambda: now[0])
    peers = http_peers(
        PeerClient(transport, clock=FixedClock()),
        externals={"psp": connection},
        downstreams={},
        upstreams={},
        credentials=Credentials({"psp": credentials}, {}),
    )
    await credentials.open()
    request = ExternalRequest(
        peer="psp",
        request=Request(method="POST", path="/charges"),
        key="k",
        trace=TraceContext(),
        timeout=SECONDS,
    )
    for password in ("old", "new"):
        file.write_text(f"kim:{password}\n")
        now[0] += LOOK_SECONDS
        answer = await peers.external.exchange(request)
        assert isinstance(answer, Answer), answer
    shown = [base64.b64decode(head.split(b"Basic ")[1].split()[0]) for head in proxy.heads]
    assert [b"kim:old", b"kim:new"] == shown
