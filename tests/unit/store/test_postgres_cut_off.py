"""A statement that the server cuts off, wherever it stands: nothing is half there, or blamed.

A server ends sessions when it restarts, a person cancels statements, a gateway forgets connections
without a word, and after a failover the server that answers may only read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from stage.core.errors import StoreUnavailable
from stage.ports.store import Act, Row, Unit
from stage.store.postgres import connection
from stage.store.postgres.errors import refused_at_commit
from stage.store.postgres.link import STATEMENT_SECONDS_MAX, Link
from stage.store.postgres.store import PostgresLimits, PostgresStore
from tests.unit.store.given import AT, accepted, in_one_batch, inserting, paying, payments, row
from tests.waits import HANG_SECONDS

T = TypeVar("T")
KINDS = ("postgres",)
"""The kinds that the fixture `store` opens here."""
STATEMENTS_MIN: Final = 10
"""So many statements of one unit are cut off at least, one in each round."""


class Cut:
    """Cuts off the statement of a number on the connection that writes, once."""

    def __init__(self, store: PostgresStore, other: Link, how: str) -> None:
        """`how`: the session is ended `before` a statement or `behind` it, or that is `cancelled`.

        The statements of the author are not cancelled: that is for their function to judge.
        """
        self._store = store
        self._other = other
        self._how = how
        self._left = 0
        self.struck = ""

    def plan(self, number: int) -> None:
        """Cut off the statement of that number, counted from one from here on."""
        self._left, self.struck = number, ""

    async def around(self, link: Link, name: str, statement: Coroutine[Any, Any, T]) -> T:
        """Run a statement, and strike."""
        if not self._strikes(link, name):
            return await statement
        self.struck = name
        pid = link.raw.get_server_pid()
        if self._how == "cancelled":
            statement.close()
            await self._cancel(link, pid)
        if self._how == "before":
            await self._other.raw.fetchval("SELECT pg_terminate_backend($1)", pid)
        value = await statement
        if self._how == "behind":
            await self._other.raw.fetchval("SELECT pg_terminate_backend($1)", pid)
            while not link.raw.is_closed():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
        return value

    def _strikes(self, link: Link, name: str) -> bool:
        if link is not self._store._connections._link or not self._left:
            return False
        if self._how == "cancelled" and name in ("author", "commit_batch", "begin_brief"):
            return False
        self._left -= 1
        return not self._left

    async def _cancel(self, link: Link, pid: int) -> None:
        """Really, so that the transaction is as it is then. Raises what the driver raises."""
        sleeping = asyncio.ensure_future(link.raw.execute("SELECT pg_sleep(60)"))
        while not sleeping.done():
            await self._other.raw.fetchval("SELECT pg_cancel_backend($1)", pid)
            await asyncio.wait((sleeping,), timeout=0.01)
        await sleeping


def cutting(patch: pytest.MonkeyPatch, cut: Cut) -> None:
    """Let `cut` see all statements."""
    script, fetch, author, commit = Link.script, Link.fetch, Link.author, Link.commit

    async def cut_script(link: Link, name: str) -> None:
        await cut.around(link, name, script(link, name))

    async def cut_fetch(link: Link, name: str, *parameters: object) -> list[Row]:
        return await cut.around(link, name, fetch(link, name, *parameters))

    async def cut_author(link: Link, sql: str, parameters: tuple[Any, ...]) -> Any:
        return await cut.around(link, "author", author(link, sql, parameters))

    async def cut_commit(link: Link) -> str:
        return await cut.around(link, "commit_batch", commit(link))

    for name, made in (
        ("script", cut_script),
        ("fetch", cut_fetch),
        ("author", cut_author),
        ("commit", cut_commit),
    ):
        patch.setattr(Link, name, made)


def saga(saga_id: str, blamed: list[BaseException]) -> Callable[[Unit], Awaitable[str]]:
    """A unit with all that a saga's may have; what counts as the author's mistake is remembered."""

    async def attempt(unit: Unit, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await unit.attempt(work)
        except StoreUnavailable:
            raise
        except Exception as error:  # as the engine does
            if not isinstance(error, LookupError):
                blamed.append(error)

    async def unit(unit: Unit) -> str:
        if await unit.take(saga_id) is not None:
            return "seen"

        async def fails() -> None:
            await paying(f"{saga_id}-not")(unit)
            await unit.tx.execute("UPDATE payment SET amount = 2")
            raise LookupError("a no of the author's")

        await attempt(unit, lambda: paying(saga_id)(unit))
        await attempt(unit, fails)
        await unit.insert(row(saga_id), accepted())
        await unit.keep_act(
            Act(at=AT, actor="kim", act="x", target=saga_id, reason="", before="", after="")
        )
        return "inserted"

    return unit


@pytest.mark.parametrize("how", ["before", "behind", "cancelled"])
async def test_a_unit_is_whole_or_not_there_wherever_it_is_cut_off(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It was not written, or it is durable; and no statement is called the author's mistake."""
    cut, blamed, struck = Cut(store, other, how), list[BaseException](), list[str]()
    cutting(monkeypatch, cut)
    for number in count(1):
        saga_id = f"s-{number:02}"
        cut.plan(number)
        try:
            done = await store.transact(saga(saga_id, blamed))
        except StoreUnavailable:
            done = await until_written(store, saga(saga_id, blamed))
        assert "inserted" == done, cut.struck
        if not cut.struck:
            break
        struck.append(cut.struck)
        assert [] == blamed, cut.struck
        assert row(saga_id) == await store.get(saga_id), cut.struck
        assert 1 == len(await store.entries(saga_id)) == len(await store.acts(9, target=saga_id))
    cut.plan(0)
    expected = {"take_saga", "begin_part", "undo_part", "keep_part", "keep_act", "write_batch"}
    if how != "cancelled":
        expected |= {"begin_brief", "author", "commit_batch"}
    assert expected <= set(struck)
    assert STATEMENTS_MIN <= len(struck) + 4 * (how == "cancelled")
    assert [f"s-{number:02}" for number in range(1, len(struck) + 2)] == await payments(store)
    assert store.available


