"""F12: slow heads, slow bodies and unread answers by the hundred are gone in 10 s, and the good
traffic does not notice."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from stage.inbound.aiohttp_server import SWEEP_SECONDS
from tests.kits import Strikes
from tests.scenario.attacks.test_slow_clients import Client, Served, serving
from tests.scenario.chain import HOST
from tests.sizes import SIZES, TIER

STALL_SECONDS_MAX = 10.0
GOOD = 400
"""Good requests that are timed, before and meanwhile."""
NOISE_SECONDS = 0.025
"""A busy machine adds so much to a percentile of some milliseconds."""
BODY = (
    b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{"
)
ASK = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


clock = time.monotonic if TIER == "prove" else time.thread_time
"""Of good requests. In `make test` others share the processors, and their time does not count."""


async def p99_of_good(served: Served) -> float:
    """Of requests one after the other on one connection, each with a query of the journal."""
    reader, writer = await served.connect()
    took = []
    for number in range(GOOD):
        began = clock()
        ask = f"GET /sagas/s-{number} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        writer.write(ask.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        took.append(clock() - began)
    writer.close()
    return sorted(took)[int(GOOD * 0.99)]


async def stall(served: Served) -> list[Client]:
    """As many of each of the three kinds."""
    clients = []
    for _ in range(SIZES.stalled):
        clients.append(await served.say(b"GET /hea"))
        clients.append(await served.say(BODY))
        clients.append(await unread(served))
    return clients


async def unread(served: Served) -> Client:
    """A connection that asks for more than its small window takes, and reads nothing."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (HOST, served.port))
    reader, writer = await asyncio.open_connection(sock=narrow)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(ASK * 4)
    served.clients.append((reader, writer))
    return reader, writer


async def drip(clients: list[Client]) -> None:
    """One byte a second for each of those that are slow and not silent."""
    while True:
        await asyncio.sleep(1.0)
        for _, writer in clients:
            if not writer.is_closing():
                with suppress(ConnectionError):
                    writer.write(b"x")


@pytest.mark.kit("F12")
@pytest.mark.quiet
@pytest.mark.timeout(120)
async def test_stalled_connections_are_gone_in_ten_seconds(
    tmp_path: Path, strikes: Strikes
) -> None:
    """All of them, byte by byte or silent, while the p99 of the good ones is less than doubled."""
    async with serving(tmp_path, 4_000, STALL_SECONDS_MAX) as served:
        before = max([await p99_of_good(served) for _ in range(3)])
        clients = await stall(served)
        began = time.monotonic()
        stuck = len(served.server.connections)
        dripping = asyncio.create_task(drip([*clients[0::3], *clients[1::3]]))
        meanwhile = await p99_of_good(served)
        deadline = began + STALL_SECONDS_MAX + 2 * SWEEP_SECONDS
        async with asyncio.timeout(deadline - time.monotonic() + 5.0):
            await served.until(lambda: len(served.server.connections) <= 1)
        left, lasted = len(served.server.connections), time.monotonic() - began
        dripping.cancel()
        healthy = await served.healthy()

    note = f"p99 {before * 1e3:.1f} ms before, {meanwhile * 1e3:.1f} ms meanwhile; {lasted:.1f} s"
    strikes.report("connections", stuck, violations=max(0, left - 1), note=note)
    assert healthy
    assert left <= 1, note
    assert lasted < STALL_SECONDS_MAX + 2 * SWEEP_SECONDS + 1.0, note
    assert meanwhile < 2 * before + NOISE_SECONDS, note
