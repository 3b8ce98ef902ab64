"""Kills at an exact place: strace ends the stage at its n-th fdatasync, pwrite64 or sendto.

The reference scenario has three sagas through one real payment stage: one completes, one is
refused downstream, one fails late and travels up. The neighbours live in this process; the world
is the one of the big trial, with books of its own. The stage starts on an empty database, so the
first kills fall into its migrations. After the kill the stage is started again, the neighbours do
what the protocol asks of them, and then the books of all must agree.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.acceptance.kills.http1 import (
    LOOPBACK,
    Broken,
    Message,
    Peer,
    answer_bytes,
    listen,
    read_message,
    request_bytes,
)
from tests.acceptance.kills.processes import ROOT, free_ports
from tests.acceptance.kills.world import World

STRACE = shutil.which("strace")
SYSCALLS = ("fdatasync", "pwrite64", "sendto")
START_SECONDS_MAX = 30.0
ATTACH_SECONDS_MAX = 10.0
SCENARIO_SECONDS_MAX = 40.0
ASK_SECONDS = 5.0
AGAIN_SECONDS = 0.05
REST_SECONDS_MAX = 15.0
COMPLETES, REFUSED, LATE = SAGAS = ("x-completes", "x-refused", "x-late")


class Stuck(Exception):
    """The scenario did not come to its end; the message holds what is known."""


class Tail:
    """Shipping in its smallest form: refuses one saga, and undoes another after its success."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.closed: set[str] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (request := await read_message(reader)) is not None:
            writer.write(self._answer(request))
            await writer.drain()

    def _answer(self, request: Message) -> bytes:
        path = request.start.split(" ")[1]
        if path == "/sagas":
            saga_id = json.loads(request.body)["saga_id"]
            if saga_id == REFUSED:
                return answer_bytes(409, b'{"title":"refused","status":409}')
            if saga_id in self.closed:
                return answer_bytes(410, b"{}")
            self.done[saga_id] = self.done.get(saga_id, 0) or 1
            return answer_bytes(200, msgspec.json.encode({"saga_id": saga_id, "data": {}}))
        saga_id = path.split("/")[2]
        self.closed.add(saga_id)
        self.done.pop(saga_id, None)
        return answer_bytes(200, msgspec.json.encode({"saga_id": saga_id}))


class Head:
    """Order in its smallest form: remembers which sagas it was told to compensate."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (request := await read_message(reader)) is not None:
            self.told.add(request.start.split("/")[2])
            writer.write(answer_bytes(200, b"{}"))
            await writer.drain()


class Zygote:
    """The process that forks stages."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: Process | None = None

    async def start(self) -> None:
        """Import everything once."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.acceptance.kills.zygote",
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "STAGE_LOG_FORMAT": "json", "STAGE_LOG_LEVEL": "error"},
        )

    async def fork(self, config: dict[str, Any], *, held: bool) -> int:
        """Fork a payment stage; its pid."""
        assert self._process is not None and self._process.stdin is not None
        told = {"stage": "payment", "config": config, "held": held, "log": str(self._log)}
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        await self._process.stdin.drain()
        return int((await self.said("forked ")).split()[1])

    async def said(self, start: str) -> str:
        """The next line that starts so. Raises Stuck when the child failed or says nothing."""
        assert self._process is not None and self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                while line := (await self._process.stdout.readline()).decode():
                    if line.startswith(start):
                        return line
                    if line.startswith("failed"):
                        raise Stuck(f"the stage did not start: {line}")
        except TimeoutError:
            pass
        raise Stuck(f"no line that starts with {start!r}")

    async def stop(self) -> None:
        """Let it end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(b'{"exit": true}\n')
            self._process.stdin.close()
            await self._process.wait()


