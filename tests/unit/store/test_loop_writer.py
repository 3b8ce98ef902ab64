"""The writer on a connection that awaits in the event loop, as that of a database server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import pytest

from stage.core.errors import StoreUnavailable
from stage.ports.store import Unit
from stage.store.connection import CommitRefused, Connection
from stage.store.queue import LoopChannel, Waiting
from stage.store.writer import Writer, WriterLimits

T = TypeVar("T")


class Server:
    """A database of one list, whose answers each take a turn of the loop, with its faults."""

    def __init__(self) -> None:
        self.durable: list[str] = []
        self.written: list[str] = []
        self.number = 0
        self.in_transaction = False
        self.commits = 0
        self.scrubbed = 0
        self.plan: list[str] = []
        """One word a COMMIT, used up from the front: `ok`, `lost` or `landed`."""
        self.refused: set[str] = set()
        """Words that no COMMIT accepts."""


class LoopConnection:
    """store.connection.Connection, Home and Connections, all in the event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._number = 0

    async def reopen(self) -> LoopConnection:
        await asyncio.sleep(0)
        return LoopConnection(self._server)

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        await asyncio.sleep(0)
        return await work(self)

    async def run_units(self, units: Sequence[Waiting]) -> Waiting | None:
        for each in units:
            await asyncio.sleep(0)
            each.error = None
            try:
                each.value = await each.work(cast(Unit, self._server.written))
            except BaseException as error:
                each.error = error
            if not self._server.in_transaction:
                return each
        return None

    async def begin(self, *, patient: bool) -> None:
        await asyncio.sleep(0)
        self._server.in_transaction, self._server.written = True, []

    async def number(self, number: int) -> None:
        await asyncio.sleep(0)
        self._number = number

    async def commit(self) -> None:
        await asyncio.sleep(0)
        server = self._server
        server.commits += 1
        server.in_transaction = False
        if server.refused & set(server.written):
            raise CommitRefused from LookupError("deferred")
        word = server.plan.pop(0) if server.plan else "ok"
        if word != "lost":
            server.durable += server.written
            server.number = self._number
        if word != "ok":
            raise ConnectionResetError(word)

    async def drop(self) -> None:
        await asyncio.sleep(0)
        self._server.in_transaction = False

    async def last_number(self) -> int:
        await asyncio.sleep(0)
        return self._server.number

    async def landed(self, number: int) -> bool:
        return await self.last_number() == number

    async def scrub(self, clean: set[str]) -> None:
        self._server.scrubbed += 1


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[Writer]:
    home = LoopConnection(server)
    writer = Writer(home, LoopChannel(), limits=WriterLimits(retry_seconds=0.001))
    await writer.open(home)
    try:
        yield writer
    finally:
        await writer.close()


def writing(word: str) -> Callable[[Unit], Awaitable[str]]:
    async def unit(unit: Unit) -> str:
        cast("list[str]", unit).append(word)
        await asyncio.sleep(0)
        return word

    return unit


async def sent(writer: Writer, *words: str) -> list[Any]:
    waiting = (writer.transact(writing(word)) for word in words)
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_the_double_fits_the_port() -> None:
    """As mypy sees it."""
    connection: Connection = LoopConnection(Server())
    assert callable(connection.run_units)


async def test_units_that_come_at_once_share_a_commit() -> None:
    """The first one may go alone; all others are in one batch."""
    server = Server()
    async with opened(server) as writer:
        words = [f"s{number}" for number in range(20)]
        assert words == await sent(writer, *words)
    assert words == server.durable
    assert server.commits <= 2


@pytest.mark.parametrize("plan", [["landed"], ["lost"], ["lost", "landed"]])
async def test_a_commit_in_doubt_is_settled(plan: list[str]) -> None:
    """Every unit is durable exactly once, whether the COMMIT landed or not."""
    server = Server()
    async with opened(server) as writer:
        server.plan = list(plan)
        assert ["a"] == await sent(writer, "a")
        assert ["b", "c"] == await sent(writer, "b", "c")
    assert ["a", "b", "c"] == server.durable


@pytest.mark.parametrize("plan", [["landed"], ["lost"], ["lost", "landed"]])
async def test_a_scrub_is_done_where_the_commit_before_it_is_in_doubt(plan: list[str]) -> None:
    """It needs no further unit to be noticed."""
    server = Server()
    async with opened(server) as writer, asyncio.timeout(60.0):
        server.plan = list(plan)
        await writer.scrub()
    assert 1 == server.scrubbed


async def test_a_commit_that_never_lands_is_reported() -> None:
    """After the second failure nothing was written, and the writer goes on."""
    server = Server()
    async with opened(server) as writer:
        server.plan = ["lost", "lost"]
        assert [StoreUnavailable] == [type(error) for error in await sent(writer, "a")]
        assert ["b"] == await sent(writer, "b")
    assert ["b"] == server.durable


async def test_a_refused_commit_fails_its_unit_alone() -> None:
    """The batch is run again one by one; the error is that of the database."""
    server = Server()
    server.refused = {"bad"}
    async with opened(server) as writer:
        done = await sent(writer, "a", "bad", "b")
    assert ["a", "b"] == [done[0], done[2]]
    assert isinstance(done[1], LookupError)
    assert ["a", "b"] == server.durable
