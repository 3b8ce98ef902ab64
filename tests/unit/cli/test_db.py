"""`stage db`: migrations are seen, printed and applied on a real file."""

from __future__ import annotations

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.cli.programs import Done, stage

SOURCE = """
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

payment = Stage("payment", accepts=Order, migrations="sql")
"""
DATABASE = ("--database", "sqlite:///p.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(SOURCE)
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT);\n")
    return tmp_path


def db(verb: str, folder: Path) -> Done:
    return stage("db", verb, "pay:payment", *DATABASE, cwd=folder)


def test_a_pending_migration_is_shown_printed_and_applied(folder: Path) -> None:
    """`status` says 1 while something is pending; `upgrade` is done once."""
    assert db("init", folder).status == 0
    (folder / "sql" / "0002_more.sql").write_text("CREATE TABLE refund (id TEXT);\n")
    pending = db("status", folder)
    assert pending.status == 1 and "sql/0002_more" in pending.out and "pending" in pending.out
    assert "CREATE TABLE refund (id TEXT);" in db("sql", folder).out
    applied = db("upgrade", folder)
    assert applied.status == 0 and "applied sql/0002_more" in applied.out
    assert db("upgrade", folder).out == "nothing is pending\n"
    assert db("sql", folder).out == ""
    assert db("status", folder).status == 0


def test_a_schema_newer_than_the_code_is_refused(folder: Path) -> None:
    """One line that names the migration; `status` shows it and says 1."""
    assert db("init", folder).status == 0
    (folder / "sql" / "0001_payment.sql").unlink()
    refused = db("upgrade", folder)
    assert refused.status == 2 and refused.err.startswith("stage: ")
    assert "sql/0001_payment" in refused.err and len(refused.err.splitlines()) == 1
    shown = db("status", folder)
    assert shown.status == 1 and "unknown" in shown.out


