"""Properties of the store on a file alone: locks, kills, readers, settings."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.ports.store import Filter, Store, Unit
from stage.store.codec import PLAIN
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.connections import SqliteConnections
from stage.store.sqlite.identity import DatabaseFile
from stage.store.sqlite.lock import LOOK_SECONDS, DatabaseInUse, FileLock
from stage.store.sqlite.store import SqliteLimits, SqliteStore
from tests.unit.store.conftest import opened
from tests.unit.store.given import (
    accepted,
    in_one_batch,
    inserting,
    longer,
    parked,
    paying,
    payments,
    row,
    until,
)
from tests.waits import HANG_SECONDS

WRITER = """
import asyncio, sys
from stage.store.sqlite.store import SqliteLimits, SqliteStore
from tests.unit.store.given import inserting

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    number = 0
    while True:
        await store.transact(inserting(f"s{number:06}"))
        print(f"s{number:06}", flush=True)
        number += 1

asyncio.run(main())
"""
"""Writes one saga after the other and names each once it is durable."""


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real process that writes to the file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "stage.db")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines of a process."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


async def test_a_file_belongs_to_one_process(
    tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    """A second process is refused with the path, the pid of the first, and the fix."""
    await asyncio.to_thread(lines, other_process, 1)
    with pytest.raises(
        ConfigurationError, match=rf"stage\.db is in use .* pid {other_process.pid} .*stop that one"
    ):
        await SqliteStore(tmp_path / "stage.db").open()


async def test_durable_sagas_survive_a_kill(
    tmp_path: Path, other_process: subprocess.Popen[str]
) -> None:
    """After SIGKILL every saga whose unit had returned is there, and the lock is free."""
    named = await asyncio.to_thread(lines, other_process, 50)
    other_process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(other_process.wait)
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()
    try:
        there = [found.id for found in await store.page(Filter(limit=100_000))]
        assert there[: len(named)] == named
        assert await store.get("s000000") == row("s000000")
        assert await store.transact(inserting("after")) == "after"
    finally:
        await store.close()


async def test_the_lock_holds_within_a_process_too(tmp_path: Path) -> None:
    """Two stores on one file are refused; after `close` the next one may open it."""
    first = SqliteStore(tmp_path / "stage.db")
    await first.open()
    with pytest.raises(ConfigurationError, match=f"pid {os.getpid()}"):
        await SqliteStore(tmp_path / "stage.db").open()
    await first.transact(inserting("a"))
    await first.close()
    second = SqliteStore(tmp_path / "stage.db")
    await second.open()
    assert await second.get("a") == row("a")
    await second.close()


async def test_readers_see_only_what_is_durable(tmp_path: Path) -> None:
    """A read beside a unit that has written but is not committed shows the state before it."""
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()
    written, go_on = threading.Event(), threading.Event()

    async def unit(unit: Unit) -> None:
        await unit.insert(row("a"), accepted())
        written.set()
        go_on.wait(HANG_SECONDS)

    try:
        task = asyncio.ensure_future(store.transact(unit))
        await asyncio.to_thread(written.wait, HANG_SECONDS)
        assert await store.get("a") is None
        assert await store.entries("a") == []
        assert sum((await store.count()).values()) == 0
        go_on.set()
        await task
        assert await store.get("a") == row("a")
    finally:
        go_on.set()
        await store.close()


async def test_a_commit_is_synced(tmp_path: Path) -> None:
    """The settings that durability rests on are those of the connection that writes."""
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()

    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert store._connections._writer is not None
    found = await store._connections._writer.run(settings)
    await store.close()
    assert found == ["wal", 2, 1, 5000]


async def test_a_batch_writes_to_no_file_but_its_own(tmp_path: Path) -> None:
    """Undo data of a savepoint would go to a temporary file, perhaps on another disk."""
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()

    def opened() -> set[str]:
        folder = Path("/proc/self/fd")
        return {str(file.readlink()) for file in folder.iterdir() if file.is_symlink()}

    async def create(unit: Unit) -> None:
        await unit.tx.execute("CREATE TABLE filled (number INTEGER PRIMARY KEY, what BLOB)")
        for number in range(100):
            await unit.tx.execute("INSERT INTO filled VALUES (?, zeroblob(4000))", number)

    async def overwrite(unit: Unit) -> set[str]:
        await unit.tx.execute("UPDATE filled SET what = randomblob(4000)")
        return opened()

    try:
        await store.transact(create)
        before = opened()
        assert any(name.endswith("-wal") for name in before)
        assert await store.transact(overwrite) <= before
    finally:
        await store.close()


async def test_readers_cannot_write(tmp_path: Path) -> None:
    """A reading connection refuses to write, whatever it is given."""
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await store._connections._readers[0].run(lambda c: c.execute("DELETE FROM saga"))
    finally:
        await store.close()


async def test_pending_migrations_are_refused_without_upgrade(
    tmp_path: Path, migrations: Path
) -> None:
    """Opened without upgrade nothing is made or migrated: a ConfigurationError; nothing is held."""
    path = tmp_path / "stage.db"
    with pytest.raises(ConfigurationError, match="stage db init"):
        await SqliteStore(path).open(upgrade=False)
    assert not path.exists()
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with pytest.raises(ConfigurationError, match="stage db upgrade"):
        await SqliteStore(path, migrations=[migrations]).open(upgrade=False)
    store = SqliteStore(path, migrations=[migrations])
    await store.open()
    await store.close()
    store = SqliteStore(path, migrations=[migrations])
    await store.open(upgrade=False)
    await store.close()


@pytest.mark.parametrize("broken", ["missing/stage.db", "folder", "text"])
async def test_an_unusable_path_is_refused(tmp_path: Path, broken: str) -> None:
    """The message has the path and the fix, and no thread or lock is left behind."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("this is no database" * 100)
    with pytest.raises(ConfigurationError, match=broken):
        await SqliteStore(tmp_path / broken).open()


