"""The load of F13, as a process of its own that takes as little of the processor as it can.

python -m tests.acceptance.overload_load PORT PID PREFIX CONNECTIONS LEARNING SECONDS

So many connections, each of which asks again as soon as it is answered, and one that compensates
what has ended. After LEARNING seconds it counts for SECONDS. Prints a line of JSON (`Seen`).

Coroutines and streams would cost as much as the stage that they load, and take from it the
processor that they share. A connection is a protocol here: bytes in, bytes out.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from stage.demo.chain import LOOPBACK

UNDO_PAUSE_SECONDS = 0.05
LATE_SECONDS = 15.0
"""How long the last answers are waited for."""
CONNECTING_MAX = 200
"""Connections that are made at once: the backlog of the stage has an end."""
WRONG_MAX = 3
REQUEST = (
    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s"
    b"Content-Length: %d\r\n\r\n%s"
)
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Seen(msgspec.Struct, kw_only=True):
    """The counts of a load. `executed` counts in those `seconds` alone, the others in all."""

    executed: int = 0
    seconds: float = 0.0
    kept_seconds: float = 0.0
    """How long the event loop of the stage was ready to run in them, and got no processor."""
    codes: dict[int, int] = {}
    wrong: list[str] = []
    undone: list[float] = []
    """How long each compensation took."""
    unanswered: int = 0
    """Connections that waited for an answer at the end."""


class Load:
    """The counts of all connections, and the last saga that was executed."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._number = 0
        self.seen = Seen()
        self.last = b""
        self.over = False

    def start(self) -> tuple[bytes, bytes]:
        """The id of the next saga, and the request that starts it."""
        self._number += 1
        saga_id = b"%s-%d" % (self._prefix, self._number)
        body = b'{"saga_id":"%s","data":{"amount":1}}' % saga_id
        key = b"Idempotency-Key: %s\r\n" % saga_id
        return saga_id, REQUEST % (b"/sagas", key, len(body), body)

    def judge(self, saga_id: bytes, answer: bytes) -> None:
        """Count the answer to a start."""
        code = int(answer[9:12])
        self.seen.codes[code] = self.seen.codes.get(code, 0) + 1
        if code == 200:
            self.last = saga_id
        elif code not in (429, 503) or b"\r\nRetry-After: " not in answer:
            self.is_wrong(answer)

    def is_wrong(self, answer: bytes) -> None:
        """Keep an answer that should not be."""
        if len(self.seen.wrong) < WRONG_MAX:
            self.seen.wrong.append(answer.decode(errors="replace"))


class Connection(asyncio.Protocol):
    """One connection that sends starts. `ended` is done once it is closed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport
        self._answer = b""
        self._saga_id = b""
        self._waits = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first one."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._saga_id, request = self._load.start()
        self._waits = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole, and ask again."""
        self._answer += data
        if not is_whole(self._answer):
            return
        answer, self._answer, self._waits = self._answer, b"", False
        self._load.judge(self._saga_id, answer)
        if self._load.over:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody may end a connection before its answer."""
        if self._waits:
            self._load.is_wrong(b"the connection ended before its answer")
        self.ended.set_result(None)


def is_whole(answer: bytes) -> bool:
    """Whether head and body of an answer are there."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = LENGTH.search(answer, 0, end + 2)
    return length is not None and len(answer) >= end + 4 + int(length[1])


async def compensate(load: Load, port: int) -> None:
    """Compensate the saga that was executed last, one after the other."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    done = b""
    while not load.over:
        await asyncio.sleep(UNDO_PAUSE_SECONDS)
        if load.last == done:
            continue
        done, body = load.last, b'{"requested_by":"order"}'
        began = time.monotonic()
        writer.write(REQUEST % (b"/sagas/%s/compensate" % done, b"", len(body), body))
        answer = await reader.readuntil(b"\r\n\r\n")
        if length := LENGTH.search(answer):
            answer += await reader.readexactly(int(length[1]))
        load.seen.undone.append(time.monotonic() - began)
        if not answer.startswith(b"HTTP/1.1 200"):
            load.is_wrong(answer)
    writer.close()


def waited_seconds(pid: int) -> float:
    """How long the first thread of that process was ready to run, and got no processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


async def measured(load: Load, port: int, pid: int, connections: int, *times: float) -> Seen:
    """The counts of so many connections."""
    learning, seconds = times
    loop, seen = asyncio.get_running_loop(), load.seen
    undoing = loop.create_task(compensate(load, port))
    made: list[Connection] = []
    learnt_at = time.monotonic() + learning
    while len(made) < connections:
        some = min(CONNECTING_MAX, connections - len(made))
        new = [
            loop.create_connection(partial(Connection, load), LOOPBACK, port) for _ in range(some)
        ]
        made += [protocol for _, protocol in await asyncio.gather(*new)]
    await asyncio.sleep(learnt_at - time.monotonic())
    before, waited, began = seen.codes.get(200, 0), waited_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    seen.seconds = time.monotonic() - began
    seen.executed = seen.codes.get(200, 0) - before
    seen.kept_seconds = waited_seconds(pid) - waited
    load.over = True
    await undoing
    _, late = await asyncio.wait([each.ended for each in made], timeout=LATE_SECONDS)
    seen.unanswered = len(late)
    return seen


def main() -> None:
    """Offer the load that the command line says."""
    port, pid, prefix, connections, *times = sys.argv[1:]
    load = Load(prefix)
    run = measured(load, int(port), int(pid), int(connections), *map(float, times))
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run)) + b"\n")


if __name__ == "__main__":
    main()
