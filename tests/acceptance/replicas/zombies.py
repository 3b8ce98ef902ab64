"""Replicas that are stopped past their lease with sagas in their hands, and then go on (F9).

Two replicas share a database; one is stopped while requests of its sagas are under way, which are
answered into its hands. The other takes the sagas over once the lease is over, and ends them. Then
the first goes on. Each replica has ports of its own at the world and at shipping, so that it is
known whose request each one was.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from stage.demo.chain import free_ports
from tests.acceptance.kills.bench import Tail
from tests.acceptance.kills.http1 import (
    Broken,
    Connection,
    Message,
    Peer,
    answer_bytes,
    listen,
    read_message,
)
from tests.acceptance.kills.processes import Server
from tests.acceptance.kills.world import World
from tests.acceptance.replicas.callers import duplicate
from tests.acceptance.replicas.stages import REFUSED

LEASE_SECONDS = 2.0
SAGAS = 30
"""Sagas placed at the replica that is stopped, over about as long as each of them takes."""
PLACED_SECONDS = 0.4
BEGUN = (5, 20)
"""So many of them have sent a request when it is stopped; the latest one waits for its answer."""
ANSWER_SECONDS = 0.15
"""How long the world and shipping take: most sagas have a request under way at any time."""
AWAKE_SECONDS = 1.5
"""For so long after it went on a replica is watched: more than two renewals of its lease."""
LIMIT_SECONDS = 60.0
SLOW_DATABASE = b'"detail":"the database did not answer in time'
"""Nothing is known, so that order asks again: a database without a processor."""
TAKEN = "SELECT id FROM stage.saga WHERE epoch > 1 AND due_at IS NULL AND id = ANY($1)"
UNFINISHED = """
SELECT saga.id, saga.state, epoch, owner, replica.lease_until - now() AS lease, dead
FROM stage.saga LEFT JOIN stage.replica ON replica.id = owner
WHERE due_at IS NOT NULL AND saga.state IN ('active', 'compensating')
"""
"""One that has ended may have to tell order, which is nowhere."""
ENTRIES = """
SELECT saga_id, number, epoch, event FROM stage.journal WHERE saga_id = ANY($1) ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that a replica sent."""

    at: float
    replica: str
    about: str
    """Its first line and body, in which the saga is named."""


@dataclass(slots=True)
class Outcome:
    """The result of one zombie."""

    taken_over: int = 0
    """Sagas that the other replica took over and ended while it was stopped."""
    refused: int = 0
    """Its stale writes that the database refused."""
    wrong: list[str] = field(default_factory=list)


class Outside:
    """The world and shipping, with a port for each replica; they take their time."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world.db", 0, fails=False)
        self.tail = Tail()
        self.sent: list[Sent] = []

    async def serve(self, replica: str, world: int, tail: int) -> list[asyncio.Server]:
        """Listen for the requests of one replica."""

        async def charge(request: Message) -> bytes:
            return answer_bytes(*self.world.answer(request))

        async def ship(request: Message) -> bytes:
            return self.tail.answer(request)

        def conversing(answer: Any) -> Any:
            async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while (request := await read_message(reader)) is not None:
                    about = f"{request.start} {request.header('Idempotency-Key')}"
                    self.sent.append(Sent(time.time(), replica, about))
                    answered = await answer(request)
                    await asyncio.sleep(ANSWER_SECONDS)
                    writer.write(answered)
                    await writer.drain()

            return converse

        return [await listen(conversing(charge), world), await listen(conversing(ship), tail)]