def test_a_contraction_is_refused_beside_a_stage_that_is_up(folder: Path) -> None:
    """The lock is held: an expansion is applied all the same, anything else is not."""
    assert db("init", folder).status == 0
    (folder / "sql" / "0002_more.expand.sql").write_text("ALTER TABLE payment ADD COLUMN more;")
    with (folder / "p.db.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = db("upgrade", folder)
        assert done.status == 0 and "applied sql/0002_more.expand" in done.out, done.err
        (folder / "sql" / "0003_less.contract.sql").write_text("ALTER TABLE payment DROP more;")
        refused = db("upgrade", folder)
        shown = db("status", folder)
    assert refused.status == 2 and "is in use" in refused.err
    assert "sql/0003_less.contract is none" in refused.err and len(refused.err.splitlines()) == 1
    assert shown.status == 1 and "pending" in shown.out


def test_an_update_without_a_migration_passes_beside_a_stage_that_is_up(folder: Path) -> None:
    """A platform runs `upgrade` before every update: with nothing pending it is done."""
    assert db("init", folder).status == 0
    with (folder / "p.db.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = db("upgrade", folder)
    assert (0, "nothing is pending\n", "") == done


def of_workers(folder: Path, workers: int) -> list[Path]:
    """The files of so many workers."""
    made = stage(*("db", "init", "pay:payment", *DATABASE, "--workers", str(workers)), cwd=folder)
    assert made.status == 0, made
    return [folder / ("p.db" if each == 0 else f"p.{each}.db") for each in range(workers)]


def test_the_files_of_all_workers_are_upgraded_alike(folder: Path) -> None:
    """Or none of them: a release needs what it needs in each."""
    paths = of_workers(folder, 3)
    (folder / "sql" / "0002_more.expand.sql").write_text("ALTER TABLE payment ADD COLUMN more;")
    pending = db("status", folder)
    assert (1, 3) == (pending.status, pending.out.count("pending"))
    done = db("upgrade", folder)
    assert [f"applied sql/0002_more.expand to {path}" for path in paths] == done.out.splitlines()
    assert 0 == db("status", folder).status
    (folder / "sql" / "0003_less.contract.sql").write_text("ALTER TABLE payment DROP more;")
    with (folder / "p.1.db.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused = db("upgrade", folder)
        shown = db("status", folder)
    assert 2 == refused.status and "p.1.db is in use" in refused.err, refused
    assert (1, 3) == (shown.status, shown.out.count("pending"))
    assert 3 == db("upgrade", folder).out.count("applied sql/0003_less.contract")


def test_one_file_of_several_that_lags_behind_is_brought_up_to_date(folder: Path) -> None:
    """An upgrade was stopped between two files. It is seen, and the next one does the rest."""
    paths = of_workers(folder, 2)
    (folder / "sql" / "0002_more.expand.sql").write_text("ALTER TABLE payment ADD COLUMN more;")
    alone = ("--database", "sqlite:///p.1.db")
    first = stage("db", "upgrade", "pay:payment", *alone, cwd=folder)
    assert (0, "applied sql/0002_more.expand\n") == (first.status, first.out)
    assert (1, 1) == (db("status", folder).status, db("status", folder).out.count("pending"))
    assert f"applied sql/0002_more.expand to {paths[0]}\n" == db("upgrade", folder).out


def test_the_files_of_all_workers_are_verified_and_backed_up(folder: Path) -> None:
    """One that is damaged is found, and no backup lacks a file of the list."""
    paths = of_workers(folder, 2)
    made = backup(folder, "copy.db")
    assert (0, 2) == (made.status, made.out.count("backed up")), made
    copies = ("--database", f"sqlite:///{folder / 'copy.db'}")
    whole = stage("db", "verify", "pay:payment", *copies, cwd=folder)
    assert (0, 2) == (whole.status, whole.out.count("is whole")), whole
    for path in folder.glob("copy.*"):
        path.unlink()
    with closing(sqlite3.connect(paths[1])) as connection, connection:
        connection.execute("INSERT INTO journal VALUES ('s-1', 1, 1, 0.0, 'accepted', x'')")
    seen = db("verify", folder)
    assert (1, True) == (seen.status, f"{paths[1]} is damaged" in seen.out)
    refused = backup(folder, "copy.db")
    assert (2, True) == (refused.status, "the copy is damaged" in refused.err)
    assert [] == list(folder.glob("copy.*"))
    paths[1].unlink()
    assert "p.1.db of worker 1 is missing" in db("status", folder).err


def test_all_files_of_workers_are_accepted_as_a_backup(folder: Path) -> None:
    """Or the first one alone, which is said; and none is made in the place of one that is lost."""
    paths = of_workers(folder, 2)
    accept = ("db", "restored", "pay:payment", *DATABASE, "--as-of", "2026-11-23T02:30:00Z")
    alone = stage(*accept, cwd=folder)
    assert (0, 1) == (alone.status, alone.out.count("begins with the backup")), alone
    assert "--all-files" in alone.err and str(paths[1]) in alone.err
    both = stage(*accept, "--all-files", cwd=folder)
    assert (0, "") == (both.status, both.err)
    assert f"generation 3 of {paths[0]}" in both.out and f"generation 2 of {paths[1]}" in both.out
    release = ("db", "released", "pay:payment", *DATABASE, "--reason", "x", "--no-neighbours")
    assert 2 == stage(*release, "--all-files", cwd=folder).out.count("is released")
    for path in folder.glob("p.db*"):
        if not path.name.endswith(".workers"):
            path.unlink()
    lost = db("init", folder)
    assert 2 == lost.status and "lists it as that of worker 0" in lost.err
    assert not paths[0].exists()


def test_a_release_runs_on_a_schema_that_is_one_expansion_ahead(folder: Path) -> None:
    """The code is taken back to the release before: its additive migration stays, and harms not."""
    (folder / "sql" / "0002_more.expand.sql").write_text("ALTER TABLE payment ADD COLUMN more;")
    assert db("init", folder).status == 0
    (folder / "sql" / "0002_more.expand.sql").unlink()
    shown = db("status", folder)
    assert shown.status == 0 and "ahead" in shown.out
    assert db("upgrade", folder).out == "nothing is pending\n"


def test_a_migration_that_fails_is_reported_and_changes_nothing(folder: Path) -> None:
    """The file and the reason, and what was applied before stays."""
    assert db("init", folder).status == 0
    (folder / "sql" / "0002_wrong.sql").write_text("CREATE TABLE other (id TEXT); NONSENSE;")
    done = db("upgrade", folder)
    assert done.status == 2 and "sql/0002_wrong failed" in done.err
    with closing(sqlite3.connect(folder / "p.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "payment" in tables and "other" not in tables


def test_a_database_is_made_by_name_alone(folder: Path) -> None:
    """Only `init` makes one; the other verbs name it; a second `init` is refused."""
    for verb in ("upgrade", "status", "sql"):
        refused = db(verb, folder)
        assert 2 == refused.status and "stage db init" in refused.err
        assert not list(folder.glob("p.db*"))
    made = db("init", folder)
    assert 0 == made.status and str(folder / "p.db") in made.out and "payment" in made.out
    again = db("init", folder)
    assert 2 == again.status and "already" in again.err
    shown = db("status", folder)
    assert "stage payment" in shown.out and "generation 1" in shown.out


def test_the_database_of_another_stage_is_refused(folder: Path) -> None:
    """Every verb says whose it is, and what to do."""
    assert 0 == db("init", folder).status
    (folder / "pay.py").write_text(SOURCE.replace('Stage("payment"', 'Stage("invoicing"'))
    for verb in ("upgrade", "status", "sql"):
        refused = db(verb, folder)
        assert 2 == refused.status
        assert "'payment'" in refused.err and "'invoicing'" in refused.err and "path" in refused.err


def test_a_backup_that_was_put_back_is_accepted_by_name(folder: Path) -> None:
    """A new generation, which awaits a release; what it lacks is listed then."""
    assert 0 == db("init", folder).status
    sweep = "INSERT INTO stage_sweep VALUES (7, 1.0, 'kim', 'retry', 'x', '', '', 1.0, 'running')"
    with closing(sqlite3.connect(folder / "p.db")) as connection, connection:
        connection.execute(sweep)
    done = stage(
        *("db", "restored", "pay:payment", *DATABASE, "--as-of", "2026-11-23T02:30:00Z"),
        cwd=folder,
    )
    assert 0 == done.status and "generation 2" in done.out, done
    assert "sweeps that ran in it are stopped: 7. `stage sweeps N --resume" in done.out
    assert "generation 2" in db("status", folder).out
    with closing(sqlite3.connect(folder / "p.db")) as connection:
        connection.execute("INSERT INTO lost_saga VALUES ('o-7', 'shipping', 'late', NULL, 1.0)")
        connection.commit()
    release = ("db", "released", "pay:payment", *DATABASE, "--reason", "asked all")
    nobody = stage(*release, cwd=folder)
    assert 2 == nobody.status and "--upstream" in nobody.err and "--no-neighbours" in nobody.err
    refused = stage(*release, "--no-neighbours", cwd=folder)
    assert 2 == refused.status and "o-7" in refused.err and "stage reconcile" in refused.err
    assert "that another shard or file has" in refused.err and "--give-up ID=REASON" in refused.err
    assert "/console/reconcile" in refused.err, "the files of workers are reconciled there alone"
    assert "o-7, asked for by shipping" in refused.out
    for slip, fix in (("o-7", "ID=REASON"), ("o-8=no effect", "o-8")):
        given = stage(*release, "--no-neighbours", "--give-up", slip, cwd=folder)
        assert 2 == given.status and fix in given.err
    giving_up = ("--no-neighbours", "--give-up", "o-7=the psp has no charge")
    released = stage(*release, *giving_up, cwd=folder)
    assert 0 == released.status and "asked all" in released.out
    with closing(sqlite3.connect(folder / "p.db")) as connection:
        acts = "SELECT actor, act, target, reason FROM stage_audit WHERE act = 'lost_given_up'"
        assert [("stage db released", "lost_given_up", "o-7", "the psp has no charge")] == (
            connection.execute(acts).fetchall()
        )
        assert [] == connection.execute("SELECT saga_id FROM lost_saga").fetchall()
    wrong = stage("db", "restored", "pay:payment", *DATABASE, "--as-of", "then", cwd=folder)
    assert 2 == wrong.status and "RFC 3339" in wrong.err


def test_a_release_drops_requests_about_sagas_that_were_dropped_for_their_age(
    folder: Path,
) -> None:
    """An older release of ours kept them, and each took the place of a lost saga for good."""
    assert 0 == db("init", folder).status
    as_of = ("--as-of", "2026-11-23T02:30:00Z")
    assert 0 == stage("db", "restored", "pay:payment", *DATABASE, *as_of, cwd=folder).status
    keep = "INSERT INTO lost_saga VALUES (?, 'shipping', 'late', NULL, 1.0)"
    old = [("01890000-0000-7000-8000-000000000001",), ("01890000-0000-7000-8000-000000000002",)]
    with closing(sqlite3.connect(folder / "p.db")) as connection, connection:
        connection.executemany(keep, old)
        connection.execute("UPDATE stage_dropped SET ids_until = 9e9")
    release = ("db", "released", "pay:payment", *DATABASE, "--reason", "asked all")
    assert 0 == stage(*release, "--no-neighbours", cwd=folder).status
    with closing(sqlite3.connect(folder / "p.db")) as connection:
        assert [] == connection.execute("SELECT saga_id FROM lost_saga").fetchall()
        acts = "SELECT act FROM stage_audit WHERE act = 'lost_given_up'"
        assert [] == connection.execute(acts).fetchall()


def test_a_neighbour_that_does_not_answer_is_named_and_can_be_left_out(folder: Path) -> None:
    """Exit status 1 and the reason; the release is refused until it was asked or left out."""
    away = ("--upstream", "order=http://127.0.0.1:1")
    db("init", folder)
    stage(
        *("db", "restored", "pay:payment", *DATABASE, "--as-of", "2026-11-23T02:30:00Z"),
        cwd=folder,
    )
    asked = stage("reconcile", "pay:payment", *DATABASE, *away, cwd=folder)
    assert 1 == asked.status
    assert "order was not asked" in asked.out and "--without order=REASON" in asked.out
    assert "nothing is missing" not in asked.out
    release = ("db", "released", "pay:payment", *DATABASE, *away, "--reason", "x")
    refused = stage(*release, cwd=folder)
    assert 2 == refused.status and "stage reconcile" in refused.err
    bare = stage("reconcile", "pay:payment", *DATABASE, *away, "--without", "order", cwd=folder)
    assert 2 == bare.status and "NAME=REASON" in bare.err
    without = ("--without", "order=its books were read")
    assert 0 == stage("reconcile", "pay:payment", *DATABASE, *away, *without, cwd=folder).status
    assert 0 == stage(*release, cwd=folder).status


def test_reconcile_makes_no_database_and_asks_somebody(folder: Path) -> None:
    """A wrong path is refused and stays empty; so is a command without a neighbour."""
    since = ("--since", "2026-11-23T02:30:00Z")
    away = ("--upstream", "order=http://127.0.0.1:1")
    missing = stage("reconcile", "pay:payment", *DATABASE, *since, *away, cwd=folder)
    assert 2 == missing.status and "stage db init" in missing.err
    assert not list(folder.glob("p.db*"))
    db("init", folder)
    nobody = stage("reconcile", "pay:payment", *DATABASE, *since, cwd=folder)
    assert 2 == nobody.status and "--downstream" in nobody.err


def test_a_file_that_cannot_be_used_is_refused_with_its_own_fix(folder: Path) -> None:
    """A damaged one is to be restored; a folder is no file."""
    assert 0 == db("init", folder).status
    with (folder / "p.db").open("r+b") as file:
        file.truncate(20_000)
    damaged = db("status", folder)
    assert 2 == damaged.status and "restore it from a backup" in damaged.err
    (folder / "p.db").unlink()
    (folder / "p.db").mkdir()
    assert "is a folder" in db("init", folder).err


def backup(folder: Path, file: str) -> Done:
    return stage("db", "backup", "pay:payment", file, *DATABASE, cwd=folder)


def test_a_backup_beside_a_writer_is_whole_private_and_checked(folder: Path) -> None:
    """It has what was committed, and nothing of what is under way; a file that is there stays."""
    assert db("init", folder).status == 0
    with closing(sqlite3.connect(folder / "p.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("INSERT INTO payment VALUES ('committed')")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO payment VALUES ('under way')")
        made = backup(folder, "copy.db")
        writer.execute("ROLLBACK")
    assert (0, True) == (made.status, "checked" in made.out), made.err
    assert 0o600 == (folder / "copy.db").stat().st_mode & 0o777
    with closing(sqlite3.connect(folder / "copy.db")) as copy:
        assert [("committed",)] == copy.execute("SELECT id FROM payment").fetchall()
    again = backup(folder, "copy.db")
    assert (2, True) == (again.status, "is there already" in again.err)
    assert [] == list(folder.glob("*.unfinished"))


def test_a_damaged_database_is_seen_and_not_backed_up(folder: Path) -> None:
    """Rows that fit no journal, or pages that are no pages: exit status 1, and no backup."""
    assert db("init", folder).status == 0
    whole = db("verify", folder)
    assert (0, True) == (whole.status, "is whole" in whole.out)
    with closing(sqlite3.connect(folder / "p.db")) as connection, connection:
        connection.execute("INSERT INTO journal VALUES ('s-1', 1, 1, 0.0, 'accepted', x'')")
    seen = db("verify", folder)
    assert (1, True) == (seen.status, "s-1 has journal entries and no row" in seen.out)
    refused = backup(folder, "copy.db")
    assert (2, True) == (refused.status, "the copy is damaged" in refused.err)
    assert not (folder / "copy.db").exists()
