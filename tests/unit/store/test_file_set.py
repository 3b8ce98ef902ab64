"""The files of several workers: made whole, listed, and refused where one is not the one listed."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.bootstrap.database import Database
from stage.core.errors import ConfigurationError
from stage.core.pause import Pause, Way, ended
from stage.ports.store import Unit
from stage.store.migrate import Applied, MigrationState, collected, pending_of
from stage.store.sqlite import dialect, file_set, making
from stage.store.sqlite.dialect import SqliteDialect
from stage.store.sqlite.file_set import (
    UNMADE,
    FileSet,
    check_listed,
    list_path,
    member_path,
    prepare_files,
    read_file_set,
)
from stage.store.sqlite.identity import DatabaseFile, read_identity, read_worker
from stage.store.sqlite.lock import DatabaseInUse, FileLock
from stage.store.sqlite.store import SqliteStore


@pytest.fixture
def file(tmp_path: Path) -> DatabaseFile:
    return DatabaseFile(path=tmp_path / "stage.db", stage="payment", release="1")


def worker_of(path: Path) -> int | None:
    with closing(sqlite3.connect(path)) as connection:
        return read_worker(connection)


def id_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        found = read_identity(connection)
    assert found is not None
    return found.id


async def opened(file: DatabaseFile, member: int | None) -> None:
    path = file.path if member is None else member_path(file.path, member)
    store = SqliteStore(msgspec.structs.replace(file, path=path, worker=member, must_exist=True))
    await store.open()
    await store.close()


def test_new_files_are_made_and_listed(file: DatabaseFile) -> None:
    """Each marked with its worker; a second start finds them."""
    files = prepare_files(file, (), 3)
    paths = [file.path, file.path.with_name("stage.1.db"), file.path.with_name("stage.2.db")]
    assert (3,) == files.sizes
    assert [id_of(path) for path in paths] == list(files.databases)
    assert [0, 1, 2] == [worker_of(path) for path in paths]
    assert 0o600 == list_path(file.path).stat().st_mode & 0o777
    assert files == prepare_files(file, (), 3) == read_file_set(file.path)


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_a_single_file_becomes_that_of_the_first_worker(file: DatabaseFile) -> None:
    """Its sagas are at home there for good, and the new file is as old as it."""
    store = SqliteStore(file)
    await store.open()
    born_at = store.identity.born_at
    await store.close()
    files = prepare_files(file, (), 2)
    assert (1, 2) == files.sizes
    with closing(sqlite3.connect(member_path(file.path, 1))) as connection:
        found = read_identity(connection)
    assert found is not None
    assert born_at == found.born_at
    await opened(file, 0)
    await opened(file, 1)


def test_another_number_is_added_to_the_list(file: DatabaseFile) -> None:
    """Files are made for more workers, and none is left out for fewer."""
    first = prepare_files(file, (), 2)
    more = prepare_files(file, (), 4)
    fewer = prepare_files(file, (), 2)
    assert ((2, 4), (4, 2)) == (more.sizes, fewer.sizes)
    assert first.databases == more.databases[:2]
    assert more.databases == fewer.databases


def test_the_number_is_not_changed_under_one_that_serves(file: DatabaseFile) -> None:
    """It would look for sagas elsewhere than the others."""
    prepare_files(file, (), 2)
    lock = FileLock(member_path(file.path, 1))
    lock.acquire()
    with pytest.raises(DatabaseInUse):
        prepare_files(file, (), 3)
    lock.release()
    assert (2,) == prepare_files(file, (), 2).sizes


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_a_worker_that_waited_does_not_serve_by_a_former_list(file: DatabaseFile) -> None:
    """Another start has changed it, and may have begun sagas where this worker does not look."""
    prepare_files(file, (), 2)

    async def opened_by(sizes: tuple[int, ...]) -> None:
        path, check = member_path(file.path, 1), partial(check_listed, file, sizes, 1)
        seated = msgspec.structs.replace(file, path=path, worker=1, check=check)
        store = SqliteStore(seated)
        await store.open()
        await store.close()

    await opened_by((2,))
    prepare_files(file, (), 3)
    with pytest.raises(ConfigurationError, match="was changed after"):
        await opened_by((2,))
    await opened_by((2, 3))  # and the lock was let go
    list_path(file.path).unlink()
    with pytest.raises(ConfigurationError, match="was changed after"):
        await opened_by((2, 3))


def test_the_list_of_another_start_is_not_changed_under_its_workers(
    file: DatabaseFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made while this start waited for the first file, and its second worker serves."""
    locked, lock = file_set._all_locked, FileLock(member_path(file.path, 1))

    def after_another(*given: Any) -> Any:
        monkeypatch.undo()
        prepare_files(file, (), 2)
        lock.acquire()
        return locked(*given)

    monkeypatch.setattr(file_set, "_all_locked", after_another)
    with pytest.raises(DatabaseInUse):
        prepare_files(file, (), 3)
    lock.release()
    found = read_file_set(file.path)
    assert found is not None
    assert (2,) == found.sizes


