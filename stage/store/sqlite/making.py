"""Makes a database: whole under another name, which it changes for its own at the end (rule 33).

A crash, a full disk or a loss of power in between leaves no database, and the next start makes one.
So a file that is empty or holds no table was never left by a stage, and is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from stage.core.errors import ConfigurationError
from stage.store.sqlite import dialect
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.identity import DatabaseFile, take
from stage.store.sqlite.lock import FileLock, make_private
from stage.store.sqlite.statements import statement

UNFINISHED: Final = ".making"
"""Added to the name of a database that is being made. The rest of a crash is removed."""
_LOGS: Final = ("-wal", "-journal")


def make_database(file: DatabaseFile, folders: Sequence[Traversable], lock: FileLock) -> None:
    """Make it with all migrations and its identity. `lock` is held. Blocks on disk.

    The mark of a database that stood there before goes. Raises ConfigurationError, and then there
    is no database, or a whole one.
    """
    path = file.path.resolve()  # a link to where the database is to be stays one
    unfinished = path.with_name(path.name + UNFINISHED)
    _refuse_left_log(path)
    try:
        unfinished.unlink(missing_ok=True)
        make_private(unfinished)
        _fill(unfinished, file, folders)
        sync(unfinished)
        lock.forget()
        unfinished.replace(path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"the database {file.path} cannot be made: {unavailable(error) or error}"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _fill(path: Path, file: DatabaseFile, folders: Sequence[Traversable]) -> None:
    """One sync at the end is enough for a file that a crash makes worthless."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in ("journal_in_memory", "sync_never"):
            connection.execute(statement(name)).fetchall()
        now = file.now()
        dialect.upgrade(connection, folders, now=now)
        take(connection, file, now)


def _refuse_left_log(path: Path) -> None:
    """Raise ConfigurationError for the log of a database that is gone.

    It may hold sagas, and SQLite would write it into the new file.
    """
    for log in (path.with_name(path.name + end) for end in _LOGS):
        if log.exists() and log.stat().st_size:
            raise ConfigurationError(
                f"the database {path} was removed, and its log {log.name} is still there: put the"
                " database back beside it, or move the log away and make a new one with"
                " `stage db init`"
            )


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
