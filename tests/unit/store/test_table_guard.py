"""An author's SQL reads the tables of the stage and never writes to them, by whatever way."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from stage.core.errors import ConfigurationError
from stage.ports.store import Row, Store, Unit
from stage.store.errors import StatementRefused
from stage.store.memory import MemoryStore
from stage.store.postgres.table_guard import refused_table
from stage.store.sqlite import dialect
from stage.store.sqlite.preparing import Preparing
from stage.store.sqlite.store import SqliteStore
from stage.store.statements import load
from tests.unit.store.conftest import Faulty, opened
from tests.unit.store.given import in_one_batch, inserting, paying, payments, row

REFUSED = r"\w+ is a table of the stage, .*: write to a table of your own migrations"
WRITES = [
    "DELETE FROM journal",
    'DELETE FROM "journal"',
    "DELETE FROM [journal]",
    "DELETE FROM `JOURNAL`",
    "DELETE FROM 'journal'",
    "/* one */ DELETE -- two\n FROM main . journal",
    "DELETE FROM journal RETURNING name",
    "UPDATE saga SET state = 'completed'",
    "UPDATE OR IGNORE saga AS mine SET state = 'completed' FROM payment",
    "REPLACE INTO saga_term (name, value, saga_id) VALUES ('a', 'b', 'c')",
    "INSERT OR REPLACE INTO lost_saga SELECT * FROM lost_saga",
    "INSERT INTO writer_batch DEFAULT VALUES",
    "WITH x AS (SELECT 1) DELETE FROM journal",
    "WITH x (y) AS (VALUES (1)) INSERT INTO stage_payload_key SELECT y FROM x",
    "DROP TABLE journal",
    "ALTER TABLE saga RENAME TO mine",
    "ALTER TABLE saga ADD COLUMN mine",
    "CREATE INDEX mine ON saga (epoch)",
    "DROP INDEX saga_due",
    "CREATE TRIGGER mine AFTER INSERT ON saga BEGIN SELECT 1; END",
    "CREATE TEMP TRIGGER mine AFTER INSERT ON main.saga BEGIN SELECT 1; END",
    "CREATE TEMP TABLE saga (id)",
    "CREATE TABLE temp.journal (id)",
    "CREATE TEMP VIEW saga AS SELECT 1",
    "CREATE TABLE stage_mine (id)",
    "CREATE VIEW stage_mine AS SELECT 1",
    "EXPLAIN DELETE FROM journal",
]


@pytest.fixture
async def file_store(tmp_path: Path, migrations: Path) -> AsyncIterator[Store]:
    """A store on a file."""
    async with opened(str(tmp_path / "stage.db"), migrations) as store:
        yield store


async def run(store: Store, *statements: str) -> list[Row]:
    """Run them in one unit of an author; the rows of the last one."""

    async def unit(unit: Unit) -> list[Row]:
        for sql in statements[:-1]:
            await unit.tx.execute(sql)
        return await unit.tx.fetchall(statements[-1])

    return await store.transact(unit)


@pytest.mark.parametrize("sql", WRITES)
async def test_a_write_to_a_table_of_the_stage_is_refused(file_store: Store, sql: str) -> None:
    """However it is written; the saga that is there stays as it was."""
    await file_store.transact(inserting("s"))
    for _ in range(2):
        with pytest.raises(StatementRefused, match=rf"{REFUSED}.*: in \S"):
            await run(file_store, sql)
    assert row("s") == await file_store.get("s")
    assert 1 == len(await file_store.entries("s"))


INDIRECT = [
    ["CREATE TRIGGER mine AFTER INSERT ON payment BEGIN DELETE FROM journal; END"],
    ["CREATE TEMP TRIGGER mine AFTER INSERT ON payment BEGIN UPDATE saga SET length = 9; END"],
    [
        "CREATE VIEW shown AS SELECT 1 AS a",
        "CREATE TRIGGER deep INSTEAD OF DELETE ON shown BEGIN DELETE FROM journal; END",
        "CREATE TRIGGER mine AFTER INSERT ON payment BEGIN DELETE FROM shown; END",
    ],
]


@pytest.mark.parametrize("made", INDIRECT)
async def test_a_trigger_writes_for_nobody(file_store: Store, made: list[str]) -> None:
    """Nor does a view; the statement that lets it fire was run before and is judged anew."""
    await file_store.transact(paying("a"))
    await file_store.transact(inserting("s"))
    for sql in made:
        await run(file_store, sql)
    with pytest.raises(StatementRefused, match=REFUSED):
        await file_store.transact(paying("b"))
    assert ["a"] == await payments(file_store)
    assert row("s") == await file_store.get("s")
    assert 1 == len(await file_store.entries("s"))


async def test_a_temporary_table_takes_no_name_of_the_stage(file_store: Store) -> None:
    """By its new name it would hide the table of ours, and take what we write."""
    with pytest.raises(StatementRefused, match="mine is a temporary table, which is not altered"):
        await run(file_store, "CREATE TEMP TABLE mine (id)", "ALTER TABLE mine RENAME TO saga")
    await file_store.transact(inserting("s"))
    assert row("s") == await file_store.get("s")


async def test_a_statement_of_ours_is_refused_as_the_author_s(file_store: Store) -> None:
    """Word for word, and prepared already: the stage runs it before and behind."""
    assert not [sql for sql in load("stage.store.sqlite").values() if sql.endswith(" ")]

    async def pause(unit: Unit) -> None:
        await unit.drop_pause("psp", None)

    await file_store.transact(pause)
    sql = load("stage.store.sqlite")["drop_pause"]
    with pytest.raises(StatementRefused, match="stage_pause is a table of the stage"):
        await file_store.transact(lambda unit: unit.tx.execute(sql, "psp", None))
    await file_store.transact(pause)


async def test_a_refusal_hurts_its_unit_alone(file_store: Store) -> None:
    """The others of its batch stand, and the stage writes to its tables behind it."""

    async def unit(unit: Unit) -> None:
        await unit.tx.execute("DELETE FROM saga")

    done = await in_one_batch(file_store, inserting("a"), unit, inserting("b"))
    assert isinstance(done[1], StatementRefused)
    assert row("a") == await file_store.get("a")
    assert row("b") == await file_store.get("b")


async def test_the_tables_of_the_stage_can_be_read(file_store: Store) -> None:
    """Also by a statement that writes to the author's own, with a column named like one."""
    await file_store.transact(inserting("s"))
    await run(file_store, "INSERT INTO payment (saga_id, amount) SELECT id, 1 FROM saga")
    assert [("s", 1)] == await run(
        file_store,
        "CREATE TABLE mine (saga, journal)",
        "UPDATE mine SET saga = 1, journal = (SELECT count(*) FROM journal)",
        "SELECT saga.id, count(*) FROM saga JOIN journal ON journal.saga_id = saga.id",
    )


