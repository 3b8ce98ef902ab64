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


NUMBERED = [
    "CREATE TABLE mine (number INTEGER PRIMARY KEY AUTOINCREMENT, a)",
    "INSERT INTO mine (a) VALUES (1)",
    "ALTER TABLE mine RENAME TO yours",
    "INSERT INTO yours (a) VALUES (2)",
    "DROP TABLE yours",
]
NUMBERS = [
    "DELETE FROM sqlite_sequence WHERE name = 'stage_audit'",
    "UPDATE SQLITE_SEQUENCE SET seq = 0",
    "INSERT INTO sqlite_sequence VALUES ('stage_sweep', 0)",
    "DELETE FROM sqlite_sequence WHERE name = 'mine'",
]
NUMBERS_REFUSED = "sqlite_sequence has the numbers of the stage's"


@pytest.mark.parametrize("sql", NUMBERS)
async def test_the_numbers_that_the_stage_gives_are_left_alone(file_store: Store, sql: str) -> None:
    """An act of the audit, or a sweep, would get the number of another one."""
    await run(file_store, *NUMBERED[:2])
    await run(file_store, "CREATE TABLE other (a)", "DROP TABLE other")
    with pytest.raises(StatementRefused, match=NUMBERS_REFUSED):
        await run(file_store, sql)
    with pytest.raises(StatementRefused, match=NUMBERS_REFUSED):
        await run(
            file_store,
            f"CREATE TRIGGER behind AFTER INSERT ON payment BEGIN {sql}; END",
            "INSERT INTO payment (saga_id, amount) VALUES ('b', 1)",
        )


async def test_a_table_with_numbers_of_its_own_comes_and_goes(file_store: Store) -> None:
    """SQLite keeps its row there by itself: as rows are added, as it is renamed, and dropped."""
    await run(file_store, *NUMBERED)


@pytest.mark.parametrize("sql", ["", *NUMBERS])
def test_a_migration_leaves_the_numbers_alone(migrations: Path, sql: str) -> None:
    """Also behind a statement that drops a table, for which SQLite writes there itself."""
    (migrations / "0002_more.sql").write_text(";\n".join([*NUMBERED, "DROP TABLE payment", sql]))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    if sql:
        with pytest.raises(ConfigurationError, match=f"0002_more failed: {NUMBERS_REFUSED}"):
            dialect.upgrade(connection, [migrations], now=1.0)
    else:
        dialect.upgrade(connection, [migrations], now=1.0)
    connection.close()


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
        await unit.drop_pause("psp", None, 0.0)

    await file_store.transact(pause)
    sql = load("stage.store.sqlite")["drop_pause"]
    with pytest.raises(StatementRefused, match="stage_pause is a table of the stage"):
        await file_store.transact(lambda unit: unit.tx.execute(sql, "psp", None, 0.0))
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
    migrated_url: str, migrations: Path
) -> None:
    """The statement does not reach the server, and the unit alone fails."""
    async with opened(migrated_url, migrations) as store:
        await store.transact(inserting("s"))
        for sql in READS:
            await run(store, sql)
        for sql in IN_THE_SCHEMA:
            with pytest.raises(StatementRefused, match="is a table of the stage"):
                await run(store, sql)
        with pytest.raises(StatementRefused, match="search_path belongs to the session"):
            await run(store, "SELECT set_config('search_path', 'stage', true)")
        assert row("s") == await store.get("s")


DELETED = (
    "CREATE FUNCTION gone() RETURNS {returns} LANGUAGE plpgsql {set} AS $$ BEGIN {body} END $$"
)
HIDDEN = "EXECUTE 'DELETE FROM ' || 'stage' || '.journal';"
BEHIND: dict[str, tuple[list[str], str]] = {
    "a statement that is put together": ([], f"DO $$ BEGIN {HIDDEN} END $$"),
    "a literal": ([], "DO $$ BEGIN EXECUTE 'DELETE FROM stage.journal'; END $$"),
    "a name with escapes": ([], 'DELETE FROM U&"st\\0061ge".U&"j\\006furnal"'),
    "a view": (
        ["CREATE VIEW shown AS SELECT saga_id FROM stage.journal"],
        "DELETE FROM shown",
    ),
    "a view in WITH": (
        ["CREATE VIEW shown AS SELECT saga_id FROM stage.journal"],
        "WITH gone AS (DELETE FROM shown RETURNING 1) SELECT count(*) FROM gone",
    ),
    "a function": (
        [DELETED.format(returns="void", set="", body=HIDDEN)],
        "SELECT gone()",
    ),
    "a function with a path": (
        [
            DELETED.format(
                returns="void",
                set="SET search_path = stage",
                body="UPDATE replica SET dead = true; DELETE FROM audit;",
            )
        ],
        "SELECT gone()",
    ),
    "a function of the one who made it": (
        [DELETED.format(returns="void", set="SECURITY DEFINER", body=HIDDEN)],
        "SELECT gone()",
    ),
    "TRUNCATE": ([], "DO $$ BEGIN EXECUTE 'TRUNCATE ' || 'stage' || '.journal'; END $$"),
    "a trigger": (
        [
            DELETED.format(returns="trigger", set="", body=f"{HIDDEN} RETURN NULL;"),
            "CREATE TRIGGER mine AFTER INSERT ON payment EXECUTE FUNCTION gone()",
        ],
        "INSERT INTO payment (saga_id, amount) VALUES ('b', 1)",
    ),
    "a rule": (
        [
            "CREATE VIEW shown AS SELECT saga_id FROM stage.journal",
            "CREATE RULE mine AS ON INSERT TO payment DO ALSO DELETE FROM shown",
        ],
        "INSERT INTO payment (saga_id, amount) VALUES ('b', 1)",
    ),
}


