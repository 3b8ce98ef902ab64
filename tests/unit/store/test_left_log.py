"""Rule 33: the log of a process that was killed is not played into a file that it is not of."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stage.bootstrap.database import Database
from stage.core.errors import ConfigurationError
from stage.store.sqlite.file_set import prepare_files
from stage.store.sqlite.identity import DatabaseFile
from stage.store.sqlite.left_log import log_head
from stage.store.sqlite.lock import read_mark
from stage.store.sqlite.store import SqliteStore
from tests.unit.store.given import inserting, until

pytestmark = pytest.mark.blocking

NAME = "stage.db"
FILES = (NAME, f"{NAME}-wal", f"{NAME}.lock")


def by_vacuum(source: sqlite3.Connection, copy: Path) -> None:
    """As `stage db backup`."""
    source.execute("VACUUM INTO ?", (str(copy),))


def by_page(source: sqlite3.Connection, copy: Path) -> None:
    """As `sqlite3 FILE ".backup COPY"`."""
    with closing(sqlite3.connect(copy)) as target:
        source.backup(target)


WAYS = {"vacuum": by_vacuum, "pages": by_page}
Way = Callable[[sqlite3.Connection, Path], None]


def file(path: Path, **more: object) -> DatabaseFile:
    return DatabaseFile(path=path, stage="payment", release="1.0", **more)  # type: ignore[arg-type]


async def killed(folder: Path, way: Way) -> tuple[Path, Path]:
    """The files that a killed process leaves, and a backup that was made while it ran.

    The log was begun anew behind the backup.
    """
    running, left = folder / "running", folder / "left"
    running.mkdir()
    left.mkdir()
    path, copy = running / NAME, folder / "copy.db"
    store = SqliteStore(file(path))
    await store.open()
    try:
        await store.transact(inserting("a"))
        with closing(sqlite3.connect(path)) as beside:
            way(beside, copy)
            await store.transact(inserting("b"))
            behind = store._connections.timeline.number
            await until(lambda: (mark := read_mark(path)) is not None and mark.number >= behind)
            assert (0,) == beside.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[:1]
        await store.transact(inserting("c"))
        await until(lambda: (mark := read_mark(path)) is not None and mark.base >= behind)
        for name in FILES:
            shutil.copy(running / name, left / name)
    finally:
        await store.close()
    return left / NAME, copy


@pytest.fixture(params=WAYS)
async def restored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A backup in the place of the file, beside the log of the process that was killed."""
    path, copy = await killed(tmp_path, WAYS[request.param])
    shutil.copy(copy, path)
    return path


def as_they_are(path: Path) -> list[bytes]:
    return [(path.with_name(name)).read_bytes() for name in FILES[:2]]


async def test_a_backup_beside_the_log_of_a_killed_process_is_not_opened(restored: Path) -> None:
    """The start is refused with the fix, and neither file is written to."""
    before = as_they_are(restored)
    with pytest.raises(ConfigurationError, match=r"log stage.db-wal .*Move stage.db-wal .* away"):
        await SqliteStore(file(restored)).open()
    assert before == as_they_are(restored)


async def test_no_command_opens_it_either(restored: Path) -> None:
    """To close it again would write the log into the backup."""
    before = as_they_are(restored)
    with pytest.raises(ConfigurationError, match=r"Move stage\.db-wal"):
        Database(file(restored), (), make=False).__enter__()
    with pytest.raises(ConfigurationError, match=r"Move stage\.db-wal"):
        prepare_files(file(restored), (), 2)
    assert before == as_they_are(restored)


async def test_without_the_log_it_is_accepted_by_name(restored: Path) -> None:
    """The first of the two ways out that the message names."""
    for end in ("-wal", "-shm"):
        restored.with_name(NAME + end).unlink(missing_ok=True)
    with pytest.raises(ConfigurationError, match="older copy"):
        await SqliteStore(file(restored)).open()
    with Database(file(restored), (), make=False) as database:
        assert 2 == database.restored(0.0).identity.generation
    store = SqliteStore(file(restored))
    await store.open()
    try:
        assert ["a"] == [each for each in "abc" if await store.get(each) is not None]
    finally:
        await store.close()


async def test_the_files_of_a_killed_process_are_taken_up(tmp_path: Path) -> None:
    """Its log is that of its file: nothing of it is lost, and no command is refused."""
    path, _ = await killed(tmp_path, by_page)
    with Database(file(path), (), make=False) as database:
        assert [] == database.wrongs()
    store = SqliteStore(file(path))
    await store.open()
    try:
        assert list("abc") == [each for each in "abc" if await store.get(each) is not None]
    finally:
        await store.close()


async def test_another_database_beside_that_log_is_not_opened(tmp_path: Path) -> None:
    """One of the same stage, from elsewhere, which had a log of its own."""
    path, _ = await killed(tmp_path, by_page)
    other = SqliteStore(file(tmp_path / "other.db"))
    await other.open()
    await other.close()
    shutil.copy(tmp_path / "other.db", path)
    with pytest.raises(ConfigurationError, match=r"is another database.*Move stage.db-wal"):
        await SqliteStore(file(path)).open()


async def test_a_process_that_runs_has_looked_itself(tmp_path: Path) -> None:
    """Beside it a command reads a file that is being written to, and judges nothing by it."""
    path = tmp_path / NAME
    store = SqliteStore(file(path))
    await store.open()
    try:
        await store.transact(inserting("a"))
        await until(lambda: read_mark(path) is not None)
        mark = read_mark(path)
        assert mark is not None and log_head(path)
        ahead = mark.line().replace(f"{mark.base:019}", f"{mark.base + 1000:019}")
        await asyncio.to_thread(_write, path.with_name(NAME + ".lock"), f"1\n{ahead}\n")
        with Database(file(path), (), make=False) as database:
            assert database.identity is not None
    finally:
        await store.close()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


async def test_a_file_that_was_closed_holds_all_by_itself(tmp_path: Path) -> None:
    """The mark says so, also where the file was opened behind a kill."""
    path, _ = await killed(tmp_path, by_page)
    store = SqliteStore(file(path))
    await store.open()
    await store.transact(inserting("d"))
    await store.close()
    mark = read_mark(path)
    assert mark is not None and mark.number == mark.base > 0
    assert b"" == log_head(path)