def test_a_backup_of_the_first_file_has_the_list(file: DatabaseFile) -> None:
    """As it is then: an older one would not know where the newest sagas are."""
    prepare_files(file, (), 2)
    prepare_files(file, (), 3)
    for member in range(2):
        copy = file.path.with_name(f"copy-{member}.db")
        made = msgspec.structs.replace(file, path=member_path(file.path, member))
        with Database(made, (), make=False) as database:
            database.back_up(copy)
    assert read_file_set(file.path.with_name("copy-0.db")) == read_file_set(file.path)
    assert not list_path(file.path.with_name("copy-1.db")).exists()


def test_an_older_list_is_refused(file: DatabaseFile) -> None:
    """It was put back from a backup, and files that it does not name have sagas."""
    prepare_files(file, (), 2)
    older = list_path(file.path).read_bytes()
    prepare_files(file, (), 3)
    list_path(file.path).write_bytes(older)
    for workers in (2, 3):
        with pytest.raises(ConfigurationError, match=r"stage\.2\.db is there, and no list"):
            prepare_files(file, (), workers)
    assert older == list_path(file.path).read_bytes()


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_new_files_have_the_pauses_of_the_first(file: DatabaseFile) -> None:
    """An operator has held a peer: a worker that was added does not send to it."""
    held = Pause(target="psp", way=Way.FORWARD, at=1.0, until=9e9, actor="kim", reason="ticket 7")
    store = SqliteStore(file)
    await store.open()
    await store.transact(lambda unit: unit.put_pause(held))
    await store.close()
    for workers in (2, 3):
        prepare_files(file, (), workers)
        last = member_path(file.path, workers - 1)
        added = SqliteStore(msgspec.structs.replace(file, path=last, worker=workers - 1))
        await added.open()
        found = await added.pauses()
        await added.close()
        assert [held] == found


async def put(file: DatabaseFile, member: int, *pauses: Pause) -> None:
    """Write pauses into the file of a worker, and into no other one."""
    path = member_path(file.path, member)
    store = SqliteStore(msgspec.structs.replace(file, path=path, worker=member))
    await store.open()
    for pause in pauses:
        await store.transact(partial(_put, pause))
    await store.close()


async def paused(file: DatabaseFile, member: int) -> list[Pause]:
    """The pauses of a worker as it has them once it is up."""
    check = partial(check_listed, file, (3,), member)
    path = member_path(file.path, member)
    store = SqliteStore(msgspec.structs.replace(file, path=path, worker=member, check=check))
    await store.open()
    found = await store.pauses()
    await store.close()
    return found


async def _put(pause: Pause, unit: Unit) -> None:
    await unit.put_pause(pause)


@pytest.mark.blocking  # the parent makes them before there is an event loop
@pytest.mark.parametrize("restored", [(0,), (1,), (2,), (2, 0), (0, 1), (0, 1, 2)])
async def test_a_restored_file_has_the_pauses_of_the_others(
    file: DatabaseFile, restored: tuple[int, ...]
) -> None:
    """Its own are as old as the backup: one that was ended came back, and the newest was missing.

    Of several that were put back, each gets those of the same file.
    """
    stale, held = (
        Pause(target=target, way=None, at=1.0, until=9e9, actor="kim", reason="ticket 7")
        for target in ("bank", "psp")
    )
    prepare_files(file, (), 3)
    for member in range(3):
        backup = member in restored
        await put(file, member, stale if backup else held)
    for member in restored:
        of_member = msgspec.structs.replace(file, path=member_path(file.path, member))
        with Database(of_member, (), make=False) as database:
            database.restored(1.0)
    prepare_files(file, (), 3)
    everywhere = [stale if len(restored) == 3 else held]
    assert [everywhere] * 3 == [await paused(file, member) for member in range(3)]


