"""Clients that send slowly, read nothing, open too much or come late, at our own server."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import cast

import aiohttp
import msgspec
import pytest
from aiohttp import web

from stage.bootstrap import build_app
from stage.config import Config
from stage.demo.payment import payment
from stage.inbound.aiohttp import SERVICE
from stage.inbound.aiohttp_connection import GIVE_WAY_SECONDS, BoundedProtocol, ServerLimits
from stage.inbound.aiohttp_runner import BoundedRunner
from stage.inbound.aiohttp_server import BoundedServer, Reports
from stage.telemetry.null import NullObserver
from tests.kept_port import kept_port
from tests.scenario.chain import HOST
from tests.waits import HANG_SECONDS, until

SECONDS = 0.5
"""Instead of ten."""
GONE_SECONDS = HANG_SECONDS
"""Far less than the time of an idle connection, and room for a busy machine."""
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """One stage behind a real port, and the connections that a test opens to it."""

    def __init__(self, port: int, app: web.Application, runner: BoundedRunner) -> None:
        assert runner.server is not None
        self.port = port
        self.app = app
        self.runner = runner
        self.server = cast(BoundedServer, runner.server)
        self.turned_away: list[int] = []
        self.drained = asyncio.Event()
        """Until it is set, the drain goes on."""
        self.clients: list[Client] = []

    @contextmanager
    def timeless(self) -> Iterator[None]:
        """No time of a connection goes by, however long a busy machine takes."""
        now = self.server.now
        at = now()
        self.server.now = lambda: at
        try:
            yield
        finally:
            self.server.now = now

    async def connect(self) -> Client:
        self.clients.append(await asyncio.open_connection(HOST, self.port))
        return self.clients[-1]

    async def say(self, data: bytes) -> Client:
        """A new connection, and these bytes on it."""
        client = await self.connect()
        client[1].write(data)
        return client

    @property
    def waiting(self) -> int:
        """Connections of which no request is being answered."""
        return sum(self.server.is_waiting(each) for each in self.server.connections)  # type: ignore[arg-type]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return once that holds of the connections, which tell nobody when they close."""
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def healthy(self) -> bool:
        reader, writer = await self.say(HEAD)
        async with asyncio.timeout(HANG_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return head.startswith(b"HTTP/1.1 200")


class Defects(NullObserver):
    """Keeps what counts as a defect."""

    def __init__(self) -> None:
        self.raised: list[BaseException] = []

    def defect(self, where: str, saga_id: str, trace: object, error: BaseException) -> None:
        self.raised.append(error)


@asynccontextmanager
async def serving(
    folder: Path,
    connections_max: int = 1_000,
    seconds: float = SECONDS,
    idle_seconds: float = 75.0,
) -> AsyncIterator[Served]:
    limits = ServerLimits(
        connections_max=connections_max,
        head_seconds_max=seconds,
        answer_seconds_max=seconds,
        idle_seconds_max=idle_seconds,
    )
    with kept_port() as port:
        async with _serving(folder, f"http://{HOST}:{port}", limits) as served:
            yield served


@asynccontextmanager
async def _serving(folder: Path, dead: str, limits: ServerLimits) -> AsyncIterator[Served]:
    config = Config(
        auth="none",
        database=f"sqlite:///{folder / 'payment.db'}",
        externals={"psp": dead},
        downstreams={"shipping": dead},
    )
    app = build_app(payment, config, observer=Defects())
    turned_away: list[int] = []
    drained = asyncio.Event()
    drained.set()

    async def drain(_app: web.Application) -> None:
        await drained.wait()

    app.on_shutdown.append(drain)
    runner = BoundedRunner(app, limits, Reports(turned_away.append))
    await runner.setup()
    port = await runner.listen(HOST, 0, 128)
    served = Served(port, app, runner)
    served.turned_away, served.drained = turned_away, drained
    try:
        yield served
    finally:
        for _, writer in served.clients:
            writer.close()
        await runner.cleanup()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server closed the connection, within GONE_SECONDS."""
    with suppress(ConnectionError):
        try:
            async with asyncio.timeout(GONE_SECONDS):
                while await reader.read(65_536):
                    pass
        except TimeoutError:
            return False
    return True


def defects(served: Served) -> list[BaseException]:
    observer = served.app[SERVICE].observer
    assert isinstance(observer, Defects)
    return observer.raised


async def test_a_head_that_comes_byte_by_byte_is_cut_off(tmp_path: Path) -> None:
    """100 of them, on new connections and behind a request that was answered."""
    async with serving(tmp_path) as served:
        fresh = [await served.say(b"GET /hea") for _ in range(50)]
        used = [await served.say(HEAD) for _ in range(50)]
        for reader, writer in used:
            await reader.readuntil(b'"ok"}')
            writer.write(b"GET /hea")

        async def drip(writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while not writer.is_closing():
                    writer.write(b"l")
                    await asyncio.sleep(0.1)

        drips = [asyncio.create_task(drip(writer)) for _, writer in (*fresh, *used)]
        assert await served.healthy()
        assert all(await asyncio.gather(*(ended(reader) for reader, _ in (*fresh, *used))))
        for task in drips:
            task.cancel()
        assert await served.healthy()


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        reader, _ = await served.connect()
        assert await ended(reader)


async def test_a_connection_between_two_requests_is_kept(tmp_path: Path) -> None:
    """For as long as proxies keep theirs, which is longer than a head may take."""
    async with serving(tmp_path) as served:
        reader, writer = await served.say(HEAD)
        await reader.readuntil(b'"ok"}')
        await asyncio.sleep(SECONDS + 1.2)
        writer.write(HEAD)
        async with asyncio.timeout(HANG_SECONDS):
            assert b"200" in await reader.readuntil(b'"ok"}')


async def test_an_answer_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    """The connection is aborted: what waits in our memory is bounded in time."""
    async with serving(tmp_path) as served:
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        clients = [await served.connect() for _ in range(5)]
        with served.timeless():
            for _, writer in clients:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(ask * 400)
            await asyncio.sleep(0.2)
            assert 5 == len(served.server.connections)  # all are stuck
        await until(lambda: not served.server.connections)
        assert await served.healthy()


async def test_beyond_the_limit_the_connection_that_waits_longest_gives_way(
    tmp_path: Path,
) -> None:
    """So connections that say nothing keep nobody out: they have a head start of half a second."""
    async with serving(tmp_path, connections_max=50) as served:
        used = [await served.say(HEAD) for _ in range(50)]
        await asyncio.sleep(GIVE_WAY_SECONDS + 0.2)
        for _ in range(20):
            assert await served.healthy()
        assert await ended(used[0][0])
        assert [] == served.turned_away


async def test_where_all_are_busy_a_new_connection_is_answered_503(tmp_path: Path) -> None:
    """With Retry-After, and a line of the log says how many."""
    async with serving(tmp_path, connections_max=10) as served:
        body = b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        busy = [await served.say(body + b"Content-Length: 100\r\n\r\n{") for _ in range(10)]
        await served.until(lambda: 10 == len(served.server.connections) - served.waiting)
        reader, _ = await served.connect()
        async with asyncio.timeout(HANG_SECONDS):
            answer = await reader.read()
        head, _, problem = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503") and b"Retry-After: 1" in head
        assert "unknown" == msgspec.json.decode(problem)["outcome"]  # nobody knows which saga
        assert [1] == served.turned_away
        for _, writer in busy:
            writer.close()


def _lines(record: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.handler.format(each) for each in record.records)


MALFORMED: tuple[Callable[[], bytes], ...] = (
    lambda: b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nBad Header\r\n\r\n",
    lambda: b"GET / HTTP/1.1\r\nAuthorization: Bearer s3cret\x01\r\n\r\n",
    lambda: b"GET / HTTP/1.1\r\nAuthorization: s3cret" + b"x" * 9_000 + b"\r\n\r\n",
    lambda: b"G\xffT / HTTP/1.1\r\nAuthorization: s3cret\r\n\r\n",
    lambda: b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: s3cret\r\nContent-Length: x\r\n\r\n",
)


@pytest.mark.parametrize("made", MALFORMED)
async def test_bytes_that_are_no_http_get_a_problem_and_are_quoted_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Callable[[], bytes]
) -> None:
    """400 as application/problem+json; aiohttp printed the head, credentials included."""
    caplog.set_level(logging.INFO)
    async with serving(tmp_path) as served:
        reader, _ = await served.say(made())
        async with asyncio.timeout(HANG_SECONDS):
            answer = await reader.read()
        head, _, problem = answer.partition(b"\r\n\r\n")
        assert b"400" == head.split()[1], answer
        assert b"application/problem+json" in head
        assert "not_executed" == msgspec.json.decode(problem)["outcome"]
        assert b"aiohttp" not in answer and b"Python" not in answer
        assert "s3cret" not in _lines(caplog) and b"s3cret" not in answer
        assert [] == defects(served)


async def test_a_client_that_hangs_up_within_its_body_is_no_defect(tmp_path: Path) -> None:
    """It pages nobody."""
    async with serving(tmp_path) as served:
        for length in (
            b"Content-Length: 100\r\n\r\n{",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        ):
            head = b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            _, writer = await served.say(head + length)
            await asyncio.sleep(0.1)
            writer.transport.abort()
        await asyncio.sleep(0.3)
        assert [] == defects(served)


@pytest.mark.parametrize("path", ["/sagas", "/sagas/s-1/compensate", "/nowhere", "/healthz"])
async def test_a_compressed_body_is_never_unpacked(tmp_path: Path, path: str) -> None:
    """20 MiB of zeros in 20 KiB: less than 0.1 s of CPU, and no saga."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(20 << 20)) + packer.flush()
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with serving(tmp_path) as served, aiohttp.ClientSession() as session:
        url = f"http://{HOST}:{served.port}{path}"
        async with session.post(url, data=b"{}", headers=headers) as response:
            await response.read()
        took: list[float] = []
        for _ in range(3):
            began = time.process_time()
            async with session.post(url, data=bomb, headers=headers) as response:
                assert response.status in ({415} if "sagas" in path else {404, 405})
                assert "stage" == response.headers["Server"]
            took.append(time.process_time() - began)
        assert 0.1 > min(took)  # what else the process does counts as well


@pytest.mark.blocking
async def test_a_connection_that_nobody_has_accepted_is_answered_before_the_end(
    tmp_path: Path,
) -> None:
    """The kernel has made it while the port closes: a reset would lose the request on it."""
    async with serving(tmp_path) as served:
        clients = [socket.create_connection((HOST, served.port)) for _ in range(20)]
        for client in clients[:10]:
            client.sendall(HEAD)  # the event loop does not run: nobody has accepted it
        with served.timeless():
            ending = asyncio.create_task(served.runner.cleanup())
            await asyncio.sleep(0.1)
            for client in clients[10:]:
                client.sendall(HEAD)
        await ending
        for client in clients:
            with client:
                answer = client.recv(65_536)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                assert b"connection: close" in answer.lower()
        with pytest.raises(ConnectionRefusedError):
            await served.connect()


async def test_each_answer_of_a_stage_that_retires_is_the_last_of_its_connection(
    tmp_path: Path,
) -> None:
    """Its proxy opens another one: nothing is sent on a connection that is about to close."""
    async with serving(tmp_path) as served:
        reader, writer = await served.say(HEAD)
        assert b"close" not in (await reader.readuntil(b'"ok"}')).lower()
        served.runner.retire()
        writer.write(HEAD)
        assert b"connection: close" in (await reader.readuntil(b'"ok"}')).lower()
        assert b"" == await reader.read()
        assert await served.healthy()


async def test_a_request_that_comes_as_its_connection_is_closed_is_answered(
    tmp_path: Path,
) -> None:
    """It was in the kernel, and the event loop had not read it: a proxy repeats no POST."""
    async with serving(tmp_path) as served:
        with socket.create_connection((HOST, served.port)) as late:
            await served.until(lambda: bool(served.server.connections))
            late.setblocking(False)
            late.sendall(HEAD)  # nothing is awaited until the connection is closed
            served.server.pre_shutdown()
            async with asyncio.timeout(HANG_SECONDS):
                head = await asyncio.get_running_loop().sock_recv(late, 65_536)

    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head.lower()


async def test_the_other_side_of_an_idle_connection_hears_of_its_end_at_once(
    tmp_path: Path,
) -> None:
    """Not some turns of the event loop later, for it may send a request in between."""
    async with serving(tmp_path) as served:
        with socket.create_connection((HOST, served.port)) as idle:
            idle.sendall(HEAD)
            await served.until(lambda: bool(served.server.connections))
            idle.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(HANG_SECONDS):
                assert await loop.sock_recv(idle, 65_536)
                [protocol] = served.server.connections
                assert isinstance(protocol, BoundedProtocol)
                await served.until(lambda: served.server.is_waiting(protocol))

            served.server.pre_shutdown()

            assert b"" == idle.recv(1)  # BlockingIOError where it has not heard of it


async def test_the_rest_of_an_answer_reaches_its_reader_as_its_connection_is_closed(
    tmp_path: Path,
) -> None:
    """It was made and lay here, as its reader is slow: no request is being answered then."""
    length = 8 << 20
    async with serving(tmp_path, seconds=10.0) as served:
        reader, _ = await served.say(HEAD)
        await reader.readuntil(b'"ok"}')
        [protocol] = served.server.connections
        assert isinstance(protocol, BoundedProtocol) and protocol.transport is not None
        await served.until(lambda: served.server.is_waiting(protocol))
        protocol.transport.write(bytes(length))

        served.server.pre_shutdown()

        async with asyncio.timeout(HANG_SECONDS):
            assert length == len(await reader.read())


async def test_a_connection_without_a_request_is_closed_before_the_drain(tmp_path: Path) -> None:
    """aiohttp keeps it open until the end of the drain, and reads no request that comes on it."""
    async with serving(tmp_path) as served:
        reader, writer = await served.say(HEAD)
        await reader.readuntil(b'"ok"}')
        served.drained.clear()
        ending = asyncio.create_task(served.runner.cleanup())
        async with asyncio.timeout(HANG_SECONDS):
            assert b"" == await reader.read()
        writer.close()
        assert not ending.done()
        served.drained.set()
        await ending
