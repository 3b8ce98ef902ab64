"""The watch of the open file goes on whatever it meets, and reads the whole file once."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from stage.core.errors import StoreUnavailable
from stage.store.sqlite import watch
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.connections import SqliteConnections
from stage.store.sqlite.identity import Mark
from stage.store.sqlite.lock import DatabaseInUse
from stage.store.sqlite.store import SqliteLimits, SqliteStore
from tests.unit.store.conftest import Faulty
from tests.unit.store.given import inserting, until
from tests.waits import HANG_SECONDS

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other closely."""
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)


async def test_a_lock_file_that_cannot_be_written_to_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the disk that is full. The mark is written when there is room, and the store closes.

    Meanwhile a file that is removed is noticed as ever.
    """
    path = tmp_path / "stage.db"
    store = SqliteStore(path, limits=SqliteLimits(retry_seconds=0.01))
    await store.open()
    refused: list[Mark | None] = []
    remember = store._lock.remember

    def full(mark: Mark | None) -> None:
        refused.append(mark)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store._lock, "remember", full)
    await store.transact(inserting("a"))
    await until(lambda: len(refused) > 1)
    path.rename(tmp_path / "away.db")
    await until(lambda: not store.available)
    (tmp_path / "away.db").rename(path)
    await until(lambda: store.available)
    monkeypatch.setattr(store._lock, "remember", remember)
    await store.transact(inserting("b"))
    await until(lambda: store._lock.mark == store._connections.timeline.mark)
    await store.close()


async def test_the_file_is_looked_at_while_all_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a large file takes long. Closing does not wait for it."""
    reading = threading.Event()

    def long(connection: sqlite3.Connection) -> str:
        reading.set()
        return str(connection.execute(ENDLESS).fetchone())

    monkeypatch.setattr(watch, "_quick_check", long)
    store = SqliteStore(tmp_path / "stage.db", limits=SqliteLimits(retry_seconds=0.01))
    await store.open()
    await asyncio.to_thread(reading.wait, HANG_SECONDS)
    await store.transact(inserting("a"))
    await until(lambda: store._lock.mark == store._connections.timeline.mark)
    async with asyncio.timeout(HANG_SECONDS):
        await store.close()


async def test_a_reading_that_a_reopening_broke_off_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: type[Faulty]
) -> None:
    """Its finding is not lost."""
    readings: list[str] = []

    def reading(connection: sqlite3.Connection) -> str:
        readings.append("begun")
        if len(readings) == 1:
            connection.execute(ENDLESS).fetchone()
        return "page 7 is never used"

    monkeypatch.setattr(watch, "_quick_check", reading)
    store = SqliteStore(
        tmp_path / "stage.db", factory=faulty, limits=SqliteLimits(retry_seconds=0.01)
    )
    await store.open()
    try:
        await until(lambda: len(readings) == 1)
        faulty.plan[:] = ["landed"]
        await store.transact(inserting("a"))
        await until(lambda: "page 7 is never used" in store.trouble)
        assert ["landed"] == faulty.struck
        assert 2 == len(readings)
    finally:
        await store.close()


async def test_damage_that_the_reading_raises_is_damage_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite lists what it finds, or gives up on the first page that it cannot read."""

    def raising(connection: sqlite3.Connection) -> str:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(watch, "_quick_check", raising)
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()
    try:
        await until(lambda: "restore it from a backup" in store.trouble)
        assert not store.available
    finally:
        await store.close()


@pytest.mark.blocking  # the test removes files
async def test_a_lock_file_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    """Somebody tidied up. No second process comes in, and the mark stands there again."""
    path, lock = tmp_path / "stage.db", tmp_path / "stage.db.lock"
    store = SqliteStore(path)
    await store.open()
    await store.transact(inserting("a"))
    lock.unlink()
    await until(lock.exists)
    with pytest.raises(DatabaseInUse, match=str(os.getpid())):
        await SqliteStore(path).open()
    await store.transact(inserting("b"))
    await until(lambda: f" {store._connections.timeline.number:019}" in lock.read_text())
    assert not lock.with_name("stage.db.lock.new").exists()
    await store.close()
    again = SqliteStore(path)  # nobody holds it
    await again.open()
    await again.close()


@pytest.mark.blocking  # the test removes files
async def test_a_process_whose_lock_another_one_has_taken_writes_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would run every saga. It is over for good: what it has in memory is the other one's."""
    monkeypatch.setattr(watch, "LOOK_SECONDS", 60.0)
    path, lock = tmp_path / "stage.db", tmp_path / "stage.db.lock"
    first, second = (SqliteStore(path, limits=SqliteLimits(retry_seconds=0.01)) for _ in range(2))
    await first.open()
    await first.transact(inserting("a"))
    lock.unlink()
    await second.open()
    with pytest.raises(StoreUnavailable, match="another process has taken"):
        await first.transact(inserting("b"))
    await second.transact(inserting("c"))
    await second.close()
    lock.unlink()
    with pytest.raises(StoreUnavailable):
        await first.transact(inserting("d"))
    assert not first.available
    await first.close()
    third = SqliteStore(path)
    await third.open()
    assert frozenset("ac") == await third.seen(["a", "b", "c", "d"])
    await third.close()


async def test_an_error_that_is_none_of_the_database_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for a moment: a file that was removed later was noticed by nobody."""
    path, struck = tmp_path / "stage.db", list[int]()
    store = SqliteStore(path, limits=SqliteLimits(retry_seconds=0.01))
    await store.open()
    try:
        with monkeypatch.context() as patched:

            async def without_memory(*_: object) -> None:
                struck.append(1)
                raise MemoryError("for a test")

            patched.setattr(store._connections, "read", without_memory)
            await until(lambda: len(struck) > 1)
        path.rename(tmp_path / "away.db")
        await until(lambda: not store.available)
        (tmp_path / "away.db").rename(path)
        await until(lambda: store.available)
    finally:
        await store.close()


async def test_the_whole_file_is_read_once_there_is_a_thread_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a limit of processes: the damage of that file was never found."""
    reader, refused = SqliteConnections._reader, list[int]()

    def no_thread() -> None:
        refused.append(1)
        raise RuntimeError("can't start new thread")

    def limited(connections: SqliteConnections) -> Bridge:
        bridge = reader(connections)
        if len(connections._readers) == connections._readers_wanted and not refused:
            thread: Any = bridge._thread._thread
            thread.start = no_thread
        return bridge

    monkeypatch.setattr(SqliteConnections, "_reader", limited)
    monkeypatch.setattr(watch, "_quick_check", lambda _: "page 7 is never used")
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()
    try:
        await until(lambda: "page 7 is never used" in store.trouble)
        assert [1] == refused
    finally:
        await store.close()
