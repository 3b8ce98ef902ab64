"""Stores to hold to the law, and a folder of an author's migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stage.demo.postgres_server import Server, running
from stage.ports.store import Store
from stage.store.memory import MemoryStore
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.link import Link, connect
from stage.store.postgres.store import PostgresStore
from stage.store.sqlite.store import SqliteStore
from tests.databases import Databases
from tests.sizes import TIER

PAYMENT = """
-- The author's own table.
CREATE TABLE payment (
    saga_id TEXT PRIMARY KEY,
    amount  INTEGER NOT NULL,
    parent  TEXT REFERENCES payment (saga_id) DEFERRABLE INITIALLY DEFERRED
);
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """The author's folder, with one table."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_payment.sql").write_text(PAYMENT)
    return folder


KINDS = ("memory", "sqlite", "postgres")
OLDEST = "postgres-15"
"""The oldest release of PostgreSQL that is supported. `make prove` holds it to the law alone, where
it is installed."""
OLDEST_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
"""Where Debian has it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hold every kind of store to a test that asks for `place`, or the `KINDS` of its module."""
    if "place" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "KINDS", KINDS)
        law = metafunc.module.__name__.endswith(".test_contract")
        there = law and OLDEST_PROGRAMS.is_dir()
        oldest = [pytest.param(OLDEST, marks=pytest.mark.oldest)] if there else []
        metafunc.parametrize("place", [*kinds, *oldest], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the oldest release to `make prove`, or to a run that asks for nothing else.

    In `make test` nearly every worker would start a server of it besides.
    """
    others = [item for item in items if item.get_closest_marker("oldest") is None]
    if others and TIER != "prove":
        items[:] = others


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of each kind has its database."""
    if request.param in (OLDEST, "postgres"):
        fixture = "oldest_url" if request.param == OLDEST else "migrated_url"
        url: str = request.getfixturevalue(fixture)
        return url
    return "" if request.param == "memory" else str(tmp_path / "stage.db")


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[Server]:
    """One server of the oldest release for all tests of a worker."""
    with running(programs=OLDEST_PROGRAMS) as server:
        yield server


@pytest.fixture(scope="session")
def oldest_databases(oldest_postgres: Server) -> Databases:
    """The databases of that server."""
    return Databases(oldest_postgres)


@pytest.fixture
def oldest_url(oldest_databases: Databases) -> Iterator[str]:
    """The URL of a database there, with the tables of a stage."""
    with oldest_databases.migrated() as url:
        yield url


@pytest.fixture
def oldest_empty_url(oldest_databases: Databases) -> Iterator[str]:
    """The URL of an empty database there."""
    with oldest_databases.empty() as url:
        yield url


@pytest.fixture(params=["memory", "sqlite"])
async def sqlite_store(
    request: pytest.FixtureRequest, tmp_path: Path, migrations: Path
) -> AsyncIterator[Store]:
    """As `store`, where the author's SQL is that of SQLite."""
    place = "" if request.param == "memory" else str(tmp_path / "stage.db")
    async with opened(place, migrations) as store:
        yield store


@pytest.fixture
async def store(place: str, migrations: Path) -> AsyncIterator[Store]:
    """An open store of each kind, with the author's table."""
    async with opened(place, migrations) as store:
        yield store


@pytest.fixture
async def other(place: str, store: Store) -> AsyncIterator[Link]:
    """A connection of somebody else to the server of an open store."""
    link = await connect(DatabaseServer(url=place))
    yield link
    await link.close()


@asynccontextmanager
async def opened(place: str, migrations: Path) -> AsyncIterator[Store]:
    """The store that belongs to a place."""
    store: MemoryStore | SqliteStore | PostgresStore
    if not place:
        store = MemoryStore(migrations=[migrations])
    elif place.startswith("postgresql:"):
        store = PostgresStore(place, migrations=[migrations])
    else:
        store = SqliteStore(place, migrations=[migrations])
    await store.open()
    try:
        yield store
    finally:
        await store.close()
        if isinstance(store, MemoryStore):
            store.discard()


class Faulty(sqlite3.Connection):
    """A connection whose COMMIT fails by a plan, which all connections of the test share."""

    plan: list[str] = []  # noqa: RUF012 - each test sets its own
    """One word a COMMIT, used up from the front: `ok`, `lost` or `landed`."""
    struck: list[str] = []  # noqa: RUF012 - each test sets its own
    poison: str = ""
    """A saga id in the journal that makes every COMMIT of its transaction fail."""
    refuse: bool = False
    """Nothing can be written: BEGIN fails with SQLITE_FULL."""
    commits: int = 0
    gates: list[Callable[[], object]] = []  # noqa: RUF012 - each test sets its own
    """Called, once each, just before a COMMIT raises."""

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        kind = type(self)
        if sql.startswith("BEGIN") and kind.refuse:
            kind.struck.append("full")
            raise failure("database or disk is full", sqlite3.SQLITE_FULL)
        if sql == "COMMIT":
            kind.commits += 1
            return self._commit()
        return super().execute(sql, *parameters)  # type: ignore[arg-type]

    def _commit(self) -> sqlite3.Cursor:
        kind = type(self)
        word = kind.plan.pop(0) if kind.plan else "ok"
        if kind.poison:
            found = super().execute("SELECT 1 FROM saga WHERE id = ?", (kind.poison,)).fetchone()
            word = "lost" if found else word
        if word == "ok":
            return super().execute("COMMIT")
        kind.struck.append(word)
        super().execute("COMMIT" if word == "landed" else "ROLLBACK")
        if kind.gates:
            kind.gates.pop()()
        raise failure("disk I/O error", sqlite3.SQLITE_IOERR)


def failure(text: str, code: int) -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.fixture
def faulty() -> type[Faulty]:
    """A fresh kind of connection, to be given to SqliteStore as its factory."""
    return type("FaultyHere", (Faulty,), {"plan": [], "struck": [], "gates": []})