class Pair:
    """Two replicas, `a` and `b`, and what is outside."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        one, other, *outside = free_ports(6)
        self.ports = {"a": one, "b": other}
        self._outside_ports = {"a": outside[:2], "b": outside[2:]}
        self.outside = Outside(folder)
        self.replicas = {name: self._replica(name) for name in "ab"}
        self._rounds = 0

    def _replica(self, name: str) -> Server:
        world, tail = self._outside_ports[name]
        arguments = ["payment", "--port", str(self.ports[name]), "--database", self._url]
        arguments += ["--lease-seconds", str(LEASE_SECONDS)]
        arguments += ["--external", f"world=http://127.0.0.1:{world}"]
        arguments += ["--downstream", f"shipping=http://127.0.0.1:{tail}"]
        arguments += ["--upstream", "order=http://127.0.0.1:9"]
        log = self._folder / f"{name}.log"
        return Server(name, "tests.acceptance.replicas.stages", arguments, log)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All of it, within."""
        async with AsyncExitStack() as stack:
            for name, ports in self._outside_ports.items():
                for server in await self.outside.serve(name, *ports):
                    stack.callback(server.close)
            for replica in self.replicas.values():
                stack.push_async_callback(replica.close)
                await replica.prepare()
                await replica.start()
            yield
        self.outside.world.close()

    async def strike(self, dice: random.Random) -> Outcome:
        """Stop one of them with sagas in its hands, past its lease; see what it does after."""
        zombie, heir = ("a", "b") if self._rounds % 2 == 0 else ("b", "a")
        self._rounds += 1
        ids = [f"k9-{self._rounds}{number:03}" for number in range(SAGAS)]
        callers = {saga_id: asyncio.create_task(self.place(saga_id, zombie, dice.uniform(
            0.0, PLACED_SECONDS))) for saga_id in ids}  # fmt: skip
        await self._under_way(zombie, ids, dice.randint(*BEGUN))
        before = self._refused(zombie)
        self.replicas[zombie].send(signal.SIGSTOP)
        try:
            taken, entries = await self._taken_over(ids)
        finally:
            woken = time.time()
            self.replicas[zombie].send(signal.SIGCONT)
        async with asyncio.timeout(LIMIT_SECONDS):
            answers = {saga_id: await caller for saga_id, caller in callers.items()}
        await asyncio.sleep(AWAKE_SECONDS)
        outcome = Outcome(taken_over=len(taken), refused=self._refused(zombie) - before)
        outcome.wrong += self._left(zombie, taken, woken)
        if entries != await self._entries(taken):
            outcome.wrong.append("a journal went on after its saga had ended elsewhere")
        outcome.wrong += await self._differing(ids, answers, heir)
        outcome.wrong += self._unbalanced(ids)
        return outcome

    async def _under_way(self, replica: str, ids: list[str], count: int) -> None:
        """Return when so many of these sagas have begun outside, however busy the machine is."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                about = [sent.about for sent in self.outside.sent if sent.replica == replica]
                if count <= sum(any(f"{one}:" in each for each in about) for one in ids):
                    return
                await asyncio.sleep(0.01)

    async def place(self, saga_id: str, replica: str, seconds: float = 0.0) -> tuple[int, bytes]:
        """Ask until there is an end, as order does; the answer."""
        await asyncio.sleep(seconds)
        raw = duplicate(saga_id).replace(b"respond-async,wait=2", b"wait=20")
        while True:
            try:
                connection = await Connection.to(self.ports[replica])
                try:
                    answer = await connection.ask(raw)
                finally:
                    connection.close()
            except Broken:
                continue
            if answer.status not in (202, 429, 503) and SLOW_DATABASE not in answer.body:
                return answer.status, answer.body
            await asyncio.sleep(0.1)

    async def _taken_over(self, ids: list[str]) -> tuple[list[str], list[Any]]:
        """The sagas that the other replica has ended, once nothing is unfinished."""
        connection = await asyncpg.connect(self._url)
        try:
            await asyncio.sleep(LEASE_SECONDS)
            until = time.monotonic() + LIMIT_SECONDS
            while unfinished := await connection.fetch(UNFINISHED):
                assert time.monotonic() < until, f"nobody goes on with {unfinished[:3]}"
                await asyncio.sleep(0.05)
            taken = [row[0] for row in await connection.fetch(TAKEN, ids)]
            return taken, [tuple(row) for row in await connection.fetch(ENTRIES, taken)]
        finally:
            await connection.close()

    async def _entries(self, ids: list[str]) -> list[Any]:
        connection = await asyncpg.connect(self._url)
        try:
            return [tuple(row) for row in await connection.fetch(ENTRIES, ids)]
        finally:
            await connection.close()

    def _left(self, zombie: str, taken: list[str], woken: float) -> list[str]:
        """Requests that it sent after it went on, of sagas that had ended elsewhere."""
        return [
            f"left after waking: {sent.about}"
            for sent in self.outside.sent
            if sent.replica == zombie
            and sent.at >= woken
            and any(f"{saga_id}:" in sent.about for saga_id in taken)
        ]

    async def _differing(
        self, ids: list[str], answers: dict[str, tuple[int, bytes]], heir: str
    ) -> list[str]:
        """Sagas of which the caller of the zombie heard something else than the heir says."""
        peer, wrong = Peer(self.ports[heir]), []
        for saga_id in ids:
            again = await self._again(peer, saga_id)
            if (again.status, again.body) != answers[saga_id]:
                wrong.append(f"{saga_id}: {answers[saga_id]}, and elsewhere {again.raw!r}")
        peer.close()
        return wrong

    async def _again(self, peer: Peer, saga_id: str) -> Message:
        """The answer to a duplicate, once the database has a processor."""
        while True:
            answer = await peer.ask(duplicate(saga_id), LIMIT_SECONDS)
            if SLOW_DATABASE not in answer.body:
                return answer
            await asyncio.sleep(0.1)

    def _unbalanced(self, ids: list[str]) -> list[str]:
        """Sagas of which something stands that should not, by the world's own count."""
        charges = self.outside.world.standing()
        standing = self.outside.tail.standing
        return [
            f"{saga_id}: {charges.get(saga_id, 0)} charges, shipped {saga_id in standing}"
            for saga_id in ids
            if charges.get(saga_id, 0) != (saga_id in standing)
        ]

    def _refused(self, replica: str) -> int:
        log = (self._folder / f"{replica}.log").read_text(errors="replace")
        return log.count(f"{REFUSED} ")