async def test_in_memory_the_names_are_refused_and_nothing_is_there(migrations: Path) -> None:
    """A test of an author's finds the slip too, and its message says what the table is."""
    async with opened("", migrations) as store:
        with pytest.raises(StatementRefused, match=REFUSED):
            await run(store, "CREATE TABLE stage_mine (id)")
        with pytest.raises(sqlite3.OperationalError) as raised:
            await run(store, "DELETE FROM journal")
    assert "journal is a table of the stage, which a database in memory" in "".join(
        raised.value.__notes__
    )


# --- migrations ---------------------------------------------------------------------------------

MIGRATED = [
    ("UPDATE saga SET state = 'completed';", REFUSED),
    ("CREATE INDEX mine ON journal (at);", REFUSED),
    ("CREATE TABLE stage_mine (id);", REFUSED),
    ("CREATE TRIGGER t AFTER INSERT ON saga BEGIN SELECT 1; END;", REFUSED),
    (
        "CREATE TABLE item (saga_id TEXT REFERENCES saga (id));",
        "item refers to saga, .*keep the saga id without REFERENCES",
    ),
]


@pytest.mark.parametrize("sql, message", MIGRATED)
def test_a_migration_leaves_the_tables_of_the_stage(
    migrations: Path, sql: str, message: str
) -> None:
    """Nothing of the file is applied: on a file, and where `stage check` prepares statements."""
    (migrations / "0002_more.sql").write_text(f"CREATE TABLE good (x);\n{sql}")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(ConfigurationError, match=f"migrations/0002_more failed: {message}"):
        dialect.upgrade(connection, [migrations], now=1.0)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    assert "good" not in names
    connection.execute("UPDATE saga SET state = ''")  # the connection is ours again
    connection.close()
    with pytest.raises(ConfigurationError, match=message), Preparing([migrations]):
        pass


@pytest.mark.parametrize("sql", ["CREATE TABLE stage_mine (id);", "CREATE VIEW saga AS SELECT 1;"])
async def test_in_memory_a_migration_may_not_take_a_name_of_ours(
    migrations: Path, sql: str
) -> None:
    """A test of the author's would pass otherwise, and the start of the stage fail."""
    (migrations / "0002_more.sql").write_text(sql)
    with pytest.raises(ConfigurationError, match=REFUSED):
        await MemoryStore(migrations=[migrations]).open()


