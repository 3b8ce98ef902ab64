"""A database is made whole or not at all, wherever its making is stopped (rule 33)."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stage.bootstrap.database import Database
from stage.core.errors import ConfigurationError
from stage.store.sqlite import making
from stage.store.sqlite.identity import DatabaseFile, Mark
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.making import UNFINISHED, make_database
from stage.store.sqlite.store import SqliteStore
from tests.unit.store.given import inserting


class Killed(BaseException):
    """The process ends here: nothing after it is run, not even what tidies up."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stage.db"


def file(path: Path) -> DatabaseFile:
    return DatabaseFile(path=path, stage="payment", release="1.0")


def makes(path: Path) -> bool:
    """Start a stage there, which writes. Whether it made the database."""

    async def starting() -> bool:
        store = SqliteStore(file(path))
        await store.open()
        await store.transact(inserting("a"))
        await store.close()
        return store.made

    return asyncio.run(starting())


def names(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path.parent) if not name.endswith(".lock"))


def stopping(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Raise the error at the n-th step of the making from now; the steps that were begun."""
    begun: list[str] = []

    def step(name: str, do: Callable[..., object]) -> Callable[..., object]:
        def stepping(*arguments: object, **options: object) -> object:
            begun.append(name)
            if len(begun) == number or (len(begun) > number and isinstance(error, Killed)):
                raise error  # also at what would tidy up after a kill
            return do(*arguments, **options)

        return stepping

    for name in ("_fill", "sync"):
        monkeypatch.setattr(making, name, step(name, getattr(making, name)))
    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, step(name, getattr(Path, name)))
    return begun


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_wherever_it_is_stopped_the_next_start_has_a_whole_database(
    path: Path, number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the rename there is none, after it there is all of it. A kill tidies nothing.

    The error of a full disk is said, and leaves nothing behind.
    """
    lock = FileLock(path)
    lock.acquire()
    with monkeypatch.context() as patched:
        begun = stopping(number, error, patched)
        with pytest.raises((Killed, ConfigurationError)):
            make_database(file(path), (), lock)
    lock.release()
    renamed = number > 1 + begun.index("replace") if "replace" in begun else False
    assert ["unlink", "_fill", "sync", "replace", "sync"][:number] == begun[:number]
    assert renamed == path.exists()
    if isinstance(error, OSError):
        assert names(path) in ([], [path.name])
    assert (not renamed) == makes(path)
    assert [path.name] == names(path)


def test_the_rest_of_a_kill_is_made_anew(path: Path) -> None:
    """Half a database under the other name is no obstacle, and is gone afterwards."""
    with closing(sqlite3.connect(path.with_name(path.name + UNFINISHED))) as connection:
        connection.execute("CREATE TABLE saga (half TEXT)")
    assert makes(path)
    assert [path.name] == names(path)


def test_the_log_of_a_database_that_is_gone_is_not_written_into_a_new_one(path: Path) -> None:
    """Somebody removed the file, and neither its log nor its lock."""
    log = path.with_name(path.name + "-wal")
    log.write_bytes(b"sagas")
    with pytest.raises(ConfigurationError, match=r"db-wal is still there.*move the log"):
        makes(path)
    assert [log.name] == names(path)
    log.write_bytes(b"")
    assert makes(path)


def test_a_link_to_where_the_database_is_to_be_stays_one(path: Path, tmp_path: Path) -> None:
    """The database is made where the link leads."""
    (tmp_path / "volume").mkdir()
    path.symlink_to(tmp_path / "volume" / "real.db")
    assert makes(path)
    assert path.is_symlink()
    assert (tmp_path / "volume" / "real.db").stat().st_size


def test_the_mark_of_the_database_before_goes_with_it(path: Path) -> None:
    """One that was made by name in place of a removed one is not taken for a foreign one."""
    lock = FileLock(path)
    lock.acquire()
    lock.remember(Mark(id="0a" * 16, generation=3, number=12345))
    make_database(file(path), (), lock)
    assert lock.mark is None
    lock.release()
    assert not makes(path)


def test_a_database_that_another_process_makes_meanwhile_is_not_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands, or one and a start: the second finds it once it has the lock."""
    acquire = FileLock.acquire

    def late(lock: FileLock) -> None:
        monkeypatch.setattr(FileLock, "acquire", acquire)
        assert makes(path)
        acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", late)
    with (
        pytest.raises(ConfigurationError, match=r"there is a database .* already"),
        Database(file(path), (), make=True),
    ):
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert [("a",)] == connection.execute("SELECT id FROM saga").fetchall()
