"""A database that another test had is like one that nobody had, or it is given to nobody."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from stage.demo.postgres_server import Server
from stage.ports.identity import Identity
from stage.ports.store import Unit
from stage.store.postgres.store import PostgresStore
from tests.databases import SCHEMA, Databases, upgrade

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'stage'::regnamespace AND relkind = 'r'"
NUMBERS = """
SELECT schemaname || '.' || sequencename, last_value FROM pg_sequences WHERE schemaname = 'stage'
"""


async def contents(url: str) -> dict[str, object]:
    """The rows of each table of the schema, without their instant, and the numbers given out."""
    connection = await asyncpg.connect(url)
    try:
        found: dict[str, object] = dict(await connection.fetch(NUMBERS))
        for (name,) in await connection.fetch(TABLES):
            rows = map(dict, await connection.fetch(f"SELECT * FROM stage.{name}"))
            found[name] = [{**row, "applied_at": None} for row in rows]
        return found
    finally:
        await connection.close()


async def use(url: str, folder: Path) -> Identity:
    """Open a store as a test does, and write by it and beside it."""
    store = PostgresStore(url, migrations=[folder])
    await store.open()
    assert store.made

    async def unit(unit: Unit) -> None:
        await unit.tx.execute("INSERT INTO mine VALUES (1)")

    await store.transact(unit)
    await store.close()
    return store.identity


FILLED = """
INSERT INTO stage.signal (saga_id, owner, event) VALUES ('a', 1, '');
UPDATE stage.dropped SET ids_until = 7;
INSERT INTO stage.reconciled VALUES (1, 'n', '', 0);
INSERT INTO stage.journal VALUES ('a', 1, 1, 0, '', '');
"""


@pytest.mark.blocking
async def test_a_database_that_a_test_had_has_nothing_of_it(
    databases: Databases, tmp_path: Path
) -> None:
    """Rows, numbers, tables of an author, sessions with their locks, and who it was."""
    (tmp_path / "0001_mine.sql").write_text(
        "CREATE TABLE mine (id int PRIMARY KEY); CREATE TABLE other (id int REFERENCES mine);"
    )
    with databases.empty() as url:
        await upgrade(url)
        before = await contents(url)
    with databases.migrated() as url:
        assert before == await contents(url)
        first = await use(url, tmp_path)
        left = await asyncpg.connect(url)
        await left.execute(FILLED)
        await left.execute("BEGIN; UPDATE stage.identity SET generation = 2")
        dirty = await contents(url)
    with databases.migrated() as again:
        assert url == again and before == await contents(again) != dirty
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await left.execute("COMMIT")
        second = await use(again, tmp_path)
    assert first.id != second.id and first.born_at < second.born_at and 1 == second.generation


CHANGES = {
    "a table that is gone": "DROP TABLE stage.act_key",
    "a column": "ALTER TABLE stage.saga ADD COLUMN more text",
    "an index": "CREATE INDEX more ON stage.saga (epoch)",
    "an index that is gone": "DROP INDEX stage.saga_state",
    "a check": "ALTER TABLE stage.saga ADD CHECK (length < 100)",
    "a default": "ALTER TABLE stage.saga ALTER parked SET DEFAULT ''",
    "a setting of a table": "ALTER TABLE stage.saga SET (fillfactor = 100)",
    "a trigger that is gone": "DROP TRIGGER refuse_author ON stage.saga",
    "a trigger that is off": "ALTER TABLE stage.saga DISABLE TRIGGER refuse_author",
    "another body": (
        "CREATE OR REPLACE FUNCTION stage.refuse_author() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'"
    ),
    "a function": "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a view": "CREATE VIEW public.mine AS SELECT 1 AS a",
    "a type": "CREATE TYPE public.mine AS ENUM ('a')",
    "a sequence": "CREATE SEQUENCE mine",
    "a rule": "CREATE RULE mine AS ON INSERT TO stage.saga DO ALSO NOTHING",
    "a schema": "CREATE SCHEMA mine",
    "a right on a schema": "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "a right on a table": "GRANT SELECT ON stage.saga TO PUBLIC",
    "rights to come": "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "a setting": "ALTER DATABASE {name} SET default_transaction_read_only = on",
    "a right on the database": "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
    "a file that was edited": "UPDATE stage.migration SET sha256 = '' WHERE name = '0001_stage'",
    "a file that is gone": "DELETE FROM stage.migration WHERE name = '0001_stage'",
}


async def test_a_change_that_is_no_row_shows_in_the_schema(migrated_url: str) -> None:
    """And with its end the schema is as it was, whatever was tried."""
    name = migrated_url.rpartition("/")[2]
    connection = await asyncpg.connect(migrated_url)
    before = await connection.fetchval(SCHEMA)
    for words, change in CHANGES.items():
        await connection.execute("BEGIN")
        await connection.execute(change.format(name=name))
        assert before != await connection.fetchval(SCHEMA), words
        await connection.execute("ROLLBACK")
        assert before == await connection.fetchval(SCHEMA), words
    await connection.execute(FILLED)
    assert before == await connection.fetchval(SCHEMA)
    await connection.execute("ANALYZE")  # a planner goes by it, and nothing undoes it
    assert before != await connection.fetchval(SCHEMA)
    await connection.close()


@pytest.mark.parametrize("change", ["an index", "a table that is gone"])
def test_a_database_whose_schema_a_test_changed_is_given_to_nobody(
    databases: Databases, postgres: Server, change: str
) -> None:
    """It is dropped, and the next one is a copy of the template."""
    with databases.migrated() as url:
        name = url.rpartition("/")[2]
        postgres.sql(CHANGES[change], name)
    with databases.migrated() as other:
        assert url != other
    assert "f" == postgres.sql(f"SELECT EXISTS (SELECT FROM pg_database WHERE datname = '{name}')")


@pytest.mark.blocking
async def test_an_empty_database_has_no_tables(databases: Databases, tmp_path: Path) -> None:
    """Nor where the test before has made some."""
    (tmp_path / "0001_mine.sql").write_text("CREATE TABLE mine (id int PRIMARY KEY)")
    for _ in range(2):
        with databases.empty() as url:
            connection = await asyncpg.connect(url)
            found = "SELECT relname FROM pg_class WHERE oid >= 16384"
            assert [] == await connection.fetch(found)
            await connection.close()
            await use(url, tmp_path)