@pytest.mark.blocking  # the parent makes them before there is an event loop
@pytest.mark.parametrize("away", [0, 1, 2])
async def test_a_worker_that_was_away_holds_what_the_others_heard_since(
    file: DatabaseFile, away: int
) -> None:
    """It sent to a peer that was paused meanwhile, and held one that was resumed, until its end."""
    kept, missed = (
        Pause(target=target, way=None, at=1.0, until=9e9, actor="kim", reason="ticket 7")
        for target in ("bank", "psp")
    )
    prepare_files(file, (), 3)
    for member in range(3):
        await put(file, member, kept)
    end = ended(kept, 2.0, "kim", "over")
    for member in {0, 1, 2} - {away}:
        await put(file, member, missed, end)
    assert [[end, missed]] * 3 == [await paused(file, member) for member in range(3)]


@pytest.mark.blocking  # the parent makes them before there is an event loop
@pytest.mark.parametrize("restored", [(1,), (0, 1, 2)])
async def test_a_word_that_is_newer_than_a_restore_counts_from_every_file(
    file: DatabaseFile, restored: tuple[int, ...]
) -> None:
    """A file that was put back long ago has heard since of pauses, and of ends, alone."""
    prepare_files(file, (), 3)
    after = time.time() + 60.0  # the restore has the instant of today
    missed, over, stale = (
        Pause(target=target, way=None, at=at, until=9e9, actor="kim", reason="ticket 7")
        for target, at in (("bank", after + 2.0), ("psp", after), ("scan", 1.5))
    )
    for member in restored:
        await put(file, member, *([stale] if member else []))
        of_member = msgspec.structs.replace(file, path=member_path(file.path, member))
        with Database(of_member, (), make=False) as database:
            database.restored(2.0)
    end = ended(over, after + 1.0, "kim", "over")
    for member in range(3):
        await put(file, member, over)
    await put(file, 1, missed, end)
    assert [[missed, end]] * 3 == [await paused(file, member) for member in (1, 0, 2)]


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_a_copy_that_nobody_has_accepted_has_no_word_on_pauses(file: DatabaseFile) -> None:
    """A file that was restored long ago keeps its own, which are newer than such a copy."""
    held = Pause(target="psp", way=None, at=1.0, until=9e9, actor="kim", reason="ticket 7")
    prepare_files(file, (), 3)
    with Database(file, (), make=False) as database:
        database.restored(1.0)
    others = [member_path(file.path, member) for member in (1, 2)]
    copies = [path.read_bytes() for path in others]
    for member in range(3):
        await put(file, member, held)
    for path, copy in zip(others, copies, strict=True):
        path.write_bytes(copy)
    assert [held] == await paused(file, 0)
    with pytest.raises(ConfigurationError, match="older copy"):
        await paused(file, 1)


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_a_backup_from_before_there_were_workers_can_be_put_back(file: DatabaseFile) -> None:
    """It is no file of a worker until `restored` makes it that of the first one."""
    store = SqliteStore(file)
    await store.open()
    await store.close()
    backup = file.path.read_bytes()
    prepare_files(file, (), 2)
    file.path.write_bytes(backup)
    with pytest.raises(ConfigurationError, match="stage db restored"):
        prepare_files(file, (), 2)
    with Database(file, (), make=False) as database:
        database.restored(1.0)
    assert (1, 2) == prepare_files(file, (), 2).sizes


