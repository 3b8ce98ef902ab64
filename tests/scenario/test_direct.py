"""The same request by the router and without it: two answers that nobody can tell apart."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.scenario.attacks.test_slow_clients import Served, serving
from tests.waits import HANG_SECONDS

ITS_OWN = re.compile(rb"Date: [^\r]*|[0-9a-f]{32}")
"""The parts of an answer that differ between two equal requests: its second, and its trace."""

COMPENSATE = b'{"requested_by":"order","reason":"asked"}'
STARTED = b'{"saga_id":"s-1","protocol":1,"data":{"order_id":"o-1","amount":1,"currency":"EUR"}}'
REFUSED = b'{"saga_id":"s-2","protocol":1,"data":{"order_id":"o-1"}}'


async def answer(served: Served, target: bytes, body: bytes, kind: bytes) -> bytes:
    head = (b"POST %s HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: %s", b"Prefer: respond-async",
            b"Content-Length: %d", b"Connection: close", b"", b"")  # fmt: skip
    text = b"\r\n".join(head) % (target, kind, len(body)) + body
    reader, writer = await served.say(text)
    answered = await reader.read()
    writer.close()
    return ITS_OWN.sub(b"", answered)


@pytest.mark.parametrize(
    "body,kind,code",
    [
        (STARTED, b"application/json", b"202"),
        (REFUSED, b"application/json", b"410"),
        (STARTED, b"text/plain", b"415"),
        (b"", b"application/json", b"400"),
    ],
)
async def test_a_direct_answer_is_that_of_the_router(
    tmp_path: Path, body: bytes, kind: bytes, code: bytes
) -> None:
    """A start, a saga whose payload was not taken, a type that is not JSON, and nothing at all."""
    async with serving(tmp_path) as served:
        await answer(served, b"/sagas", body, kind)  # so that both are repeats
        direct = await answer(served, b"/sagas", body, kind)
        routed = await answer(served, b"/sagas?", body, kind)

    assert direct.startswith(b"HTTP/1.1 " + code)
    assert direct == routed


@pytest.mark.parametrize(
    "path,body,kind,code",
    [
        (b"/sagas/s-1/compensate", COMPENSATE, b"application/json", b"200"),
        (b"/sagas/never-seen/compensate", COMPENSATE, b"application/json", b"200"),
        (b"/sagas/s-1/compensate", b'{"reason":1}', b"application/json", b"422"),
        (b"/sagas/s-1/compensate", COMPENSATE, b"text/plain", b"415"),
    ],
)
async def test_a_direct_request_to_compensate_is_that_of_the_router(
    tmp_path: Path, path: bytes, body: bytes, kind: bytes, code: bytes
) -> None:
    """A saga that was started, one that was never seen, a defect in the body, another type."""
    async with serving(tmp_path) as served:
        await answer(served, b"/sagas", STARTED, b"application/json")
        await answer(served, path, body, kind)  # so that both are repeats
        direct = await answer(served, path, body, kind)
        routed = await answer(served, path + b"?", body, kind)

    assert direct.startswith(b"HTTP/1.1 " + code)
    assert direct == routed


async def test_many_requests_in_one_piece_are_all_answered(tmp_path: Path) -> None:
    """More than the parser holds at a time, so that it stops and goes on."""
    many = 100
    one = b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
    one += b"Content-Length: 2\r\n\r\n{}"
    async with serving(tmp_path) as served:
        reader, _ = await served.say(one * many)
        for _ in range(many):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 415")
            found = re.search(rb"Content-Length: ([0-9]+)", head)
            assert found is not None
            await reader.readexactly(int(found[1]))


class Held(asyncio.Transport):
    """A transport that tells when it is held back, and when it is let go on."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8080), "peername": ("127.0.0.1", 9)})
        self.held = False
        self.let_go, self.answered = asyncio.Event(), asyncio.Event()
        self.written = b""

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False
        self.let_go.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self.answered.set()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...


async def test_a_body_that_comes_faster_than_it_is_read_is_read_to_its_end(
    tmp_path: Path,
) -> None:
    """It is held back at half a megabyte, and let go on once that is read."""
    body = b'{"saga_id":"s-1","data":{},"unknown":"%s"}' % (b"x" * 1_000_000)
    head = b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    async with serving(tmp_path, seconds=10.0) as served:
        connection, transport = served.server(), Held()
        connection.connection_made(transport)
        connection.data_received(head + body[:600_000])
        assert transport.held
        async with asyncio.timeout(HANG_SECONDS):
            await transport.let_go.wait()
            connection.data_received(body[600_000:])
            await transport.answered.wait()
        connection.connection_lost(None)

    assert transport.written.startswith(b"HTTP/1.1 422")