@pytest.mark.parametrize("way", BEHIND)
async def test_on_postgresql_nothing_is_written_behind_another_name(
    migrated_url: str, migrations: Path, way: str
) -> None:
    """The text tells nothing of it; the table itself refuses it, and the unit alone fails."""
    made, sql = BEHIND[way]
    async with opened(migrated_url, migrations) as store:
        await store.transact(inserting("s"))
        for each in made:
            await run(store, each)
        assert "" == refused_table(sql)

        async def unit(unit: Unit) -> None:
            await unit.tx.execute(sql)

        done = await in_one_batch(store, inserting("a"), unit, inserting("b"))
        assert isinstance(done[1], StatementRefused), done[1]
        assert "is a table of the stage, and its journal is the one truth" in str(done[1])
        assert f"in {sql[:20]}" in str(done[1])
        for saga_id in ("s", "a", "b"):
            assert row(saga_id) == await store.get(saga_id)
            assert 1 == len(await store.entries(saga_id))


async def test_on_postgresql_a_deferred_trigger_writes_for_nobody(
    migrated_url: str, migrations: Path
) -> None:
    """It runs within COMMIT, which is a statement of ours."""
    async with opened(migrated_url, migrations) as store:
        await store.transact(inserting("s"))
        await run(store, DELETED.format(returns="trigger", set="", body=f"{HIDDEN} RETURN NULL;"))
        await run(
            store,
            "CREATE CONSTRAINT TRIGGER mine AFTER INSERT ON payment DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION gone()",
        )
        with pytest.raises(asyncpg.RaiseError, match="is a table of the stage"):
            await store.transact(paying("b"))
        assert store.available and 1 == len(await store.entries("s"))


async def test_on_postgresql_every_table_of_the_stage_is_guarded(
    migrated_url: str, migrations: Path
) -> None:
    """A table of a later migration too; and a statement that claims to be ours is refused."""
    async with opened(migrated_url, migrations) as store:
        bare = await run(
            store,
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'stage'::regnamespace"
            " AND relkind = 'r' AND NOT EXISTS (SELECT FROM pg_trigger"
            " WHERE tgrelid = pg_class.oid AND tgname = 'refuse_author' AND tgtype & 60 = 60)",
        )
        assert [("payment",)] == bare  # the author's: the role of the tests is named as the schema
        with pytest.raises(StatementRefused, match="marks the statements of the stage"):
            await run(store, "/* stage */ SELECT 1")


async def test_on_postgresql_a_migration_writes_nothing_behind_another_name(
    migrated_url: str, migrations: Path
) -> None:
    """Nothing of the file is applied."""
    (migrations / "0002_more.sql").write_text(
        f"CREATE TABLE good (x int);\nDO $$ BEGIN {HIDDEN} END $$;"
    )
    with pytest.raises(ConfigurationError, match=r"0002_more failed: stage\.journal is a table"):
        async with opened(migrated_url, migrations):
            pass
    connection = await asyncpg.connect(migrated_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('good')") is None
    finally:
        await connection.close()


async def test_on_postgresql_a_person_and_an_older_release_may_write(
    migrated_url: str, migrations: Path
) -> None:
    """Neither says that an author's statements are run."""
    async with opened(migrated_url, migrations) as store:
        await store.transact(inserting("s"))
        connection = await asyncpg.connect(migrated_url)
        try:
            assert "UPDATE 1" == await connection.execute("UPDATE stage.saga SET length = length")
        finally:
            await connection.close()


async def test_on_postgresql_a_migration_leaves_the_schema(
    migrated_url: str, migrations: Path
) -> None:
    """Nothing of the file is applied."""
    (migrations / "0002_more.sql").write_text(
        "CREATE TABLE good (x int);\nCREATE TABLE item (id text REFERENCES stage.saga (id));"
    )
    with pytest.raises(ConfigurationError, match=r"0002_more failed: stage\.saga is a table"):
        async with opened(migrated_url, migrations):
            pass
    connection = await asyncpg.connect(migrated_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('good')") is None
    finally:
        await connection.close()
