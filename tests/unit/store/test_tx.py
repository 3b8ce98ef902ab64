"""The author's `tx`, on every store: a few methods, and no way out of the transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from stage.ports.store import Row, Store, Tx, Unit
from stage.store.author_sql import FETCH_ROWS_MAX
from stage.store.errors import StatementRefused, TooManyRows
from tests.unit.store.given import accepted, in_one_batch, inserting, paying, payments, row

INSERT = "INSERT INTO payment (saga_id, amount) VALUES ($1, 1)"


async def test_an_author_gets_a_few_methods_and_no_way_to_the_connection(store: Store) -> None:
    """Nothing else is there to be called, no attribute holds anything, and none can be added."""

    async def unit(unit: Unit) -> Tx:
        return unit.tx

    tx = await store.transact(unit)
    public = [name for name in dir(tx) if not (name.startswith("__") and name.endswith("__"))]
    runs = ["execute", "executemany", "fetchall", "fetchone", "fetchval"]
    assert ["check_awaited", *runs] == public
    assert not hasattr(tx, "__dict__")
    for name in ("run", "rows", "write", "mark", "fetch", "end", "_connection", "connection"):
        with pytest.raises(AttributeError):
            getattr(tx, name)


LEAVING = [
    "COMMIT",
    "commit;",
    "\ufeffCOMMIT",
    ";COMMIT",
    " ; ;\t\x0c\r\n end",
    "  rollback",
    "-- a word\n BEGIN",
    "--\n--COMMIT\nROLLBACK TO part",
    "/* one */ ; end",
    "/**/COMMIT",
    "/*/ COMMIT */END",
    "/* -- */COMMIT",
    "SAVEPOINT x",
    "RELEASE part",
    "ROLLBACK TO part",
    "ATTACH ':memory:' AS x",
    "DETACH x",
    "PRAGMA foreign_keys = OFF",
    "pragma/**/synchronous=off",
    "VACUUM",
]


@pytest.mark.parametrize("method", ["execute", "fetchone", "fetchall"])
async def test_sql_that_ends_the_transaction_is_refused(store: Store, method: str) -> None:
    """The first word betrays it, behind comments too; the unit fails and nothing else."""
    for sql in LEAVING:

        async def unit(unit: Unit, sql: str = sql) -> None:
            await paying("a")(unit)
            await getattr(unit.tx, method)(sql)

        with pytest.raises(StatementRefused, match="is refused in a transaction function"):
            await store.transact(unit)
    assert await payments(store) == []


async def test_a_swallowed_refusal_changes_nothing(store: Store) -> None:
    """The refused statements did not run: the unit can still be undone, alone and whole."""
    refused: list[str] = []

    async def unit(unit: Unit) -> None:
        refused.clear()  # a unit that fails after it has written is run again
        await paying("a")(unit)
        for sql in LEAVING:
            try:
                await unit.tx.execute(sql)
            except StatementRefused:
                refused.append(sql)
        raise LookupError("the author gives up")

    done = await in_one_batch(store, paying("b"), unit, paying("c"))
    assert refused == LEAVING
    assert isinstance(done[1], LookupError)
    assert await payments(store) == ["b", "c"]


@pytest.mark.parametrize("sql", ["SELECT 1; COMMIT", "/* ; */ SELECT 1; ROLLBACK"])
async def test_a_second_statement_is_refused(store: Store, sql: str) -> None:
    """One statement at a time is run: nothing hides behind a semicolon."""

    async def unit(unit: Unit) -> None:
        await paying("a")(unit)
        await unit.tx.execute(sql)

    errors = (sqlite3.Warning, sqlite3.ProgrammingError, asyncpg.PostgresSyntaxError)
    with pytest.raises(errors, match=r"one statement|multiple commands"):
        await store.transact(unit)
    assert await payments(store) == []


@pytest.mark.parametrize("sql", ["EXPLAIN COMMIT", "/* COMMIT", "-- COMMIT", ";"])
async def test_sql_that_runs_nothing_is_harmless(sqlite_store: Store, sql: str) -> None:
    """The transaction goes on behind it."""

    async def unit(unit: Unit) -> None:
        await unit.tx.execute(sql)
        await paying("a")(unit)
        raise LookupError

    with pytest.raises(LookupError):
        await sqlite_store.transact(unit)
    assert await payments(sqlite_store) == []


async def test_a_savepoint_cannot_be_reached_from_within_an_attempt(store: Store) -> None:
    """An attempt that tries to release its mark fails and is undone; the unit goes on."""

    async def unit(unit: Unit) -> None:
        async def work() -> None:
            await paying("in")(unit)
            await unit.tx.execute("RELEASE part")

        await paying("before")(unit)
        with pytest.raises(StatementRefused):
            await unit.attempt(work)
        await paying("later")(unit)

    await store.transact(unit)
    assert await payments(store) == ["before", "later"]


async def test_a_trigger_that_rolls_back_hurts_only_its_unit(sqlite_store: Store) -> None:
    """RAISE(ROLLBACK) ends the transaction: the unit fails even where it swallows the error."""

    async def unit(unit: Unit) -> None:
        await unit.tx.execute(
            "CREATE TEMP TRIGGER bomb BEFORE INSERT ON payment WHEN new.amount = 13"
            " BEGIN SELECT RAISE(ROLLBACK, 'bang'); END"
        )
        with suppress(sqlite3.Error):
            await paying("a", 13)(unit)
        with suppress(StatementRefused):
            await paying("b")(unit)

    done = await in_one_batch(sqlite_store, paying("c"), unit, inserting("s"))
    assert isinstance(done[1], StatementRefused)
    assert await payments(sqlite_store) == ["c"]
    assert await sqlite_store.get("s") == row("s")


# --- references that are kept ------------------------------------------------------------------


async def test_a_kept_tx_is_dead_after_its_unit(store: Store) -> None:
    """A tx, a method of it, or a coroutine that was not awaited: none outlives the unit."""
    kept: list[Callable[..., Awaitable[int]]] = []
    waiting: list[Coroutine[Any, Any, int]] = []

    async def unit(unit: Unit) -> None:
        tx = unit.tx
        kept.extend([lambda sql, *rest: tx.execute(sql, *rest), tx.execute])
        waiting.append(tx.execute(INSERT, "late"))

    await store.transact(unit)
    for execute in kept:
        with pytest.raises(StatementRefused, match="is over"):
            await execute(INSERT, "late")
    with pytest.raises(StatementRefused, match="is over"):
        await waiting[0]
    assert await payments(store) == []


async def test_a_kept_tx_cannot_write_into_the_next_unit(store: Store) -> None:
    """Even while another unit of the same batch runs, on the same connection."""
    kept: list[Tx] = []

    async def first(unit: Unit) -> None:
        kept.append(unit.tx)
        await unit.tx.execute(INSERT, "first")

    async def second(unit: Unit) -> None:
        await unit.tx.execute(INSERT, "second")
        with suppress(StatementRefused):
            await kept[0].execute(INSERT, "stray")

    assert await in_one_batch(store, first, second) == [None, None]
    assert await payments(store) == ["first", "second"]


async def test_a_kept_unit_is_dead_too(store: Store) -> None:
    """Its own methods raise as its tx does."""
    kept: list[Unit] = []

    async def unit(unit: Unit) -> None:
        kept.append(unit)

    await store.transact(unit)
    for late in (
        kept[0].insert(row("late"), accepted()),
        kept[0].load("late"),
        kept[0].tx.fetchall("SELECT 1"),
    ):
        with pytest.raises(StatementRefused, match="is over"):
            await late
    assert await store.get("late") is None


# --- limits -----------------------------------------------------------------------------------


async def test_fetchall_has_a_limit(store: Store) -> None:
    """FETCH_ROWS_MAX rows are handed out, one more is an error that says how to mend it."""
    numbers = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < $1) "

    async def unit(unit: Unit) -> int:
        with pytest.raises(TooManyRows, match="LIMIT"):
            await unit.tx.fetchall(numbers + "SELECT i FROM n", FETCH_ROWS_MAX + 1)
        return len(await unit.tx.fetchall(numbers + "SELECT i FROM n", FETCH_ROWS_MAX))

    assert await store.transact(unit) == FETCH_ROWS_MAX


async def test_a_transaction_may_fetch_one_row_or_none(store: Store) -> None:
    """`fetchone` gives the first row, or None."""
    await store.transact(paying("a", 7))

    async def unit(unit: Unit) -> tuple[Row | None, Row | None]:
        query = "SELECT amount FROM payment WHERE saga_id = $1"
        return await unit.tx.fetchone(query, "a"), await unit.tx.fetchone(query, "b")

    assert await store.transact(unit) == ((7,), None)


async def test_parameters_may_be_numbered_on_every_database(store: Store) -> None:
    """As `$1`, `$2`, in any order and more than once; `executemany` runs one group a row."""
    insert = "INSERT INTO payment (amount, saga_id) VALUES ($2, $1)"
    query = "SELECT count(*) FROM payment WHERE saga_id = $1 OR (saga_id <> $1 AND amount = $2)"

    async def unit(unit: Unit) -> tuple[Any, Any]:
        await unit.tx.executemany(insert, [("a", 1), ("b", 2), ("c", 3)])
        nothing = await unit.tx.fetchval("SELECT amount FROM payment WHERE saga_id = $1", "none")
        return await unit.tx.fetchval(query, "a", 2), nothing

    assert (2, None) == await store.transact(unit)


@pytest.mark.parametrize("values", [(), ("a",), ("a", 1, "more")])
async def test_values_and_places_have_to_be_as_many(store: Store, values: tuple[Any, ...]) -> None:
    """Too many, and a place was forgotten: what was to be written there would be lost."""

    async def unit(unit: Unit) -> None:
        await unit.tx.execute("INSERT INTO payment (saga_id, amount) VALUES ($1, $2)", *values)

    refused = (StatementRefused, sqlite3.ProgrammingError, asyncpg.InterfaceError)
    with pytest.raises(refused) as raised:
        await store.transact(unit)
    said = "".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
    assert "give one" in said and "each place" in said
    assert [] == await payments(store)