async def test_another_writer_makes_it_unavailable(tmp_path: Path) -> None:
    """A lock held by a foreign tool for too long makes it unavailable; nothing was written."""

    class Impatient(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("= 5000", "= 10"), *parameters)  # type: ignore[arg-type]

    store = SqliteStore(
        tmp_path / "stage.db", factory=Impatient, limits=SqliteLimits(retry_seconds=0.01)
    )
    await store.open()
    foreign = await asyncio.to_thread(
        sqlite3.connect, tmp_path / "stage.db", isolation_level=None, check_same_thread=False
    )
    try:
        await asyncio.to_thread(foreign.execute, "BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process holds the database"):
            await store.transact(inserting("a"))
        assert not store.available
        await asyncio.to_thread(foreign.execute, "ROLLBACK")
        await until(lambda: store.available)
        assert await store.transact(inserting("a")) == "a"
    finally:
        foreign.close()
        await store.close()


async def test_a_file_that_is_read_only_at_start_is_written_to_once_it_can_be(
    tmp_path: Path,
) -> None:
    """A wrong mode or mount is mended under the running stage; until then it is not ready."""
    path = tmp_path / "stage.db"
    made = SqliteStore(path)
    await made.open()
    await made.close()

    class ReadOnly(sqlite3.Connection):
        refuses = True

        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            if self.refuses and sql.startswith("BEGIN IMMEDIATE"):
                error = sqlite3.OperationalError("attempt to write a readonly database")
                error.sqlite_errorcode = sqlite3.SQLITE_READONLY
                raise error
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    store = SqliteStore(path, factory=ReadOnly, limits=SqliteLimits(retry_seconds=0.01))
    await store.open()
    try:
        with pytest.raises(StoreUnavailable, match="check its mode and the mount"):
            await store.transact(inserting("a"))
        assert not store.available
        ReadOnly.refuses = False
        await until(lambda: store.available)
        assert "a" == await store.transact(inserting("a"))
    finally:
        await store.close()


def test_both_stores_are_stores(tmp_path: Path) -> None:
    """They fit the port, as mypy sees it."""
    from stage.store.memory import MemoryStore

    stores: list[Store] = [SqliteStore(tmp_path / "stage.db"), MemoryStore()]
    assert [store.available for store in stores] == [True, True]


def mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o777


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: mode_of(file) for file in folder.iterdir()}


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Database, log, index and lock, whatever the umask: they hold payloads."""
    before = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "a.db")
        await store.open()
        try:
            modes = modes_in(tmp_path)
        finally:
            await store.close()
    finally:
        os.umask(before)
    assert {"a.db", "a.db-wal", "a.db-shm", "a.db.lock"} == set(modes)
    assert {0o600} == set(modes.values()), modes


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[FileLock]:
    """The lock of another process on a file."""
    lock = FileLock(tmp_path / "a.db")
    lock.acquire()
    yield lock
    lock.release()


async def test_a_store_waits_for_the_process_that_has_its_file(
    tmp_path: Path, holder: FileLock
) -> None:
    """It opens as soon as the lock is free, and says once what it waits for."""
    reasons: list[str] = []
    store = SqliteStore(
        DatabaseFile(path=tmp_path / "a.db", lock_wait_seconds=60.0, waiting=reasons.append)
    )
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(3 * LOOK_SECONDS)
    assert not opening.done()
    holder.release()
    async with asyncio.timeout(HANG_SECONDS):
        await opening
    await store.close()
    assert 1 == len(reasons) and f"pid {os.getpid()} " in reasons[0]


async def test_a_wait_for_the_file_has_an_end(tmp_path: Path, holder: FileLock) -> None:
    """Then the start is refused as without a wait, and the holder keeps what it has."""
    store = SqliteStore(DatabaseFile(path=tmp_path / "a.db", lock_wait_seconds=2 * LOOK_SECONDS))
    with pytest.raises(DatabaseInUse, match="let it wait with --lock-wait-seconds"):
        await store.open()
    with pytest.raises(DatabaseInUse):
        await asyncio.to_thread(FileLock(tmp_path / "a.db").acquire)


async def test_a_start_that_waits_and_is_cancelled_holds_no_lock(
    tmp_path: Path, holder: FileLock
) -> None:
    """A host that gives the start up, such as an ASGI server, leaves the file to others."""
    store = SqliteStore(DatabaseFile(path=tmp_path / "a.db", lock_wait_seconds=60.0))
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(LOOK_SECONDS / 2)  # between two attempts
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    holder.release()
    await asyncio.to_thread(FileLock(tmp_path / "a.db").acquire)


async def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """It would have us write into what it points to."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "a.db.lock").symlink_to(victim)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        await SqliteStore(tmp_path / "a.db").open()
    assert "precious" == victim.read_text()


@pytest.mark.parametrize(
    "call, number, fix",
    [
        ("open", errno.EMFILE, "ulimit -n"),
        ("open", errno.EROFS, "mount the file system"),
        ("pwrite", errno.ENOSPC, "make room on the disk"),
        ("pwrite", errno.EDQUOT, "larger quota"),
        ("read", errno.EIO, "look at the disk"),
        ("flock", errno.ENOLCK, "has no locks"),
    ],
)
def test_a_lock_that_cannot_be_had_names_the_fix_and_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, fix: str
) -> None:
    """Nobody has the database then, so nothing is to be waited for."""

    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    lock = FileLock(tmp_path / "a.db")
    with monkeypatch.context() as context:
        context.setattr(fcntl if call == "flock" else os, call, refused)
        with pytest.raises(ConfigurationError, match=rf"a\.db\.lock: .*{fix}") as caught:
            lock.acquire()
    assert not isinstance(caught.value, DatabaseInUse)
    FileLock(tmp_path / "a.db").acquire()


def test_the_lock_of_an_older_release_becomes_private(tmp_path: Path) -> None:
    """It was readable, so that any user could hold it and keep the stage from starting."""
    (tmp_path / "a.db.lock").touch(0o644)
    lock = FileLock(tmp_path / "a.db")
    lock.acquire()
    lock.release()
    assert 0o600 == mode_of(tmp_path / "a.db.lock")


async def test_the_first_function_that_fails_after_it_has_written_has_its_unit_run_again(
    tmp_path: Path, migrations: Path
) -> None:
    """Its writes are undone, the others of the batch stand, and from then on it is marked."""
    runs: list[str] = []

    def failing(name: str) -> Callable[[Unit], Awaitable[None]]:
        async def unit(unit: Unit) -> None:
            async def work() -> None:
                runs.append(name)
                await paying(name)(unit)
                raise LookupError(name)

            with pytest.raises(LookupError):
                await unit.attempt(work)
            await paying(f"behind-{name}")(unit)

        return unit

    async with opened(str(tmp_path / "stage.db"), migrations) as store:
        done = await in_one_batch(store, paying("a"), failing("b"), paying("c"))
        assert [1, None, 1] == done
        assert ["b", "b"] == runs
        assert ["a", "behind-b", "c"] == await payments(store)
        await store.transact(failing("d"))
        assert ["b", "b", "d"] == runs
        assert ["a", "behind-b", "behind-d", "c"] == await payments(store)


@pytest.mark.parametrize("marked", [False, True])
async def test_a_unit_that_reads_a_journal_and_fails_takes_no_entry_of_others_along(
    tmp_path: Path, migrations: Path, marked: bool
) -> None:
    """The entries of a batch wait for its end; one that is asked for comes before."""
    read: list[int] = []

    async def reading(unit: Unit) -> None:
        async def work() -> None:
            if marked:
                await paying("b")(unit)
            read.append(len(await unit.journal("a")))
            raise LookupError

        with pytest.raises(LookupError):
            await unit.attempt(work)
        raise LookupError

    async def failing(unit: Unit) -> None:
        async def work() -> None:
            await paying("x")(unit)
            raise LookupError

        await unit.attempt(work)

    async with opened(str(tmp_path / "stage.db"), migrations) as store:
        with pytest.raises(LookupError):
            await store.transact(failing)  # from here on the writes of authors are marked
        _ = await in_one_batch(store, inserting("a"), reading, inserting("c"))
        assert read and {1} == set(read)
        assert [1, 1] == [len(await store.entries(each)) for each in ("a", "c")]
        assert [] == await payments(store)