@pytest.mark.parametrize("after", [1, 2])
def test_a_crash_while_they_are_made_leaves_no_riddle(
    file: DatabaseFile, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start makes what is not there yet."""
    made: list[Path] = []
    make = making.make_database

    def crashing(of_member: DatabaseFile, *more: object) -> None:
        if len(made) == after:
            raise KeyboardInterrupt
        make(of_member, *more)  # type: ignore[arg-type]
        made.append(of_member.path)

    monkeypatch.setattr(file_set, "make_database", crashing)
    with pytest.raises(KeyboardInterrupt):
        prepare_files(file, (), 3)
    monkeypatch.undo()
    kept = [id_of(path) for path in made]
    files = prepare_files(file, (), 3)
    assert kept == list(files.databases[:after])
    assert UNMADE not in files.databases


def test_a_file_that_is_missing_or_another_is_refused(file: DatabaseFile) -> None:
    """With any number of workers, and nothing is made in its place."""
    prepare_files(file, (), 2)
    second = member_path(file.path, 1)
    kept = second.rename(second.with_name("kept"))
    for workers in (2, 3):
        with pytest.raises(ConfigurationError, match="of worker 1 is missing"):
            prepare_files(file, (), workers)
        assert not second.exists()
    other = msgspec.structs.replace(file, path=file.path.with_name("other.db"))
    prepare_files(other, (), 2)
    second.write_bytes(member_path(other.path, 1).read_bytes())
    with pytest.raises(ConfigurationError, match="another database than that of worker 1"):
        prepare_files(file, (), 2)
    kept.replace(second)
    file.path.rename(kept)
    second.rename(file.path)
    kept.rename(second)
    with pytest.raises(ConfigurationError, match="has to be the file of worker 0"):
        prepare_files(file, (), 2)


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_a_file_of_a_worker_is_not_served_alone(file: DatabaseFile) -> None:
    """Nor a copy of it, nor without its list; nor one that was alone in the place of a worker."""
    prepare_files(file, (), 2)
    with pytest.raises(ConfigurationError, match="worker 0 of several"):
        await opened(file, None)
    list_path(file.path).unlink()
    with pytest.raises(ConfigurationError, match="no list"):
        prepare_files(file, (), 2)
    member_path(file.path, 1).unlink()
    with pytest.raises(ConfigurationError, match="worker 0 of several"):
        prepare_files(file, (), 2)
    alone = msgspec.structs.replace(file, path=file.path.with_name("alone.db"))
    store = SqliteStore(alone)
    await store.open()
    await store.close()
    with pytest.raises(ConfigurationError, match="no file of a worker"):
        await opened(alone, 0)


def test_a_list_that_cannot_be_read_is_refused(file: DatabaseFile) -> None:
    """Half of one, or one of another release."""
    prepare_files(file, (), 2)
    listed = list_path(file.path)
    for text in (b"", b"{", b'{"sizes":[2],"databases":["a"]}', b'{"sizes":[],"databases":[]}'):
        listed.write_bytes(text)
        with pytest.raises(ConfigurationError, match="put it back"):
            prepare_files(file, (), 2)
    listed.write_bytes(msgspec.json.encode(FileSet(format=2, sizes=(1,), databases=("a",))))
    with pytest.raises(ConfigurationError, match="another release"):
        read_file_set(file.path)


def test_no_file_is_made_where_one_has_to_exist(file: DatabaseFile) -> None:
    """A volume that was forgotten is a start that is refused."""
    strict = msgspec.structs.replace(file, must_exist=True)
    with pytest.raises(ConfigurationError, match="there is no database"):
        prepare_files(strict, (), 2)
    assert [] == list(file.path.parent.glob("*.db*"))[1:]


def served_by(file: DatabaseFile, workers: int) -> None:
    """Prepare the files for so many workers, and let each look at its own as it does at start."""
    files = prepare_files(file, (), workers)
    for member in range(len(files.databases)):
        check_listed(file, files.sizes, member)


def test_an_older_list_with_the_same_files_is_refused(file: DatabaseFile) -> None:
    """It does not know where the sagas of the number between look for their homes."""
    served_by(file, 3)
    older = list_path(file.path).read_bytes()
    served_by(file, 2)
    served_by(file, 3)
    newest = list_path(file.path).read_bytes()
    list_path(file.path).write_bytes(older)
    for workers in (2, 3):
        with pytest.raises(ConfigurationError, match=r"older one.*number 2.*\[2, 3\]"):
            prepare_files(file, (), workers)
    with pytest.raises(ConfigurationError, match="older one"):
        check_listed(file, (3,), 1)
    list_path(file.path).write_bytes(older.replace(b"[3]", b"[2, 3]"))  # what it says to do
    assert (2, 3) == prepare_files(file, (), 3).sizes
    list_path(file.path).write_bytes(newest)
    assert (2, 3) == prepare_files(file, (), 3).sizes


def test_one_file_from_before_the_number_changed_can_be_put_back(file: DatabaseFile) -> None:
    """The newest list names all that it knows."""
    served_by(file, 3)
    older = member_path(file.path, 1).read_bytes()
    served_by(file, 2)
    member_path(file.path, 1).write_bytes(older)
    served_by(file, 2)


@pytest.mark.blocking  # the parent makes them before there is an event loop
async def test_a_release_without_workers_refuses_their_files(file: DatabaseFile) -> None:
    """It would serve the first one alone, and begin the sagas of the others anew."""
    served_by(file, 2)
    with closing(sqlite3.connect(file.path)) as connection:
        known = collected(SqliteDialect(connection), ())
        found = connection.execute("SELECT owner, name, sha256, applied_at FROM stage_migration")
        records = [Applied(owner=o, name=n, sha256=h, applied_at=at) for o, n, h, at in found]
        assert all(each.state is MigrationState.APPLIED for each in dialect.status(connection))
    with pytest.raises(ConfigurationError, match="stage/workers_2, which this version does not"):
        pending_of(records, known)
    await opened(file, 0)
