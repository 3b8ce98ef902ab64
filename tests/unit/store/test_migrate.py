"""Migrations: in order, once, in one transaction, and never silently different."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError
from stage.store.migrate import MigrationState, authored
from stage.store.sqlite import dialect
from stage.store.sqlite.errors import unavailable


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """An empty database in autocommit."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def states(connection: sqlite3.Connection, folder: Path) -> dict[str, MigrationState]:
    """The state of each migration by owner and name."""
    lines = dialect.status(connection, [folder])
    return {f"{line.owner}/{line.name}": line.state for line in lines}


def test_ours_come_first_and_all_are_recorded(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """Everything is pending, then applied; a second upgrade has nothing to do."""
    assert set(states(connection, migrations).values()) == {MigrationState.PENDING}
    done = dialect.upgrade(connection, [migrations], now=5.5)
    assert [(one.owner, one.name) for one in done] == [
        ("stage", "0001_stage"),
        ("stage", "0002_identity"),
        ("stage", "0003_reconcile.expand"),
        ("stage", "0004_version.expand"),
        ("stage", "0005_payload_key.expand"),
        ("stage", "0006_operators.expand"),
        ("stage", "0007_pause.expand"),
        ("stage", "0008_sweep.expand"),
        ("stage", "0009_given_up.expand"),
        ("stage", "0010_task.expand"),
        ("stage", "0011_retention.expand"),
        ("stage", "0012_act_key.expand"),
        ("migrations", "0001_payment"),
    ]
    assert {line.applied_at for line in dialect.status(connection, [migrations])} == {5.5}
    assert set(states(connection, migrations).values()) == {MigrationState.APPLIED}
    assert dialect.upgrade(connection, [migrations], now=6.5) == []


def test_looking_writes_nothing(connection: sqlite3.Connection, migrations: Path) -> None:
    """`status` and `sql` leave an empty database empty."""
    dialect.status(connection, [migrations])
    assert "CREATE TABLE payment" in dialect.pending_sql(connection, [migrations])
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_the_text_of_what_is_pending(connection: sqlite3.Connection, migrations: Path) -> None:
    """Only what is not applied yet, with its name above it."""
    dialect.upgrade(connection, [migrations], now=1.0)
    (migrations / "0002_more.sql").write_text("CREATE TABLE more (x);\n")
    assert dialect.pending_sql(connection, [migrations]) == (
        "-- migrations/0002_more\nCREATE TABLE more (x);\n"
    )
    with pytest.raises(ConfigurationError, match=r"0002_more.*stage db upgrade"):
        dialect.check(connection, [migrations])


def test_a_failing_file_leaves_nothing_of_itself(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """Its first statement is undone too; the files before it stay applied."""
    (migrations / "0002_bad.sql").write_text("CREATE TABLE good (x);\nCREATE TABLE payment (x);")
    with pytest.raises(ConfigurationError, match=r"0002_bad failed: .*payment already exists"):
        dialect.upgrade(connection, [migrations], now=1.0)
    assert states(connection, migrations)["migrations/0001_payment"] is MigrationState.APPLIED
    assert states(connection, migrations)["migrations/0002_bad"] is MigrationState.PENDING
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "good" not in tables


def test_a_full_disk_is_no_fault_of_the_file(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """Nobody is told to mend it; nothing of it is applied, and it is once there is room."""
    dialect.upgrade(connection, [migrations], now=1.0)
    big = "CREATE TABLE big (body BLOB); INSERT INTO big VALUES (zeroblob(1000000));"
    (migrations / "0002_big.sql").write_text(big)
    ((pages,),) = connection.execute("PRAGMA page_count")
    connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(sqlite3.OperationalError, match="disk is full") as caught:
        dialect.upgrade(connection, [migrations], now=1.0)
    assert "make room" in str(unavailable(caught.value))
    assert MigrationState.PENDING is states(connection, migrations)["migrations/0002_big"]
    connection.execute(f"PRAGMA max_page_count = {pages + 2000}")
    (done,) = dialect.upgrade(connection, [migrations], now=1.0)
    assert "0002_big" == done.name


def test_a_file_may_not_end_its_transaction(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """A COMMIT in a file is refused."""
    (migrations / "0002_bad.sql").write_text("CREATE TABLE good (x); COMMIT;")
    with pytest.raises(ConfigurationError, match="take BEGIN and COMMIT out"):
        dialect.upgrade(connection, [migrations], now=1.0)


def test_triggers_and_comments_are_not_torn_apart(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """A semicolon within a trigger, a string or a comment ends no statement."""
    (migrations / "0002_trigger.sql").write_text(
        "-- one; two\n"
        "CREATE TRIGGER t AFTER INSERT ON payment BEGIN\n"
        "  UPDATE payment SET amount = 1; -- three;\n"
        "  UPDATE payment SET amount = 2;\n"
        "END;\n"
        "INSERT INTO payment (saga_id, amount) VALUES ('a;b', 0);\n"
        "-- the end;\n"
    )
    dialect.upgrade(connection, [migrations], now=1.0)
    assert connection.execute("SELECT saga_id, amount FROM payment").fetchall() == [("a;b", 2)]


def test_an_edited_file_is_refused(connection: sqlite3.Connection, migrations: Path) -> None:
    """Applied files are history; the message says where the change belongs."""
    dialect.upgrade(connection, [migrations], now=1.0)
    (migrations / "0001_payment.sql").write_text("CREATE TABLE payment (other TEXT);")
    assert states(connection, migrations)["migrations/0001_payment"] is MigrationState.CHANGED
    with pytest.raises(ConfigurationError, match=r"0001_payment was edited.*new one"):
        dialect.upgrade(connection, [migrations], now=2.0)


def test_a_newer_database_is_refused(connection: sqlite3.Connection, migrations: Path) -> None:
    """A migration that only the database knows: start the newer version."""
    dialect.upgrade(connection, [migrations], now=1.0)
    (migrations / "0001_payment.sql").unlink()
    assert states(connection, migrations)["migrations/0001_payment"] is MigrationState.UNKNOWN
    with pytest.raises(ConfigurationError, match="does not know: start the version"):
        dialect.upgrade(connection, [migrations], now=2.0)


REBUILD = """
CREATE TABLE new_payment (saga_id TEXT PRIMARY KEY, amount REAL NOT NULL, parent TEXT);
INSERT INTO new_payment SELECT saga_id, amount, parent FROM payment {which};
DROP TABLE payment;
ALTER TABLE new_payment RENAME TO payment;
"""


@pytest.fixture
def with_child(connection: sqlite3.Connection, migrations: Path) -> sqlite3.Connection:
    """Foreign keys enforced as the writer has them, and a row that goes when its parent goes."""
    (migrations / "0002_item.sql").write_text(
        "CREATE TABLE item (id, saga_id REFERENCES payment (saga_id) ON DELETE CASCADE);"
    )
    dialect.upgrade(connection, [migrations], now=1.0)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("INSERT INTO payment (saga_id, amount) VALUES ('s-1', 100)")
    connection.execute("INSERT INTO item VALUES (1, 's-1')")
    return connection


def test_a_table_that_is_rebuilt_keeps_its_child_rows(
    with_child: sqlite3.Connection, migrations: Path
) -> None:
    """Create, copy, drop, rename: the drop deletes no row of another table."""
    (migrations / "0003_rebuild.sql").write_text(REBUILD.format(which=""))
    dialect.upgrade(with_child, [migrations], now=2.0)
    assert with_child.execute("SELECT id, saga_id FROM item").fetchall() == [(1, "s-1")]
    with pytest.raises(sqlite3.IntegrityError):  # enforced again
        with_child.execute("INSERT INTO item VALUES (2, 'nobody')")


def test_a_rebuild_that_loses_what_is_referred_to_is_refused(
    with_child: sqlite3.Connection, migrations: Path
) -> None:
    """Nothing of the file is applied, and the message names both tables."""
    (migrations / "0003_rebuild.sql").write_text(REBUILD.format(which="WHERE 0"))
    with pytest.raises(ConfigurationError, match="1 rows of item would refer to rows of payment"):
        dialect.upgrade(with_child, [migrations], now=2.0)
    assert with_child.execute("SELECT count(*) FROM payment").fetchone() == (1,)
    assert states(with_child, migrations)["migrations/0003_rebuild"] is MigrationState.PENDING


def test_an_expansion_of_a_later_release_is_run_on(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """A file that only adds is ahead; a contraction among it is refused as before."""
    file = migrations / "0002_more.expand.sql"
    file.write_text("ALTER TABLE payment ADD COLUMN more TEXT;")
    dialect.upgrade(connection, [migrations], now=1.0)
    file.unlink()
    assert states(connection, migrations)["migrations/0002_more.expand"] is MigrationState.AHEAD
    assert dialect.upgrade(connection, [migrations], now=2.0) == []
    dialect.check(connection, [migrations])
    other = migrations / "0003_less.contract.sql"
    other.write_text("ALTER TABLE payment DROP COLUMN more;")
    dialect.upgrade(connection, [migrations], now=3.0)
    other.unlink()
    with pytest.raises(ConfigurationError, match=r"0003_less.contract, which .* does not know"):
        dialect.upgrade(connection, [migrations], now=4.0)


@pytest.mark.parametrize(
    "files, lite, gres",
    [
        (["0001_a.sqlite.sql", "0001_a.postgres.sql"], "a.sqlite", "a.postgres"),
        (["0001_a.sql"], "a", "a"),
        (["0001_a.sql", "0001_a.sqlite.sql"], "a.sqlite", "a"),
        (["0001_a.sql", "0001_a.postgres.sql"], "a", "a.postgres"),
        (["0001_a.sql", "0001_a.postgres.sql", "0001_a.sqlite.sql"], "a.sqlite", "a.postgres"),
        (["0001_a.sql", "0002_b.postgres.sql"], "a", "a b.postgres"),
        (["0002_b.sqlite.sql", "0001_a.sql"], "a b.sqlite", "a"),
        (["0001_a.expand.sqlite.sql", "0001_a.expand.sql"], "a.expand.sqlite", "a.expand"),
    ],
)
def test_a_database_takes_its_own_file(
    tmp_path: Path, files: list[str], lite: str, gres: str
) -> None:
    """Of one migration its own file, or the common one without it; other files are ignored."""
    for name in files:
        (tmp_path / name).write_text(name[5:].removesuffix(".sql"))
    for word, expected in (("sqlite", lite), ("postgres", gres)):
        found = authored([tmp_path], word)
        assert expected == " ".join(migration.sql for migration in found)
        assert {"0001_a", "0001_a.expand", "0002_b"} >= {migration.name for migration in found}


def test_two_folders_of_one_name_are_two_owners(tmp_path: Path) -> None:
    """Nor is a folder called `stage` taken for ours."""
    folders = [tmp_path / "a" / "sql", tmp_path / "b" / "sql", tmp_path / "stage"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "0001_x.sql").write_text("SELECT 1;")
    found = authored(folders, "sqlite")
    assert ["sql", "sql-2", "stage-2"] == [migration.owner for migration in found]


@pytest.mark.parametrize(
    "names, fix",
    [
        (["1_a.sql"], "misnamed"),
        (["0001_A.sql"], "misnamed"),
        (["0001_a.mysql.sql"], "misnamed"),
        (["0001_a.sqlite.expand.sql"], "0001_payment.expand.sql where it only adds"),
        (["0001_a.expand.sql", "0001_a.sql"], "renumber"),
        (["0001_a.postgres.sql"], r"none for sqlite: add 0001_a.sqlite.sql"),
        (["0001_a.sql", "0001_b.sql"], "0001_a and 0001_b; renumber"),
        (["0001_a.sql", "0001_b.sqlite.sql"], "renumber"),
        (["0001_a.postgres.sql", "0001_b.postgres.sql", "0002_c.sql"], "renumber"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, names: list[str], fix: str) -> None:
    """Every way of misnaming a file is reported with its fix."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(ConfigurationError, match=fix):
        authored([tmp_path], "sqlite")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that is no folder is a mistake of configuration."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        authored([tmp_path / "nowhere"], "sqlite")
