"""Callers by certificate, against the listener of `stage serve`: who gets in, and under which name.

Each defect of a certificate is refused, and every renewal of a file is taken up without a restart.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from stage.bootstrap import build_app, wiring
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment
from stage.inbound.aiohttp_connection import ServerLimits
from stage.inbound.aiohttp_runner import BoundedRunner
from stage.inbound.aiohttp_server import Reports
from stage.inbound.tls import ListenerFiles, ListenerTls
from stage.outbound.transport import Transport
from stage.ports.connection import Connection
from stage.ports.file_marks import LOOK_SECONDS
from stage.ports.operator import Operator, Role
from stage.ports.stage import Lost
from tests.certificates import DAY, Authority
from tests.kits import Strikes
from tests.scenario.attacks.names import bearer, token_of, write_accepted
from tests.scenario.chain import AT, HOST, ORDER
from tests.waits import HANG_SECONDS, until

Pair = tuple[Path, Path]
SECONDS = 0.5
SECONDS_MAX = 10.0


class Served:
    """One stage behind TLS. `order` and `web` are upstreams, `kim` may see everything.

    `olga` may do what an operator does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority(folder)
        self.url = ""
        self.port = 0
        self.warned: list[str] = []
        self.failed: list[tuple[int, str]] = []
        self.server = self.ca.sign("payment", "localhost", HOST)
        self.tls = ListenerTls(
            ListenerFiles(
                cert=str(self.server[0]), key=str(self.server[1]), client_ca=str(self.ca.file)
            ),
            warn=self.warned.append,
        )

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """The TLS of a caller that shows that certificate."""
        context = ssl.create_default_context(cafile=self.ca.file)
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    @asynccontextmanager
    async def caller(self, pair: Pair | None = None) -> AsyncIterator[Caller]:
        connector = aiohttp.TCPConnector(ssl=self.context(pair))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Caller(self.url, session)


