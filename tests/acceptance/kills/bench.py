"""One payment stage that can be traced, and its neighbours in this process.

The world is the one of the large trial, with books of its own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from stage.demo.chain import free_ports
from tests.acceptance.kills.http1 import (
    LOOPBACK,
    Message,
    answer_bytes,
    listen,
    read_message,
    request_bytes,
)
from tests.acceptance.kills.processes import Server
from tests.acceptance.kills.world import World

STRACE = shutil.which("strace")
ATTACH_SECONDS_MAX = 60.0
REFUSED_SUFFIX = "refused"
SLOW = b"-slow"
SLOW_SECONDS = 1.0


class CannotTrace(Exception):
    """strace may not attach here; the message is what it says."""


def _own_word(saga_id: str, outcome: str) -> bytes:
    return msgspec.json.encode({"saga_id": saga_id, "outcome": outcome})


class Tail:
    """Shipping in its smallest form: refuses or delays by name, undoes what it is told to."""

    def __init__(self) -> None:
        self.standing: set[str] = set()
        self.closed: set[str] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (request := await read_message(reader)) is not None:
            if SLOW in request.body:
                await asyncio.sleep(SLOW_SECONDS)
            writer.write(self.answer(request))
            await writer.drain()

    def answer(self, request: Message) -> bytes:
        """Write the books, then say what follows."""
        path = request.start.split(" ")[1]
        if path == "/sagas":
            saga_id = json.loads(request.body)["saga_id"]
            if saga_id.endswith(REFUSED_SUFFIX):
                return answer_bytes(409, b'{"title":"refused","outcome":"not_executed"}')
            if saga_id in self.closed:
                return answer_bytes(410, b'{"outcome":"compensated"}')
            self.standing.add(saga_id)
            return answer_bytes(200, _own_word(saga_id, "executed"))
        saga_id = path.split("/")[2]
        self.closed.add(saga_id)
        self.standing.discard(saga_id)
        return answer_bytes(200, _own_word(saga_id, "compensated"))


class Head:
    """Order in its smallest form: remembers the sagas that it was asked to compensate."""

    def __init__(self) -> None:
        self.asked_back: set[str] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (request := await read_message(reader)) is not None:
            self.asked_back.add(request.start.split("/")[2])
            writer.write(answer_bytes(200, b'{"outcome":"compensated"}'))
            await writer.drain()


class Bench:
    """The stage and its neighbours: prepared once, used for one trial after the other."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` are further ones of `stage serve`."""
        self.folder = folder
        self.database = folder / "payment.db"
        self.port, *self._ports = free_ports(4)
        world, tail, head = (f"http://{LOOPBACK}:{port}" for port in self._ports)
        arguments = [
            "payment",
            "--port",
            str(self.port),
            "--database",
            f"sqlite:///{self.database}",
        ]
        arguments += [
            "--auth",
            "none",
            "--upstream",
            f"order={head}",
            "--downstream",
            f"shipping={tail}",
        ]
        arguments += ["--external", f"world={world}", *options]
        log = folder / "stage.log"
        self.stage = Server("payment", "tests.acceptance.kills.stages", arguments, log)
        self.world: World
        self.tail: Tail
        self.head: Head

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[Bench]:
        """Import what all trials share."""
        await self.stage.prepare()
        try:
            yield self
        finally:
            await self.stage.close()

    @asynccontextmanager
    async def neighbours(self) -> AsyncIterator[None]:
        """Empty books, and neighbours that serve from them. The stage is killed at the end."""
        for left in self.folder.glob("*.db*"):
            left.unlink()
        self.world = World(self.folder / "world.db", 0, fails=False)
        self.tail, self.head = Tail(), Head()
        who: tuple[Any, ...] = (self.world, self.tail, self.head)
        servers = [
            await listen(each.converse, port) for each, port in zip(who, self._ports, strict=True)
        ]
        try:
            yield
        finally:
            await self.stage.kill()
            for server in servers:
                server.close()
            self.world.close()

    async def start_traced(self, into: Path, *options: str) -> Process:
        """Start the stage with a tracer on it and do not wait until it serves. CannotTrace."""
        await self.stage.spawn(held=True)
        try:
            tracer = await self.trace(into, *options)
        except CannotTrace:
            await self.stage.kill()
            raise
        self.stage.send(signal.SIGUSR1)
        return tracer

    async def trace(self, into: Path, *options: str) -> Process:
        """Attach a tracer to the stage as it lives. Raises CannotTrace."""
        tracer = await asyncio.create_subprocess_exec(
            *(STRACE or "strace", "-f", "-p", str(self.stage.pid), "-o", str(into), *options),
            stderr=PIPE,
        )
        assert tracer.stderr is not None
        said = b""
        async with asyncio.timeout(ATTACH_SECONDS_MAX):
            while b"attached" not in (line := await tracer.stderr.readline()):
                said += line
                if not line:
                    await tracer.wait()
                    raise CannotTrace(said.decode().strip())
        return tracer


def placing(saga_id: str) -> bytes:
    """The request for a saga, as order sends it."""
    envelope = {
        "saga_id": saga_id,
        "protocol": 1,
        "data": {"order_id": saga_id, "amount": 100},
        "trail": [{"stage": "order", "at": "2026-11-23T02:29:58.120Z"}],
    }
    return request_bytes("POST", "/sagas", msgspec.json.encode(envelope))


def undoing(saga_id: str, by: str) -> bytes:
    """The request to compensate a saga."""
    body = {"requested_by": by, "reason": "late"}
    return request_bytes("POST", f"/sagas/{saga_id}/compensate", msgspec.json.encode(body))