async def test_an_entry_that_is_there_already_fails_its_unit_alone(
    tmp_path: Path, migrations: Path
) -> None:
    """It is refused at the end of the batch, which is then run unit by unit."""

    async def more(unit: Unit) -> None:
        await unit.save(longer(row("a"), 2), parked(), epoch=1)

    async with opened(str(tmp_path / "stage.db"), migrations) as store:
        await store.transact(inserting("a"))
        with closing(sqlite3.connect(tmp_path / "stage.db", isolation_level=None)) as astray:
            astray.execute(
                "INSERT INTO journal (saga_id, number, epoch, at, name, event)"
                " VALUES ('a', 2, 1, 0.0, 'parked', x'7b7d')"
            )
        first, failed, last = await in_one_batch(store, inserting("b"), more, inserting("c"))
        assert ("b", "c") == (first, last)
        assert isinstance(failed, sqlite3.IntegrityError)
        assert row("a") == await store.get("a")


async def test_a_function_that_fails_before_it_writes_costs_no_further_run(
    sqlite_store: Store,
) -> None:
    """Reads need no undoing, and the earlier writes of the unit stand."""
    runs: list[str] = []

    async def unit(unit: Unit) -> None:
        async def work() -> None:
            runs.append("work")
            await unit.tx.fetchval("SELECT count(*) FROM payment")
            raise LookupError

        await paying("before")(unit)
        with pytest.raises(LookupError):
            await unit.attempt(work)

    await sqlite_store.transact(unit)
    assert ["work"] == runs
    assert ["before"] == await payments(sqlite_store)


async def test_a_close_waits_for_one_that_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of its connections need the event loop until they have ended."""
    may_end = asyncio.Event()

    async def slow(_: Bridge) -> None:
        await may_end.wait()

    monkeypatch.setattr(Bridge, "close", slow)
    connections = SqliteConnections(
        tmp_path / "stage.db", PLAIN, readers=1, factory=sqlite3.Connection
    )
    connections._readers.append(Bridge(lambda: sqlite3.connect(":memory:")))
    first = asyncio.create_task(connections.close())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(connections.close())
    done, _ = await asyncio.wait([second], timeout=0.05)
    assert not done
    may_end.set()
    await asyncio.wait_for(second, HANG_SECONDS)


async def test_a_close_waits_for_an_inspection_whose_close_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its thread outlives the event loop, and keeps the file open after the close."""
    sqlite3.connect(tmp_path / "stage.db").close()
    closes, may_end, close = asyncio.Event(), asyncio.Event(), Bridge.close

    async def slow(bridge: Bridge) -> None:
        closes.set()
        await may_end.wait()
        await close(bridge)

    monkeypatch.setattr(Bridge, "close", slow)
    connections = SqliteConnections(
        tmp_path / "stage.db", PLAIN, readers=1, factory=sqlite3.Connection
    )
    await connections._connect_readers()
    inspection = asyncio.create_task(connections.inspect(lambda _: None))
    await closes.wait()
    inspection.cancel()
    await asyncio.wait([inspection])
    reader, connections._readers = connections._readers, []
    closing = asyncio.create_task(connections.close())
    done, _ = await asyncio.wait([closing], timeout=0.05)
    may_end.set()
    await asyncio.wait_for(closing, HANG_SECONDS)
    await reader[0].close()
    assert not done


async def test_the_writer_closes_after_a_connection_of_an_inspection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only reads cannot empty the log, which would stay beside the file."""
    sqlite3.connect(tmp_path / "stage.db").close()
    closes, may_end, close = asyncio.Event(), asyncio.Event(), Bridge.close
    ended: list[Bridge] = []

    async def slow(bridge: Bridge) -> None:
        if not closes.is_set():
            closes.set()
            await may_end.wait()
        await close(bridge)
        ended.append(bridge)

    connections = SqliteConnections(
        tmp_path / "stage.db", PLAIN, readers=1, factory=sqlite3.Connection
    )

    def prepare(raw: sqlite3.Connection) -> None:
        raw.execute("CREATE TABLE t (x)")

    await connections.open(lambda _: None, prepare)
    writer = connections._writer
    monkeypatch.setattr(Bridge, "close", slow)
    inspection = asyncio.create_task(connections.inspect(lambda _: None))
    await closes.wait()
    closing = asyncio.create_task(connections.close())
    await asyncio.wait([closing], timeout=0.05)
    may_end.set()
    await asyncio.gather(inspection, closing)
    assert ended[-1] is writer
    assert not (tmp_path / "stage.db-wal").exists()