class Caller:
    """One caller, with connections of its own."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def start(self, name: str = "order", saga_id: str = "s-1", **headers: str) -> int:
        """The code of a request to run a saga, which then fails: nobody is downstream."""
        body = {"saga_id": saga_id, "data": ORDER, "trail": [{"stage": name, "at": AT}]}
        return await self.send("POST", "/sagas", body, Prefer="wait=0", **headers)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        """The code of the answer; 0 where the handshake fails."""
        sent = None if body is None else msgspec.json.encode(body)
        return (await self.exchange(method, path, sent, **headers))[0]

    async def exchange(
        self, method: str, path: str, body: bytes | None, **headers: str
    ) -> tuple[int, bytes]:
        """The code and the bytes of the answer; 0 and none where the handshake fails."""
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=body,
                headers={"Content-Type": "application/json", **headers},
            ) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientError:
            return 0, b""


NOBODY = f"http://{HOST}:9"


@asynccontextmanager
async def serving(
    folder: Path, *, shipping: str = NOBODY, psp: str = NOBODY, **limits: Any
) -> AsyncIterator[Served]:
    """A stage in this process; `limits` are those of its listener."""
    served = Served(folder)
    write_accepted(folder, "order", token_of("order"))
    await served.tls.open()
    config = Config(
        database=f"sqlite:///{folder / 'payment.db'}",
        tls_client_ca=str(served.ca.file),
        upstreams={
            "order": Connection(accept_file=str(folder / "order.accept"), formerly=("shop",)),
            "web": Connection(accept_san="spiffe://example/web", formerly=("site",)),
        },
        downstreams={"shipping": shipping},
        externals={"psp": psp},
        operators={
            "kim": Operator(accept_san="kim.example", role=Role.VIEWER),
            "olga": Operator(accept_san="olga.example", role=Role.OPERATOR),
        },
        drain_seconds=0.0,
    )
    app = build_app(payment, config, served=wiring.Served(listens=True, tls=served.tls))
    reports = Reports(lambda _: None, lambda count, why: served.failed.append((count, why)))
    runner = BoundedRunner(app, ServerLimits(**limits), reports, served.tls)
    await runner.setup()
    served.port = await runner.listen(HOST, 0, 64)
    served.url = f"https://{HOST}:{served.port}"
    try:
        yield served
    finally:
        await runner.cleanup()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as found:
        yield found


async def test_a_certificate_is_a_name(served: Served) -> None:
    """A host or a URI among its alternative names; operators have one that is set."""
    async with served.caller(served.ca.sign("a", "order")) as order:
        assert 202 == await order.start("order", "s-1")
        assert 403 == await order.start("web", "s-2")
        assert 403 == await order.send("GET", "/sagas")
    async with served.caller(served.ca.sign("b", "spiffe://example/web")) as web:
        assert 202 == await web.start("web", "s-3")
        assert 403 == await web.send("GET", "/sagas/s-1")
    async with served.caller(served.ca.sign("c", "kim.example")) as kim:
        assert 200 == await kim.send("GET", "/sagas/s-1")
        assert 403 == await kim.send("POST", "/sagas/s-1/forget", {"reason": "x"})


async def test_a_certificate_of_a_former_name_counts_where_no_other_is_set(served: Served) -> None:
    """The former name may be that of another service by now, which `accept_san` keeps out."""
    async with served.caller(served.ca.sign("a", "shop")) as order:
        assert 202 == await order.start("order", "s-1")
        assert 202 == await order.start("shop", "s-2")
    async with served.caller(served.ca.sign("b", "site")) as another:
        assert 401 == await another.start("web", "s-3")
        assert 401 == await another.start("site", "s-4")
    async with served.caller(served.ca.sign("c", "spiffe://example/web")) as web:
        assert 202 == await web.start("site", "s-5")


async def test_a_token_stands_beside_a_certificate(served: Served) -> None:
    """A caller without a certificate may show one. Two that contradict each other name nobody."""
    token = bearer(token_of("order"))
    async with served.caller() as nobody:
        assert 202 == await nobody.start("order", "s-1", Authorization=token)
        assert 401 == await nobody.start("order", "s-2")
    async with served.caller(served.ca.sign("a", "order")) as order:
        assert 202 == await order.start("order", "s-3", Authorization=token)
        assert 401 == await order.start("order", "s-4", Authorization=bearer("w" * 43))
    async with served.caller(served.ca.sign("b", "spiffe://example/web")) as web:
        assert 401 == await web.start("web", "s-5", Authorization=token)
    async with served.caller(served.ca.sign("c", "gateway")) as gateway:
        assert 202 == await gateway.start("order", "s-6", Authorization=token)


def defects(folder: Path, ca: Authority) -> dict[str, Pair | None]:
    """A certificate with each defect."""
    (folder / "other").mkdir()
    other = Authority(folder / "other", "other")
    return {
        "none": None,
        "expired": ca.sign("expired", "order", end=-datetime.timedelta(hours=1)),
        "not valid yet": ca.sign("early", "order", begin=DAY),
        "another authority's": other.sign("forged", "order"),
        "another peer's": ca.sign("another", "spiffe://example/web"),
        "without a name": ca.sign("order"),
        "of a longer name": ca.sign("longer", "order.example"),
        "of any name": ca.sign("any", "*"),
        "of two peers": ca.sign("two", "order", "spiffe://example/web"),
        "of an operator by its own name": ca.sign("kim", "kim"),
    }


@pytest.mark.parametrize("defect", ["expired", "another authority's"])
async def test_a_stage_whose_certificate_is_refused_knows_that_nothing_happened(
    served: Served, tmp_path: Path, defect: str
) -> None:
    """The listener says why, also to a request that has left: its sender is in no doubt."""
    transport = Transport()
    await transport.open()
    context = served.context(defects(tmp_path, served.ca)[defect])
    url = f"{served.url}/sagas/s-1"
    lost = await transport.send("GET", url, headers=[], body=b"", timeout=SECONDS_MAX, tls=context)
    await transport.close()
    assert isinstance(lost, Lost) and (True, True) == (lost.certain, lost.denied), lost


@pytest.mark.kit("F17")
async def test_every_defect_of_a_certificate_is_refused(
    served: Served, tmp_path: Path, strikes: Strikes
) -> None:
    """At the handshake, as nobody (401), or as somebody else (403). No saga comes to be."""
    found = {}
    for name, pair in defects(tmp_path, served.ca).items():
        async with served.caller(pair) as caller:
            found[name] = await caller.start("order")
    strikes.report("refusals", len(found), violations=sum(code == 202 for code in found.values()))
    assert found == {
        "none": 401,
        "expired": 0,
        "not valid yet": 0,
        "another authority's": 0,
        "another peer's": 403,
        "without a name": 401,
        "of a longer name": 401,
        "of any name": 401,
        "of two peers": 401,
        "of an operator by its own name": 401,
    }
    assert "certificate has expired" in served.failed[0][1]
    async with served.caller(served.ca.sign("c", "kim.example")) as kim:
        assert 404 == await kim.send("GET", "/sagas/s-1")


async def test_a_renewed_certificate_is_taken_up_and_no_connection_is_lost(
    served: Served,
) -> None:
    """New connections are shown the new one; a mismatch half-way changes nothing."""
    order = served.ca.sign("a", "order")
    async with served.caller(order) as kept:
        assert 202 == await kept.start("order", "s-1")
        before = served.tls.in_force.context
        served.server[1].write_bytes(order[1].read_bytes())  # the key of another one
        assert not await served.tls.renew()
        assert served.tls.in_force.context is before
        assert [True, False] == [state.refused for state in served.tls.states()]
        assert "the key belongs to another certificate" in served.warned[0]
        served.ca.sign("payment", "localhost", HOST, end=60 * DAY)
        assert not await served.tls.renew()
        assert served.tls.in_force.context is not before
        assert [False, False] == [state.refused for state in served.tls.states()]
        assert 200 == await kept.send("GET", "/sagas/s-1")
    async with served.caller(order) as renewed:
        assert 200 == await renewed.send("GET", "/sagas/s-1")


@pytest.mark.parametrize("wrong", ["half", "empty", "gone"])
async def test_a_certificate_is_renewed_beside_authorities_that_cannot_be_used(
    served: Served, wrong: str
) -> None:
    """Its callers stay; otherwise it would expire because nobody looked at the other file."""
    order = served.ca.sign("a", "order")
    whole = served.ca.file.read_bytes()
    async with served.caller(order) as kept:
        assert 202 == await kept.start("order", "s-1")
        before = served.tls.in_force
        if wrong == "gone":
            served.ca.file.unlink()
        else:
            served.ca.file.write_bytes(whole[:200] if wrong == "half" else b"")
        assert not await served.tls.renew()
        assert served.tls.in_force is before
        served.ca.sign("payment", "localhost", HOST, end=60 * DAY)
        assert not await served.tls.renew()
        renewed = served.tls.in_force
        assert before.expires_at < renewed.expires_at and before.trust == renewed.trust
        assert [False, True] == [state.refused for state in served.tls.states()]
        assert not await served.tls.renew()
        assert served.tls.in_force is renewed
        (line,) = served.warned
        assert line.startswith("tls_client_ca ") and line.endswith("is still used")
        assert 200 == await kept.send("GET", "/sagas/s-1")
    served.ca.file.write_bytes(whole)
    async with served.caller(order) as again:
        assert 200 == await again.send("GET", "/sagas/s-1")
    assert not await served.tls.renew()
    assert [False, False] == [state.refused for state in served.tls.states()]


@pytest.mark.parametrize("wrong", ["half", "empty", "gone", "of another key"])
async def test_authorities_are_renewed_beside_a_certificate_that_cannot_be_used(
    served: Served, tmp_path: Path, wrong: str
) -> None:
    """One that was taken out lets nobody in, and the certificate of before is shown on."""
    (tmp_path / "next").mkdir()
    following = Authority(tmp_path / "next", "next")
    old, new = served.ca.sign("a", "order"), following.sign("b", "order")
    before, (cert, key) = served.tls.in_force, served.server
    whole = key.read_bytes() if wrong == "of another key" else cert.read_bytes()
    if wrong == "gone":
        cert.unlink()
    elif wrong == "of another key":
        key.write_bytes(old[1].read_bytes())
    else:
        cert.write_bytes(whole[:200] if wrong == "half" else b"")
    trusted, served.ca.file = served.ca.file, tmp_path / "of the server.pem"
    served.ca.file.write_bytes(trusted.read_bytes())
    trusted.write_bytes(following.file.read_bytes())
    assert await served.tls.renew()
    renewed = served.tls.in_force
    assert before.trust != renewed.trust and before.expires_at == renewed.expires_at
    assert [True, False] == [state.refused for state in served.tls.states()]
    (line,) = served.warned
    assert line.startswith("tls_cert ") and line.endswith("is still used")
    assert not await served.tls.renew()
    assert renewed is served.tls.in_force
    async with served.caller(new) as caller:
        assert 202 == await caller.start("order", "s-1")
    async with served.caller(old) as nobody:
        assert 0 == await nobody.start("order", "s-2")


@pytest.mark.parametrize("first", ["replaced", "read"])
async def test_the_authorities_in_force_are_those_that_were_read(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Also where the file is replaced meanwhile: no caller of the former ones stays."""
    (tmp_path / "next").mkdir()
    following = Authority(tmp_path / "next", "next").file.read_bytes()
    read = Path.read_bytes

    def meanwhile(path: Path) -> bytes:
        if first == "read":
            found = read(path)
            path.write_bytes(following)
            return found
        path.write_bytes(following)
        return read(path)

    served.ca.file.write_bytes(served.ca.file.read_bytes() + following)
    monkeypatch.setattr(Path, "read_bytes", meanwhile)
    assert await served.tls.renew()
    between = served.tls.in_force
    monkeypatch.undo()
    await served.tls.renew()
    latest = served.tls.in_force
    trusted = [each.context.get_ca_certs(binary_form=True) for each in (between, latest)]
    assert 1 == len(trusted[1])
    assert (between.trust == latest.trust) == (trusted[0] == trusted[1])


