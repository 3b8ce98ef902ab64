"""Kills at an exact place: strace ends the stage as it enters its n-th fdatasync, pwrite64, sendto.

The reference scenario has three sagas through one real payment stage: one completes, one is
refused downstream, one fails late and travels up. The neighbours live in this process; the world
is the one of the large trial, with books of its own. The stage starts on an empty database, so the
first kills fall into its migrations. After the kill the stage is started again, the neighbours do
what the protocol asks of them, and then the books of all must agree.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

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
from tests.acceptance.kills.processes import Server, free_ports
from tests.acceptance.kills.world import World

STRACE = shutil.which("strace")
SYSCALLS = ("fdatasync", "pwrite64", "sendto")
ATTACH_SECONDS_MAX = 10.0
SCENARIO_SECONDS_MAX = 40.0
ASK_SECONDS = 5.0
AGAIN_SECONDS = 0.02
COMPLETES, REFUSED, LATE = SAGAS = ("x-completes", "x-refused", "x-late")
ENDS = {COMPLETES: "completed", REFUSED: "compensated", LATE: "compensated"}


class Stuck(Exception):
    """The scenario did not come to its end; the message holds what is known."""


class CannotTrace(Exception):
    """strace may not attach here."""


class Tail:
    """Shipping in its smallest form: refuses one saga, and undoes another after its success."""

    def __init__(self) -> None:
        self.standing: set[str] = set()
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
            self.standing.add(saga_id)
            return answer_bytes(200, msgspec.json.encode({"saga_id": saga_id, "data": {}}))
        saga_id = path.split("/")[2]
        self.closed.add(saga_id)
        self.standing.discard(saga_id)
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


@dataclass(slots=True)
class Struck:
    """What one kill did."""

    syscall: str
    number: int
    killed: bool = False
    """False when the scenario makes fewer calls of that kind."""
    calls: int = 0
    """How many the tracer saw."""
    wrong: list[str] = field(default_factory=list)


class Bench:
    """One stage and its neighbours, for one trial after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = folder / "payment.db"
        self._ports = free_ports(4)
        stage, world, tail, head = self._ports
        here = f"http://{LOOPBACK}:"
        told = ["payment", "--port", str(stage), "--database", f"sqlite:///{self._database}"]
        told += ["--upstream", f"order={here}{head}", "--downstream", f"shipping={here}{tail}"]
        told += ["--external", f"world={here}{world}"]
        log = folder / "stage.log"
        self._stage = Server("payment", "tests.acceptance.kills.stages", told, log)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Bench]:
        """Import what all trials share."""
        await self._stage.prepare()
        try:
            yield self
        finally:
            await self._stage.close()

    async def kill_at(self, syscall: str, number: int) -> Struck:
        """One trial. Raises Stuck, CannotTrace and DidNotStart."""
        for left in self._folder.glob("*.db*"):
            left.unlink()
        struck = Struck(syscall, number)
        _, world, tail, head = self._ports
        books, below, above = World(self._folder / "world.db", 0, fails=False), Tail(), Head()
        neighbours = ((books.converse, world), (below.converse, tail), (above.converse, head))
        servers = [await listen(converse, port) for converse, port in neighbours]
        tracer = await self._trace(syscall, number)
        keeping = asyncio.create_task(self._keep(tracer, struck))
        try:
            async with asyncio.timeout(SCENARIO_SECONDS_MAX):
                await self._tell_story(struck)
        except TimeoutError:
            raise Stuck(f"{syscall} {number}: the scenario never ended: {struck}") from None
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await self._stage.kill()
            await tracer.wait()
            for server in servers:
                server.close()
        struck.calls = (self._folder / "strace.txt").read_text().count(f"{syscall}(")
        _judge(self._folder, below, above, struck)
        books.close()
        return struck

    async def _trace(self, syscall: str, number: int) -> Process:
        """Start the stage with the tracer on it."""
        pid = await self._stage.spawn(held=True)
        tracer = await asyncio.create_subprocess_exec(
            *(STRACE or "strace", "-f", "-p", str(pid), "-o", str(self._folder / "strace.txt")),
            *("-e", f"trace={syscall}"),
            *("-e", f"inject={syscall}:signal=KILL:when={number}"),
            stderr=PIPE,
        )
        assert tracer.stderr is not None
        async with asyncio.timeout(ATTACH_SECONDS_MAX):
            said = b""
            while b"attached" not in (line := await tracer.stderr.readline()):
                said += line
                if not line:
                    await self._stage.kill()
                    raise CannotTrace(said.decode().strip())
        self._stage.send(signal.SIGUSR1)
        return tracer

    async def _keep(self, tracer: Process, struck: Struck) -> None:
        """When the stage dies of the tracer's signal, start it again without one."""
        await self._stage.ended.wait()
        struck.killed = self._stage.ends[-1] == -signal.SIGKILL
        if not struck.killed:
            struck.wrong.append(f"the stage ended by itself with {self._stage.ends[-1]}")
        await tracer.wait()
        await self._stage.start()

    async def _tell_story(self, struck: Struck) -> None:
        """Upstream places three sagas, downstream takes one back, and all come to rest."""
        bodies: dict[str, bytes] = {}
        for saga_id in SAGAS:
            bodies[saga_id] = (await self._until(_placing(saga_id), {200, 409})).body
        undo = msgspec.json.encode({"requested_by": "shipping", "reason": "late"})
        await self._until(request_bytes("POST", f"/sagas/{LATE}/compensate", undo), {200})
        for saga_id in SAGAS:
            while True:
                answer = await self._until(request_bytes("GET", f"/sagas/{saga_id}"), {200})
                view = msgspec.json.decode(answer.body)
                told = view.get("told_upstream") in (None, "delivered")
                if view["state"] in ("completed", "compensated") and told:
                    break
                await asyncio.sleep(AGAIN_SECONDS)
        for saga_id in (COMPLETES, REFUSED):
            again = await self._until(_placing(saga_id), {200, 409})
            if again.body != bodies[saga_id]:
                struck.wrong.append(f"{saga_id} was answered otherwise when it was asked again")

    async def _until(self, raw: bytes, wanted: set[int]) -> Message:
        """Ask until one of the wanted codes is answered; what else is answered is asked again."""
        peer = Peer(self._ports[0])
        try:
            while True:
                await self._stage.listening.wait()
                with suppress(Broken):
                    answer = await peer.ask(raw, ASK_SECONDS)
                    if answer.status in wanted:
                        return answer
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            peer.close()


