"""Credentials from files and functions: read anew on change, refused with the fix, never quoted."""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.core.errors import ConfigurationError
from stage.core.events import Request
from stage.outbound import transport as transport_module
from stage.outbound.client import PeerClient
from stage.outbound.credentials import Credentials, PeerCredentials
from stage.outbound.peers import http_peers
from stage.outbound.secret_files import Shown
from stage.outbound.transport import Transport
from stage.ports.connection import Connection
from stage.ports.credentials import CredentialsFunction, OutgoingRequest
from stage.ports.external import ExternalRequest
from stage.ports.file_marks import LOOK_SECONDS
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.wire.replies import CompensateRequest
from tests.certificates import DAY, Authority
from tests.unit.outbound.scripted import FixedClock, ScriptedTransport, answered
from tests.waits import HANG_SECONDS

URL = "http://psp:1"
CERTIFICATES = Path(__file__).parent / "certificates"
REQUEST = OutgoingRequest(method="POST", url=URL + "/charges", headers=(), body=b"{}")


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def secret(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def credentials_of(
    connection: Connection,
    function: CredentialsFunction | None = None,
    seconds: Seconds | None = None,
    warned: list[str] | None = None,
) -> PeerCredentials:
    return PeerCredentials(
        "externals.psp",
        connection,
        function,
        warn=(warned if warned is not None else []).append,
        monotonic=seconds or Seconds(),
    )


async def shown(credentials: PeerCredentials) -> dict[str, str]:
    return dict((await credentials.show(REQUEST)).headers)


async def test_each_file_becomes_its_header(tmp_path: Path) -> None:
    """A token and a bearer are the same to a peer; comments in a file of headers are left out."""
    token = secret(tmp_path / "token", "abc\n")
    basic = secret(tmp_path / "basic", "kim:p:w\n")
    headers = secret(tmp_path / "headers", "# ours\nX-Api-Key: k1\n\nX-Tenant: t 1\n")
    found = []
    for connection in (
        Connection(url=URL, token_file=token),
        Connection(url=URL, bearer_file=token),
        Connection(url=URL, basic_file=basic, headers_file=headers),
    ):
        credentials = credentials_of(connection)
        await credentials.open()
        found.append(await shown(credentials))
    pair = "Basic " + base64.b64encode(b"kim:p:w").decode()
    assert found == [
        {"Authorization": "Bearer abc"},
        {"Authorization": "Bearer abc"},
        {"Authorization": pair, "X-Api-Key": "k1", "X-Tenant": "t 1"},
    ]
    assert frozenset({"authorization", "x-api-key", "x-tenant"}) == credentials.names


@pytest.mark.parametrize("ends", ["\r\n", "\n", ""])
async def test_a_file_of_another_system_holds_the_same_secret(tmp_path: Path, ends: str) -> None:
    """With a mark before its first byte, and other ends of lines: neither belongs to the secret."""
    token, hook = tmp_path / "token", tmp_path / "hook"
    for path, line in ((token, "abc"), (hook, "s1")):
        path.write_bytes(f"\ufeff{line}{ends}".encode())
    connection = Connection(url=URL, bearer_file=str(token), webhook_secret_file=str(hook))
    credentials = credentials_of(connection)
    await credentials.open()
    assert {"Authorization": "Bearer abc"} == await shown(credentials)
    assert (b"s1",) == await credentials.webhook_secrets()


@pytest.mark.parametrize("how", ["renamed", "in place"])
async def test_a_rotated_file_is_shown_within_a_second(tmp_path: Path, how: str) -> None:
    """Also when it has the same size and time: the inode differs, or the time of its change."""
    path, seconds = tmp_path / "psp", Seconds()
    credentials = credentials_of(
        Connection(url=URL, bearer_file=secret(path, "old")), seconds=seconds
    )
    await credentials.open()
    before = path.stat()
    written = tmp_path / "next" if how == "renamed" else path
    secret(written, "new")
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    written.rename(path)
    assert {"Authorization": "Bearer old"} == await shown(credentials)
    seconds.now += LOOK_SECONDS
    assert {"Authorization": "Bearer new"} == await shown(credentials)


async def test_a_file_that_is_away_while_it_is_replaced_stops_nothing(tmp_path: Path) -> None:
    """Its last contents are shown on, and the operator is warned once, without them."""
    path, seconds, warned = tmp_path / "psp", Seconds(), list[str]()
    credentials = credentials_of(
        Connection(url=URL, bearer_file=secret(path, "old-token")), seconds=seconds, warned=warned
    )
    await credentials.open()
    path.unlink()
    for _ in range(3):
        seconds.now += LOOK_SECONDS
        assert {"Authorization": "Bearer old-token"} == await shown(credentials)
    (line,) = warned
    assert line.startswith(f"externals.psp.bearer_file {path} cannot be read")
    secret(path, "two words")
    seconds.now += LOOK_SECONDS
    assert {"Authorization": "Bearer old-token"} == await shown(credentials)
    assert "holds no token" in warned[1] and "two words" not in warned[1]
    secret(path, "new-token")
    seconds.now += LOOK_SECONDS
    assert {"Authorization": "Bearer new-token"} == await shown(credentials)


@pytest.mark.parametrize(
    "key, text, problem",
    [
        ("bearer_file", "", "holds no token: write one line of ASCII without spaces"),
        ("bearer_file", "s3cret\ns3cret", "holds no token"),
        ("basic_file", "s3cret", "holds no user and password: write one line user:password"),
        ("headers_file", "s3cret", "line 1 is no header: write Name: value"),
        ("headers_file", "\n", "holds no header: write Name: value"),
        ("headers_file", "Idempotency-Key: s3cret", "is set by the engine: leave it out"),
        ("headers_file", "X: s3cret\nx: s3cret", "headers_file sets 'x', which is set already"),
        ("client_cert", "s3cret", "cannot be used"),
    ],
)
async def test_a_wrong_file_is_refused_at_start_with_the_fix(
    tmp_path: Path, key: str, text: str, problem: str
) -> None:
    """Never with what it holds."""
    given: dict[str, Any] = {"url": "https://psp", key: secret(tmp_path / "file", text)}
    with pytest.raises(ConfigurationError) as caught:
        await Credentials({"psp": credentials_of(Connection(**given))}, {}).open()
    assert problem in str(caught.value) and str(caught.value).startswith("externals.psp.")
    assert "s3cret" not in str(caught.value)


async def test_a_missing_file_is_refused_and_one_that_others_read_is_warned_of(
    tmp_path: Path,
) -> None:
    """All problems at once; a file of mode 0644 is named with its fix."""
    missing = Connection(url=URL, bearer_file=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError) as caught:
        await Credentials({"a": credentials_of(missing), "b": credentials_of(missing)}, {}).open()
    assert len(str(caught.value).splitlines()) == 2
    assert "cannot be read (No such file or directory)" in str(caught.value)
    path, warned = tmp_path / "psp", list[str]()
    path.write_text("token")
    path.chmod(0o644)
    await credentials_of(Connection(url=URL, bearer_file=str(path)), warned=warned).open()
    assert warned == [
        f"externals.psp: bearer_file {path} may be read by others (mode 0644): chmod 600 it"
    ]


def outgoing(*headers: tuple[str, str]) -> ExternalRequest:
    request = Request(method="POST", path="/charges", headers=headers, body=b"{}")
    return ExternalRequest(peer="psp", request=request, key="k", trace=TraceContext(), timeout=2.0)


async def exchanged(
    credentials: PeerCredentials, *headers: tuple[str, str]
) -> tuple[Answer | Lost, list[dict[str, str]]]:
    transport = ScriptedTransport(answered(200))
    peers = http_peers(
        PeerClient(transport, clock=FixedClock()),
        externals={"psp": URL},
        downstreams={},
        upstreams={},
        credentials=Credentials({"psp": credentials}, {}),
    )
    answer = await peers.external.exchange(outgoing(*headers))
    return answer, [dict(sent.headers) for sent in transport.sent]


async def test_a_journaled_credential_of_an_older_release_stays_behind(tmp_path: Path) -> None:
    """The repeat goes out with that of today, and only with it."""
    connection = Connection(url=URL, bearer_file=secret(tmp_path / "psp", "today"))
    credentials = credentials_of(connection)
    await credentials.open()
    old = ("authorization", "Bearer yesterday"), ("Cookie", "c=1"), ("X-A", "1")
    _, (sent,) = await exchanged(credentials, *old)
    assert sent == {"X-A": "1", "Idempotency-Key": "k", "Authorization": "Bearer today"}


async def test_a_neighbour_is_shown_its_token(tmp_path: Path) -> None:
    """On every request of the protocol."""
    connection = Connection(url=URL, token_file=secret(tmp_path / "shipping", "for-shipping"))
    credentials = credentials_of(connection)
    await credentials.open()
    transport = ScriptedTransport(answered(500))
    neighbours = http_peers(
        PeerClient(transport, clock=FixedClock()),
        externals={},
        downstreams={"shipping": "http://shipping"},
        upstreams={},
        credentials=Credentials({}, {"shipping": credentials}),
    ).neighbours
    trace = TraceContext()
    await neighbours.forward("shipping", "s", b"{}", trace=trace, budget=None, timeout=1.0)
    await neighbours.get_outcome("shipping", "s", trace=trace, timeout=1.0)
    await neighbours.get_chain("shipping", "s", asked=(), hops=1, timeout=1.0, trace=trace)
    assert ["Bearer for-shipping"] * 3 == [dict(s.headers)["Authorization"] for s in transport.sent]


async def test_every_link_shows_the_certificate_of_its_peer(tmp_path: Path) -> None:
    """Forward, look, chain view, compensate and shared sagas; and tell, which is a compensate."""
    cert, key = Authority(tmp_path).sign("payment", "payment")
    connection = Connection(url="https://p", client_cert=str(cert), client_key=str(key))
    credentials = {name: credentials_of(connection) for name in ("shipping", "order")}
    shows = Credentials({}, credentials)
    await shows.open()
    transport = ScriptedTransport(answered(500))
    to = http_peers(
        PeerClient(transport, clock=FixedClock()),
        externals={},
        downstreams={"shipping": "https://p"},
        upstreams={"order": "https://p"},
        credentials=shows,
    ).neighbours
    trace, asks = TraceContext(), CompensateRequest(requested_by="payment", reason="r")
    await to.forward("shipping", "s", b"{}", trace=trace, budget=None, timeout=1.0)
    await to.get_outcome("shipping", "s", trace=trace, timeout=1.0)
    await to.get_chain("shipping", "s", asked=(), hops=1, timeout=1.0, trace=trace)
    await to.get_shared("shipping", "payment", since=0.0, after="", timeout=1.0)
    for peer in ("shipping", "order"):
        await to.compensate(peer, "s", asks, trace=trace, timeout=1.0)
    assert 6 == len(transport.sent)
    assert all(isinstance(sent.tls, ssl.SSLContext) for sent in transport.sent)


async def test_an_expired_client_certificate_is_refused_and_later_kept_out(tmp_path: Path) -> None:
    """At start with the fix; while the stage runs the one of before is shown, and said to be."""
    authority, seconds = Authority(tmp_path), Seconds()
    hour = datetime.timedelta(hours=1)
    cert, key = authority.sign("payment", "payment", end=-hour)
    connection = Connection(url="https://p", client_cert=str(cert), client_key=str(key))
    with pytest.raises(ConfigurationError, match=r"client_cert .* has expired: renew it"):
        await credentials_of(connection).open()
    authority.sign("payment", "payment", end=hour)
    credentials = credentials_of(connection, seconds=seconds)
    await credentials.open()
    kept = (await credentials.show(REQUEST)).tls
    authority.sign("payment", "payment", end=-hour)
    seconds.now += LOOK_SECONDS
    assert kept is (await credentials.show(REQUEST)).tls
    (state,) = Credentials({"psp": credentials}, {}).states()
    assert state.refused and state.expires_at is not None
    assert 3_500 < state.expires_at - time.time() < 3_601


async def test_a_function_of_the_author_signs_what_leaves() -> None:
    """It sees the request as it leaves, the key among its headers."""

    async def sign(request: OutgoingRequest) -> Mapping[str, str]:
        return {"Signature": f"{request.method} {request.url} {dict(request.headers)}"}

    _, (sent,) = await exchanged(credentials_of(Connection(url=URL), sign))
    assert f"POST {URL}/charges {{'Idempotency-Key': 'k'}}" == sent["Signature"]


async def broken(request: OutgoingRequest) -> Mapping[str, str]:
    raise ValueError("s3cret")


async def wrong(request: OutgoingRequest) -> Mapping[str, str]:
    return {"X-Key": "s3cret\n"}


@pytest.mark.parametrize("function", [broken, wrong])
async def test_without_credentials_nothing_leaves_for_certain(
    function: CredentialsFunction,
) -> None:
    """It is tried again, and its reason, which is journaled, does not quote what was raised."""
    answer, sent = await exchanged(credentials_of(Connection(url=URL), function))
    assert isinstance(answer, Lost) and answer.certain and not sent
    assert answer.reason.startswith("not sent: psp: its credentials function ")
    assert "s3cret" not in answer.reason


def test_a_credential_is_not_shown_in_a_repr() -> None:
    """A traceback with local variables is a log as well."""
    assert "s3cret" not in repr(Shown((("Authorization", "s3cret"),)))


@asynccontextmanager
async def tls_server() -> AsyncIterator[TestServer]:
    """Answers with the name of the client's certificate; without one it does not talk."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CERTIFICATES / "ca.pem")
    context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        return web.json_response(dict(pair for (pair,) in peer["subject"])["commonName"])

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", who)
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def opened_transport() -> AsyncIterator[Transport]:
    transport = Transport()
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


def trusts(context: ssl.SSLContext | None, authority: Authority) -> bool:
    """Whether the certificate of the authority is among those that are believed."""
    assert context is not None
    der = ssl.PEM_cert_to_DER_cert(authority.file.read_text())
    return der in context.get_ca_certs(binary_form=True)


async def test_authorities_and_certificate_are_renewed_each_by_itself(tmp_path: Path) -> None:
    """A neighbour's new authority is believed beside a certificate that is half written."""
    (tmp_path / "next").mkdir()
    first, following = Authority(tmp_path), Authority(tmp_path / "next", "next")
    cert, key = first.sign("stage", "stage")
    ca, seconds, warned = tmp_path / "trusted", Seconds(), list[str]()
    ca.write_bytes(first.file.read_bytes())
    connection = Connection(
        url="https://psp", ca_file=str(ca), client_cert=str(cert), client_key=str(key)
    )
    credentials = credentials_of(connection, seconds=seconds, warned=warned)
    await credentials.open()
    before = credentials.state
    cert.write_bytes(cert.read_bytes()[:200])
    ca.write_bytes(following.file.read_bytes())
    seconds.now += LOOK_SECONDS
    renewed = (await credentials.show(REQUEST)).tls
    assert (True, False) == (trusts(renewed, following), trusts(renewed, first))
    (line,) = warned
    assert line.startswith("externals.psp.client_cert ") and line.endswith("is still used")
    first.sign("stage", "stage", end=60 * DAY)
    for wrong in (b"", b"# none\n", following.file.read_bytes()[:200]):
        ca.write_bytes(wrong)
        seconds.now += LOOK_SECONDS
        shown = (await credentials.show(REQUEST)).tls
        assert (True, False) == (trusts(shown, following), trusts(shown, first))
    after = credentials.state
    assert before is not None and after is not None and after.refused
    assert before.expires_at is not None and after.expires_at is not None
    assert before.expires_at < after.expires_at


async def test_client_certificates_are_shown_and_read_anew(tmp_path: Path) -> None:
    """After they are replaced a new connection is made; without the CA nothing leaves."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(name: str) -> None:
        shutil.copy(CERTIFICATES / f"{name}.pem", cert)
        shutil.copy(CERTIFICATES / f"{name}.key", key)

    put("client")
    seconds = Seconds()
    async with tls_server() as server, opened_transport() as transport:
        url = f"https://127.0.0.1:{server.port}"
        connection = Connection(
            url=url,
            ca_file=str(CERTIFICATES / "ca.pem"),
            client_cert=str(cert),
            client_key=str(key),
        )
        credentials = credentials_of(connection, seconds=seconds)
        await credentials.open()
        external = http_peers(
            PeerClient(transport, clock=FixedClock()),
            externals={"psp": url, "bare": url},
            downstreams={},
            upstreams={},
            credentials=Credentials({"psp": credentials}, {}),
        ).external
        names = []
        for name in ("server", "client", "server"):
            put(name)
            seconds.now += LOOK_SECONDS
            answer = await external.exchange(outgoing())
            assert isinstance(answer, Answer), answer
            names.append(answer.body)
        assert [b'"server"', b'"client"', b'"server"'] == names
        lost = await external.exchange(msgspec.structs.replace(outgoing(), peer="bare"))
        assert isinstance(lost, Lost) and lost.certain


def refuse(listening: socket.socket, context: ssl.SSLContext) -> list[bytes]:
    """Take one connection and try a handshake; what could be read of a request afterwards."""
    raw, _ = listening.accept()
    tls = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
    read = []
    with suppress(ssl.SSLError):
        tls.do_handshake()
        read.append(tls.recv(1))
    with socket.socket(fileno=tls.detach()) as ended:
        while ended.recv(65_536):  # until the other side has heard of it
            pass
    return read


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows", ["nothing", "another authority's", "expired"])
async def test_a_certificate_that_the_peer_does_not_take_has_no_effect(
    tmp_path: Path, shows: str, version: ssl.TLSVersion
) -> None:
    """In TLS 1.3 the request has left before the peer says so, and none of it was read."""
    (tmp_path / "other").mkdir()
    ours, other = Authority(tmp_path), Authority(tmp_path / "other", "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = server.maximum_version = version
    server.load_cert_chain(*ours.sign("psp", "127.0.0.1"))
    server.load_verify_locations(ours.file)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=ours.file)
    if shows != "nothing":
        end = -DAY / 2 if shows == "expired" else DAY
        client.load_cert_chain(*(ours if shows == "expired" else other).sign("a", "a", end=end))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/charges"
        async with opened_transport() as transport, asyncio.timeout(HANG_SECONDS):
            refusing = asyncio.create_task(asyncio.to_thread(refuse, listening, server))
            lost = await transport.send(
                "POST", url, headers=[], body=b"{}", timeout=10.0, tls=client
            )
            assert [] == await refusing
    assert isinstance(lost, Lost) and lost.certain, lost
    if version is ssl.TLSVersion.TLSv1_3:  # before, no connection comes about
        assert lost.denied and "refuses the certificate" in lost.reason
        assert "certificate" == lost.error


async def test_a_certificate_that_is_refused_while_the_last_look_waits_is_shown_once(
    tmp_path: Path, ended: asyncio.Queue[None]
) -> None:
    """Another connection would be refused as well; the reason is that of the peer."""
    ours = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.load_cert_chain(*ours.sign("psp", "127.0.0.1"))
    server.load_verify_locations(ours.file)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=ours.file)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listening, server))

        async def until_refused() -> None:
            await refusing
            await ended.get()

        transport = Transport(until_refused)
        await transport.open()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/charges"
        async with asyncio.timeout(HANG_SECONDS):
            lost = await transport.send(
                "POST", url, headers=[], body=b"{}", timeout=5.0, tls=client
            )
        await transport.close()
    assert isinstance(lost, Lost) and lost.certain and lost.denied, lost
    assert "refuses the certificate" in lost.reason


async def test_an_alert_on_a_connection_that_has_answered_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer took the certificate once, so that it may have read the request before its alert."""
    converse, cuts = transport_module._converse, iter((True, False, True))

    async def cut_off(*request: Any) -> Answer | Lost:
        answer = await converse(*request)
        if next(cuts):  # it ends the connection with the request in its hands
            raise aiohttp.ClientOSError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] expired")
        return answer

    monkeypatch.setattr(transport_module, "_converse", cut_off)
    tls = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    tls.load_cert_chain(CERTIFICATES / "client.pem", CERTIFICATES / "client.key")
    async with tls_server() as server, opened_transport() as transport:
        url = str(server.make_url("/"))
        sent = [
            await transport.send("POST", url, headers=[], body=b"{}", timeout=5.0, tls=tls)
            for _ in range(3)
        ]
    new, answered_once, kept = sent
    assert isinstance(new, Lost) and new.certain and new.denied, new
    assert isinstance(answered_once, Answer), answered_once
    assert isinstance(kept, Lost) and not kept.certain and not kept.denied, kept