async def test_an_authority_that_was_taken_out_lets_nobody_in(
    served: Served, tmp_path: Path
) -> None:
    """Its callers are out within two seconds, those with an open connection as well."""
    assert LOOK_SECONDS < 2.0
    (tmp_path / "next").mkdir()
    order = served.ca.sign("a", "order")
    async with served.caller(order) as old:
        assert 202 == await old.start("order", "s-1")
        following = Authority(tmp_path / "next", "next")
        trusted = served.ca.file.read_bytes()
        before = served.tls.in_force.trust
        served.ca.file.write_bytes(trusted + following.file.read_bytes())
        await until(lambda: before != served.tls.in_force.trust)
        assert 200 == await old.send("GET", "/sagas/s-1")  # both hold while it is rotated
        async with served.caller(order) as still:
            assert 200 == await still.send("GET", "/sagas/s-1")
            served.ca.file.write_bytes(following.file.read_bytes())

            async def out() -> bool:
                return 0 == await still.send("GET", "/sagas/s-1")

            await until(out)


async def test_a_connection_does_not_outlive_its_certificate(served: Served) -> None:
    """It was valid at the handshake; when its time is over, its caller has no name any more."""
    seconds = 5.0
    over_at = time.time() + seconds
    short = served.ca.sign("short", "order", end=datetime.timedelta(seconds=seconds))
    async with served.caller(short) as order:
        assert 202 == await order.start("order", "s-1")
        await asyncio.sleep(over_at - time.time() + 0.5)
        assert 401 == await order.send("GET", "/sagas/s-1")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_versions_of_the_protocol_are_refused(served: Served) -> None:
    """TLS 1.1 is turned away, 1.2 is not."""
    for version, welcome in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = served.context()
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        try:
            _, writer = await asyncio.open_connection(HOST, served.port, ssl=context)
            writer.close()
            came_in = True
        except (OSError, ssl.SSLError):
            came_in = False
        assert welcome == came_in, version