def _placing(saga_id: str) -> bytes:
    envelope = {
        "saga_id": saga_id,
        "protocol": 1,
        "data": {"order_id": saga_id, "amount": 100},
        "trail": [{"stage": "order", "at": "2026-11-23T02:29:58.120Z"}],
    }
    return request_bytes("POST", "/sagas", msgspec.json.encode(envelope))


def _judge(folder: Path, below: Tail, above: Head, struck: Struck) -> None:
    """All books agree: one charge stands for the saga that completed, none for the others."""
    with closing(sqlite3.connect(folder / "payment.db")) as books:
        states = dict(books.execute("SELECT id, state FROM saga"))
        ledger = {
            (saga_id, step): (done, undone)
            for saga_id, step, done, undone in books.execute(
                "SELECT saga_id, step, sum(direction = 1), sum(direction = -1) FROM ledger"
                " GROUP BY saga_id, step"
            )
        }
    with closing(sqlite3.connect(folder / "world.db")) as books:
        world = {
            saga_id: (made, refunded, mismatched)
            for saga_id, made, refunded, mismatched in books.execute(
                "SELECT saga_id, sum(made), sum(refunded), sum(mismatched) FROM charge"
                " GROUP BY saga_id"
            )
        }
    for saga_id, end in ENDS.items():
        stands = int(end == "completed")
        made, refunded, mismatched = world.get(saga_id, (0, 0, 0))
        if states.get(saga_id) != end:
            struck.wrong.append(f"{saga_id} is {states.get(saga_id)}, not {end}")
        if made != 1 or made - refunded != stands or mismatched:
            struck.wrong.append(f"{saga_id}: {made} charges, {refunded} refunded, {mismatched} odd")
        if (saga_id in below.standing) != bool(stands):
            struck.wrong.append(f"{saga_id} stands downstream: {saga_id in below.standing}")
        for step in ("reserve", "record"):
            done, undone = ledger.get((saga_id, step), (0, 0))
            if done != 1 or done - undone != stands:
                struck.wrong.append(f"{saga_id}: {step} done {done}, undone {undone}")
    # Whether downstream's request counts as upstream's news is the protocol's: 3.4.
    if LATE not in above.told:
        struck.wrong.append("upstream was not told of the late failure")