@dataclass(slots=True)
class Struck:
    """What one kill did."""

    syscall: str
    number: int
    killed: bool = False
    """False when the scenario makes fewer calls of that kind."""
    last: dict[str, str] = field(default_factory=dict)
    """By saga: the last entry of its journal at the moment of the kill."""
    states: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class Bench:
    """The neighbours, and one trial after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._zygote = Zygote(folder / "stage.log")
        self._ports = free_ports(4)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Bench]:
        """Start what all trials share."""
        await self._zygote.start()
        try:
            yield self
        finally:
            await self._zygote.stop()

    async def kill_at(self, syscall: str, number: int) -> Struck:
        """One trial. Raises Stuck."""
        folder = self._folder / f"{syscall}-{number}"
        folder.mkdir()
        stage, world, tail, head = self._ports
        books, below, above = World(folder / "world.db", 0, fails=False), Tail(), Head()
        servers = [
            await listen(books.converse, world),
            await listen(below.converse, tail),
            await listen(above.converse, head),
        ]
        here = f"http://{LOOPBACK}:"
        config = {
            "port": stage,
            "database": f"sqlite:///{folder / 'payment.db'}",
            "upstreams": {"order": f"{here}{head}"},
            "downstreams": {"shipping": f"{here}{tail}"},
            "externals": {"world": f"{here}{world}"},
            "log_format": "json",
            "log_level": "error",
        }
        struck = Struck(syscall, number)
        keeper = Keeper(self._zygote, config, struck, folder)
        try:
            async with asyncio.timeout(SCENARIO_SECONDS_MAX):
                await keeper.start()
                await _tell_story(Peer(stage), keeper)
        except TimeoutError:
            raise Stuck(f"{syscall} {number}: the scenario never ended: {struck}") from None
        finally:
            await keeper.stop()
            for server in servers:
                server.close()
        _judge(folder, below, above, struck)
        books.close()
        if not struck.wrong:
            shutil.rmtree(folder)
        return struck


class Keeper:
    """Keeps one stage running: under strace first, and without it after the kill."""

    def __init__(
        self, zygote: Zygote, config: dict[str, Any], struck: Struck, folder: Path
    ) -> None:
        self._zygote = zygote
        self._config = config
        self._struck = struck
        self._folder = folder
        self._pid = 0
        self._tracer: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.alive = asyncio.Event()

    async def start(self) -> None:
        """Start the stage with the tracer on it, and from then on start it again when it dies."""
        self._pid = await self._zygote.fork(self._config, held=True)
        call, number = self._struck.syscall, self._struck.number
        self._tracer = await asyncio.create_subprocess_exec(
            STRACE or "strace",
            "-f",
            "-p",
            str(self._pid),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:signal=KILL:when={number}",
            "-o",
            str(self._folder / "strace.txt"),
            stderr=PIPE,
        )
        assert self._tracer.stderr is not None
        async with asyncio.timeout(ATTACH_SECONDS_MAX):
            while b"attached" not in (line := await self._tracer.stderr.readline()):
                if not line:
                    raise Stuck("strace could not attach")
        os.kill(self._pid, signal.SIGCONT)
        self._watch = asyncio.create_task(self._keep(self._tracer))
        await self.alive.wait()

    async def _keep(self, tracer: Process) -> None:
        ended = asyncio.create_task(tracer.wait())
        listening = asyncio.create_task(self._zygote.said("listening on "))
        await asyncio.wait((ended, listening), return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            self.alive.set()
        await ended
        self._struck.killed = True
        self._struck.last = _last_entries(self._folder / "payment.db")
        if not listening.done():
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
        self.alive.clear()
        self._pid = await self._zygote.fork(self._config, held=False)
        await self._zygote.said("listening on ")
        self.alive.set()

    async def stop(self) -> None:
        """End the stage and its tracer."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        if self._tracer is not None:
            await self._tracer.wait()