async def until_written(store: PostgresStore, work: Callable[[Unit], Awaitable[str]]) -> str:
    """As the engine does while the database is away."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            with suppress(StoreUnavailable):
                return await store.transact(work)
            await asyncio.sleep(0.01)


async def test_too_few_parameters_are_a_mistake_and_no_outage(store: PostgresStore) -> None:
    """The unit of the author fails alone; otherwise its saga waited for the database for ever."""

    async def mistaken(unit: Unit) -> None:
        await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ($1, $2)", "x")

    done = await in_one_batch(store, paying("a"), mistaken, paying("b"))
    assert [1, 1] == [done[0], done[2]]
    assert "expects 2 arguments" in str(done[1]) and not isinstance(done[1], StoreUnavailable)
    assert ["a", "b"] == await payments(store) and store.available


# --- readers ---------------------------------------------------------------------------------


async def test_a_server_that_only_reads_is_away(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a standby alone is, until it is promoted: to readers, claims, and the lease."""
    await store.transact(inserting("a"))
    name = await other.raw.fetchval("SELECT current_database()")
    await other.raw.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        for pool in (store._pool, store._replica._renewals):
            await pool.drop_idle()
        for work in (store.get("a"), store.ownership.claim(AT, 10), store.ownership.renew()):
            with pytest.raises(StoreUnavailable):
                await work
    finally:
        await other.raw.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert row("a") == await store.get("a")


async def test_connections_that_the_server_ended_while_they_were_idle_are_not_used(
    store: PostgresStore, other: Link
) -> None:
    """`idle_session_timeout` does, and so do poolers: no reader has to hear of it."""
    await store.transact(inserting("a"))
    assert row("a") == await store.get("a")
    idle = list(store._pool._idle)
    for link in idle:
        await other.raw.fetchval("SELECT pg_terminate_backend($1)", link.raw.get_server_pid())
    async with asyncio.timeout(HANG_SECONDS):
        while not all(link.raw.is_closed() for link in idle):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
    assert idle and row("a") == await store.get("a")