async def test_a_new_token_is_shown_beside_a_certificate_that_cannot_be_used(
    tmp_path: Path,
) -> None:
    """Nor keeps a token that cannot be read a new certificate or a new secret from being used."""
    cert, key = Authority(tmp_path).sign("stage", "stage")
    token, hook, seconds = tmp_path / "token", tmp_path / "hook", Seconds()
    connection = Connection(
        url="https://psp",
        bearer_file=secret(token, "old"),
        client_cert=str(cert),
        client_key=str(key),
        webhook_secret_file=secret(hook, "s1"),
    )
    warned: list[str] = []
    credentials = credentials_of(connection, seconds=seconds, warned=warned)
    await credentials.open()
    first = await credentials.show(REQUEST)
    whole = cert.read_bytes()
    cert.write_bytes(whole[:100])
    secret(token, "new")
    secret(hook, "s2")
    seconds.now += LOOK_SECONDS
    shown = await credentials.show(REQUEST)
    assert ("Authorization", "Bearer new") in shown.headers
    assert first.tls is shown.tls
    assert (b"s2",) == await credentials.webhook_secrets()
    (line,) = warned
    assert line.startswith("externals.psp.client_cert") and line.endswith("is still used")
    assert credentials.state is not None and credentials.state.refused
    secret(token, "")
    cert.write_bytes(whole)
    seconds.now += LOOK_SECONDS
    shown = await credentials.show(REQUEST)
    assert ("Authorization", "Bearer new") in shown.headers
    assert first.tls is not shown.tls
    assert 2 == len(warned)