def test_a_statement_that_is_only_prepared_is_judged(migrations: Path) -> None:
    """`stage check` finds a trigger that writes to the journal, and lets reads be."""
    (migrations / "0002_more.sql").write_text(
        "CREATE TRIGGER mine AFTER DELETE ON payment BEGIN DELETE FROM journal; END;"
    )
    with Preparing([migrations]) as tables:
        assert tables.refused("DELETE FROM payment", 0).startswith(
            "journal is a table of the stage"
        )
        assert "" == tables.refused("SELECT state FROM saga WHERE id = $1", 1)
        assert "" == tables.refused("UPDATE payment SET amount = $1", 1)


async def test_connections_that_are_opened_anew_are_guarded(
    tmp_path: Path, migrations: Path, faulty: type[Faulty]
) -> None:
    """As they are behind a COMMIT of which nobody knows how it ended."""
    store = SqliteStore(tmp_path / "stage.db", migrations=[migrations], factory=faulty)
    await store.open()
    try:
        faulty.plan[:] = ["landed"]
        await store.transact(inserting("s"))
        assert ["landed"] == faulty.struck
        with pytest.raises(StatementRefused, match=REFUSED):
            await run(store, "DELETE FROM journal")
    finally:
        await store.close()


# --- PostgreSQL ---------------------------------------------------------------------------------

IN_THE_SCHEMA = [
    "DELETE FROM stage.journal",
    'delete from only "stage"."journal"',
    "UPDATE stage . saga SET length = 1",
    "INSERT INTO/**/stage.saga SELECT * FROM stage.saga",
    "WITH gone AS (DELETE FROM stage.saga RETURNING 1) SELECT * FROM gone",
    "WITH x AS (SELECT 1) INSERT INTO\n-- one\nstage.replica SELECT 1",
    "MERGE INTO stage.saga USING payment ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE TABLE ONLY stage.journal",
    "DO $$ BEGIN DELETE FROM stage.journal; END $$",
    "CREATE TRIGGER mine AFTER INSERT ON stage.saga EXECUTE FUNCTION f()",
    "CREATE INDEX mine ON stage.saga (length)",
    "CREATE TABLE mine (id text REFERENCES stage.saga (id))",
    "DROP TABLE IF EXISTS stage.journal",
    "ALTER TABLE stage.saga ADD mine int",
    "LOCK TABLE stage.saga",
    "SELECT 1 INTO stage.mine",
    "SELECT E'it\\'s', 1 INTO stage.mine",
    "CREATE VIEW stage.mine AS SELECT 1",
    "DELETE FROM journal",
]
READS = [
    "SELECT count(*) FROM stage.saga",
    "INSERT INTO payment (saga_id, amount) SELECT id, 1 FROM stage.saga",
    "SELECT 1 FROM payment JOIN stage.saga ON stage.saga.id = payment.saga_id",
    "DELETE FROM payment USING stage.saga WHERE stage.saga.id = payment.saga_id",
    "UPDATE payment SET parent = 'INTO stage.saga' -- UPDATE stage.saga",
    "UPDATE payment SET amount = length FROM stage.saga WHERE saga.id = saga_id",
]
ELSEWHERE = [
    "UPDATE payment SET stage = $1",
    "UPDATE stage SET at = 1",
    "INSERT INTO saga_items VALUES (1)",
    "INSERT INTO my_stage.saga VALUES (1)",
    "INSERT INTO other.journal VALUES (1)",
]


@pytest.mark.parametrize("sql", IN_THE_SCHEMA)
def test_a_text_that_changes_the_schema_of_the_stage_is_refused(sql: str) -> None:
    assert "is a table of the stage" in refused_table(sql)


@pytest.mark.parametrize("sql", [*READS, *ELSEWHERE])
def test_a_text_that_reads_it_or_names_it_is_let_be(sql: str) -> None:
    assert "" == refused_table(sql)


async def test_on_postgresql_reads_are_run_and_writes_refused(
    postgres_url: str, migrations: Path
) -> None:
    """The statement does not reach the server, and the unit alone fails."""
    async with opened(postgres_url, migrations) as store:
        await store.transact(inserting("s"))
        for sql in READS:
            await run(store, sql)
        for sql in IN_THE_SCHEMA:
            with pytest.raises(StatementRefused, match="is a table of the stage"):
                await run(store, sql)
        with pytest.raises(StatementRefused, match="search_path belongs to the session"):
            await run(store, "SELECT set_config('search_path', 'stage', true)")
        assert row("s") == await store.get("s")


async def test_on_postgresql_a_migration_leaves_the_schema(
    postgres_url: str, migrations: Path
) -> None:
    """Nothing of the file is applied."""
    (migrations / "0002_more.sql").write_text(
        "CREATE TABLE good (x int);\nCREATE TABLE item (id text REFERENCES stage.saga (id));"
    )
    with pytest.raises(ConfigurationError, match=r"0002_more failed: stage\.saga is a table"):
        async with opened(postgres_url, migrations):
            pass
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('good')") is None
    finally:
        await connection.close()