async def test_a_query_that_is_cancelled_is_no_mistake_of_ours(
    store: PostgresStore, other: Link
) -> None:
    """By a person, or because the role may not take so long."""
    await store.transact(inserting("a"))
    await other.raw.execute("BEGIN; LOCK TABLE stage.saga")
    reading = asyncio.ensure_future(store.get("a"))
    looking = await other.another()  # within a transaction each look shows the same
    cancel = (
        "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(HANG_SECONDS):
        while not await looking.raw.fetchval(cancel):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
    await looking.close()
    with pytest.raises(StoreUnavailable, match="statement_timeout"):
        await reading
    await other.raw.execute("ROLLBACK")
    assert row("a") == await store.get("a")


class Gateway:
    """A way to the server. Connections that it has forgotten stay open, and nothing passes them."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._known: set[asyncio.Event] = set()
        self._over = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The URL of the database through it."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield urlunsplit(self._to._replace(netloc=f"stage@127.0.0.1:{port}"))
        finally:
            self._over.set()
            server.close()

    def forget(self) -> None:
        """Let nothing pass on the connections that there are."""
        for known in self._known:
            known.set()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forgotten = asyncio.Event()
        self._known.add(forgotten)
        back, forth = await asyncio.open_connection(self._to.hostname, self._to.port)

        async def one_way(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if not forgotten.is_set():
                    sink.write(data)

        ways = [asyncio.ensure_future(one_way(reader, forth))]
        ways.append(asyncio.ensure_future(one_way(back, writer)))
        with suppress(OSError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if forgotten.is_set():  # that the server closed its end passes as little
            await self._over.wait()
        for way in ways:
            way.cancel()
        for each in (writer, forth):
            each.close()


@pytest.fixture
def gateway(migrated_url: str) -> Gateway:
    return Gateway(migrated_url)


async def test_a_renewal_whose_connection_keeps_silent_is_made_on_another_one(
    gateway: Gateway, migrations: Path
) -> None:
    """Otherwise a forgotten connection costs the lease, and with it every saga."""
    async with gateway.open() as url:
        limits = PostgresLimits(lease_seconds=8.0)
        store = PostgresStore(url, migrations=[migrations], limits=limits)
        await store.open()
        assert await store.ownership.renew()
        gateway.forget()
        async with asyncio.timeout(8.0):
            assert await store.ownership.renew()
        assert store.ownership.sure
        await store.close()


async def test_a_read_that_nobody_waits_for_any_more_keeps_no_connection(
    gateway: Gateway, migrations: Path
) -> None:
    """Its caller hung up while the connection kept silent: the next reader gets another one."""
    async with gateway.open() as url:
        store = PostgresStore(
            url, migrations=[migrations], limits=PostgresLimits(readers=1, lease_seconds=4.0)
        )
        await store.open()
        await store.transact(inserting("a"))
        assert row("a") == await store.get("a")
        gateway.forget()
        reading = asyncio.ensure_future(store.get("a"))
        await asyncio.sleep(0.1)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(HANG_SECONDS):
            assert row("a") == await store.get("a")
        await store.close()


async def test_a_store_whose_connections_keep_silent_closes_all_the_same(
    gateway: Gateway, migrations: Path
) -> None:
    """A stop is cut short after some seconds; the registration ends on another connection."""
    async with gateway.open() as url:
        limits = PostgresLimits(lease_seconds=4.0)
        store = PostgresStore(url, migrations=[migrations], limits=limits)
        await store.open()
        await store.transact(inserting("a"))
        gateway.forget()
        async with asyncio.timeout(STATEMENT_SECONDS_MAX / 2):
            await store.close()


async def test_a_commit_whose_connection_keeps_silent_is_settled_on_another_one(
    gateway: Gateway, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the writer waits for a quarter of an hour, and its lease is renewed meanwhile."""
    monkeypatch.setattr(connection, "COMMIT_SECONDS_MAX", 0.5)
    async with gateway.open() as url:
        limits = PostgresLimits(lease_seconds=4.0)
        store = PostgresStore(url, migrations=[migrations], limits=limits)
        await store.open()
        commit, cut = Link.commit, list[int]()

        async def forgotten(link: Link) -> str:
            if not cut:
                cut.append(1)
                gateway.forget()
            return await commit(link)

        monkeypatch.setattr(Link, "commit", forgotten)
        async with asyncio.timeout(HANG_SECONDS):
            assert "a" == await store.transact(inserting("a"))
        assert row("a") == await store.get("a") and 1 == len(await store.entries("a"))
        await store.close()


# --- what the server says --------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, refused",
    [
        (asyncpg.UniqueViolationError("x"), True),
        (asyncpg.SerializationError("x"), True),
        (asyncpg.StatementCompletionUnknownError("x"), False),
        (asyncpg.QueryCanceledError("x"), False),
        (asyncpg.AdminShutdownError("x"), False),
    ],
)
def test_a_commit_that_may_have_happened_is_not_called_refused(
    error: asyncpg.PostgresError, refused: bool
) -> None:
    """It is in doubt, and settled by its number."""
    assert refused is refused_at_commit(error)
