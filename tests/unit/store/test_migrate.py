"""Migrations: in order, once, in one transaction, and never silently different."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError
from stage.store import migrate
from stage.store.migrate import MigrationState


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """An empty database in autocommit."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def states(connection: sqlite3.Connection, folder: Path) -> dict[str, MigrationState]:
    """The state of each migration by owner and name."""
    lines = migrate.status(connection, [folder])
    return {f"{line.owner}/{line.name}": line.state for line in lines}


def test_ours_come_first_and_all_are_recorded(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """Everything is pending, then applied; a second upgrade has nothing to do."""
    assert set(states(connection, migrations).values()) == {MigrationState.PENDING}
    done = migrate.upgrade(connection, [migrations], now=5.5)
    assert [(one.owner, one.name) for one in done] == [
        ("stage", "0001_stage"),
        ("migrations", "0001_payment"),
    ]
    assert [line.applied_at for line in migrate.status(connection, [migrations])] == [5.5, 5.5]
    assert set(states(connection, migrations).values()) == {MigrationState.APPLIED}
    assert migrate.upgrade(connection, [migrations], now=6.5) == []


def test_looking_writes_nothing(connection: sqlite3.Connection, migrations: Path) -> None:
    """`status` and `sql` leave an empty database empty."""
    migrate.status(connection, [migrations])
    assert "CREATE TABLE payment" in migrate.sql(connection, [migrations])
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_the_text_of_what_is_pending(connection: sqlite3.Connection, migrations: Path) -> None:
    """Only what is not applied yet, with its name above it."""
    migrate.upgrade(connection, [migrations], now=1.0)
    (migrations / "0002_more.sql").write_text("CREATE TABLE more (x);\n")
    assert migrate.sql(connection, [migrations]) == (
        "-- migrations/0002_more\nCREATE TABLE more (x);\n"
    )
    with pytest.raises(ConfigurationError, match=r"0002_more.*stage db upgrade"):
        migrate.check(connection, [migrations])


def test_a_failing_file_leaves_nothing_of_itself(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """Its first statement is undone too; the files before it stay applied."""
    (migrations / "0002_bad.sql").write_text("CREATE TABLE good (x);\nCREATE TABLE payment (x);")
    with pytest.raises(ConfigurationError, match=r"0002_bad failed: .*payment already exists"):
        migrate.upgrade(connection, [migrations], now=1.0)
    assert states(connection, migrations)["migrations/0001_payment"] is MigrationState.APPLIED
    assert states(connection, migrations)["migrations/0002_bad"] is MigrationState.PENDING
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "good" not in tables


def test_a_file_may_not_end_its_transaction(
    connection: sqlite3.Connection, migrations: Path
) -> None:
    """A COMMIT in a file is refused."""
    (migrations / "0002_bad.sql").write_text("CREATE TABLE good (x); COMMIT;")
    with pytest.raises(ConfigurationError, match="take BEGIN and COMMIT out"):
        migrate.upgrade(connection, [migrations], now=1.0)


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
    migrate.upgrade(connection, [migrations], now=1.0)
    assert connection.execute("SELECT saga_id, amount FROM payment").fetchall() == [("a;b", 2)]


def test_an_edited_file_is_refused(connection: sqlite3.Connection, migrations: Path) -> None:
    """Applied files are history; the message says where the change belongs."""
    migrate.upgrade(connection, [migrations], now=1.0)
    (migrations / "0001_payment.sql").write_text("CREATE TABLE payment (other TEXT);")
    assert states(connection, migrations)["migrations/0001_payment"] is MigrationState.CHANGED
    with pytest.raises(ConfigurationError, match=r"0001_payment was edited.*new one"):
        migrate.upgrade(connection, [migrations], now=2.0)


def test_a_newer_database_is_refused(connection: sqlite3.Connection, migrations: Path) -> None:
    """A migration that only the database knows: start the newer version."""
    migrate.upgrade(connection, [migrations], now=1.0)
    (migrations / "0001_payment.sql").unlink()
    assert states(connection, migrations)["migrations/0001_payment"] is MigrationState.UNKNOWN
    with pytest.raises(ConfigurationError, match="does not know: start the version"):
        migrate.upgrade(connection, [migrations], now=2.0)


def test_a_database_chooses_its_dialect(tmp_path: Path) -> None:
    """Of two variants the one for the database is taken, under the common name."""
    (tmp_path / "0001_a.sqlite.sql").write_text("SELECT 'lite';")
    (tmp_path / "0001_a.postgres.sql").write_text("SELECT 'gres';")
    for dialect, word in (("sqlite", "lite"), ("postgres", "gres")):
        last = migrate.collect([tmp_path], dialect=dialect)[-1]
        assert (last.name, last.sql) == ("0001_a", f"SELECT '{word}';")


@pytest.mark.parametrize(
    "names, fix",
    [
        (["1_a.sql"], "misnamed"),
        (["0001_A.sql"], "misnamed"),
        (["0001_a.mysql.sql"], "misnamed"),
        (["0001_a.sql", "0001_a.sqlite.sql"], "keep one"),
        (["0001_a.postgres.sql"], r"add 0001_a.sqlite.sql"),
        (["0001_a.sql", "0001_b.sql"], "renumber"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, names: list[str], fix: str) -> None:
    """Every way of misnaming a file is told with its fix."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(ConfigurationError, match=fix):
        migrate.collect([tmp_path])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that is no folder is a mistake of configuration."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        migrate.collect([tmp_path / "nowhere"])