async def _tell_story(stage: Peer, keeper: Keeper) -> None:
    """Upstream places three sagas, downstream takes one back, and all come to rest."""
    for saga_id in SAGAS:
        envelope = {
            "saga_id": saga_id,
            "protocol": 1,
            "data": {"order_id": saga_id, "amount": 100},
            "trail": [{"stage": "order", "at": "2026-11-23T02:29:58.120Z"}],
        }
        body = msgspec.json.encode(envelope)
        await _until(stage, keeper, request_bytes("POST", "/sagas", body), {200, 409})
    undo = msgspec.json.encode({"requested_by": "shipping", "reason": "late"})
    raw = request_bytes("POST", f"/sagas/{LATE}/compensate", undo)
    await _until(stage, keeper, raw, {200})
    for saga_id in SAGAS:
        while True:
            raw = request_bytes("GET", f"/sagas/{saga_id}")
            view = msgspec.json.decode((await _until(stage, keeper, raw, {200})).body)
            told = view.get("told_upstream") in (None, "delivered")
            if view["state"] in ("completed", "compensated") and told:
                break
            await asyncio.sleep(AGAIN_SECONDS)
    stage.close()


async def _until(stage: Peer, keeper: Keeper, raw: bytes, wanted: set[int]) -> Message:
    """Ask until one of the wanted codes is answered; what else is answered is asked again."""
    while True:
        await keeper.alive.wait()
        with suppress(Broken):
            answer = await stage.ask(raw, ASK_SECONDS)
            if answer.status in wanted:
                return answer
        await asyncio.sleep(AGAIN_SECONDS)


def _last_entries(database: Path) -> dict[str, str]:
    """Where each saga stood when the stage died. The copy is read, so that recovery is not ours."""
    copy = database.with_name("copy")
    copy.mkdir(exist_ok=True)
    for file in database.parent.glob("payment.db*"):
        shutil.copy(file, copy / file.name)
    with closing(sqlite3.connect(copy / database.name)) as books, suppress(sqlite3.Error):
        return dict(
            books.execute(
                "SELECT saga_id, name || coalesce(' ' || json_extract(event, '$.step'), '')"
                " FROM journal GROUP BY saga_id HAVING number = max(number)"
            )
        )
    return {}


def _judge(folder: Path, below: Tail, above: Head, struck: Struck) -> None:
    """All books agree: one charge stands for the saga that completed, none for the others."""
    with closing(sqlite3.connect(folder / "payment.db")) as books:
        struck.states = dict(books.execute("SELECT id, state FROM saga"))
        ledger = {
            (saga_id, step): (done, undone)
            for saga_id, step, done, undone in books.execute(
                "SELECT saga_id, step, sum(direction = 1), sum(direction = -1) FROM ledger"
                " GROUP BY saga_id, step"
            )
        }
    with closing(sqlite3.connect(folder / "world.db")) as books:
        world = {
            saga_id: (made, refunded)
            for saga_id, made, refunded in books.execute(
                "SELECT saga_id, sum(made), sum(refunded + 1000 * mismatched) FROM charge"
                " GROUP BY saga_id"
            )
        }
    stands = struck.states.get(COMPLETES) == "completed"
    for saga_id in SAGAS:
        wanted = "completed" if saga_id == COMPLETES and stands else "compensated"
        net = 1 if wanted == "completed" else 0
        made, refunded = world.get(saga_id, (0, 0))
        if struck.states.get(saga_id) != wanted:
            struck.wrong.append(f"{saga_id} is {struck.states.get(saga_id)}, not {wanted}")
        if made > 1 or made - refunded != net:
            struck.wrong.append(f"{saga_id}: {made} charges made, {refunded} refunded")
        if (saga_id in below.done) != (net == 1):
            struck.wrong.append(f"{saga_id} stands downstream: {saga_id in below.done}")
        for step in ("reserve", "record"):
            done, undone = ledger.get((saga_id, step), (0, 0))
            if done > 1 or undone > 1 or done - undone != net:
                struck.wrong.append(f"{saga_id}: {step} done {done}, undone {undone}")
    if LATE not in above.told and struck.states.get(LATE) == "compensated":
        struck.wrong.append("upstream was not told of the late failure")