async def test_a_handshake_that_does_not_end_is_counted_and_cut_off(tmp_path: Path) -> None:
    """Silent strangers take no more than the places of all connections, and give way."""
    async with serving(tmp_path, connections_max=8, head_seconds_max=1.5) as served:
        silent = [await asyncio.open_connection(HOST, served.port) for _ in range(8)]
        await asyncio.sleep(0.7)
        async with served.caller(served.ca.sign("a", "order")) as order:
            assert 202 == await order.start("order", "s-1")
        for reader, writer in silent:
            async with asyncio.timeout(HANG_SECONDS):
                assert b"" == await _until_closed(reader)
            writer.close()


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "wrong, fix",
    [
        ("expired", "has expired: renew it"),
        ("early", "is not valid yet: look at the clock of this machine, or renew it"),
        ("mismatched", "the key belongs to another certificate"),
        ("missing", "cannot be read (No such file or directory): write it"),
        ("no PEM", "it is not PEM"),
    ],
)
async def test_files_that_cannot_be_used_are_refused_at_start(
    tmp_path: Path, wrong: str, fix: str
) -> None:
    """With the place, the file and the fix."""
    ca = Authority(tmp_path)
    cert, key = ca.sign(
        "payment",
        HOST,
        end=-datetime.timedelta(hours=1) if wrong == "expired" else DAY,
        begin=datetime.timedelta(hours=1) if wrong == "early" else -DAY,
    )
    if wrong == "mismatched":
        key = ca.sign("other", HOST)[1]
    elif wrong == "missing":
        key.unlink()
    elif wrong == "no PEM":
        cert.write_text("secret")
    tls = ListenerTls(ListenerFiles(cert=str(cert), key=str(key)), warn=print)
    with pytest.raises(ConfigurationError) as caught:
        await tls.open()
    assert fix in str(caught.value)
    assert str(caught.value).startswith("tls_cert ") and "secret" not in str(caught.value)


async def test_authorities_that_cannot_be_used_are_refused_at_start(tmp_path: Path) -> None:
    """A certificate of a caller is no authority."""
    ca = Authority(tmp_path)
    cert, key = ca.sign("payment", HOST)
    tls = ListenerTls(ListenerFiles(cert=str(cert), key=str(key), client_ca=str(cert)), warn=print)
    with pytest.raises(ConfigurationError, match=r"tls_client_ca .* holds no certificate of an"):
        await tls.open()
