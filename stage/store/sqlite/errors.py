"""Which errors of SQLite mean that the database is away: the one door for them, with its table.

Such an error becomes StoreUnavailable. Any other is a mistake in a statement: it stays itself and
reaches only the unit whose statement it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.ports.file_errors import in_words

AWAY: Final = {
    sqlite3.SQLITE_PERM: "the file may not be accessed: check owner and mode",
    sqlite3.SQLITE_BUSY: "another process holds the database: close it",
    sqlite3.SQLITE_LOCKED: "a table is locked: close the other connection",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_READONLY: "the file, or -wal or -shm beside it, cannot be written to:"
    " check its mode and the mount",
    sqlite3.SQLITE_IOERR: "the disk reports an error: check the kernel log and the mount",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_CANTOPEN: "it, its log or its index cannot be opened: check the path, its"
    " folder, and -wal and -shm beside it; too many files may be open (ulimit -n)",
    sqlite3.SQLITE_PROTOCOL: "the locks of the file cannot be had: is it on a network mount?",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database: check the path",
}
"""Primary result codes that mean "away", each with its fix (sqlite.org/rescode.html)."""

DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""The codes of AWAY that no waiting mends."""


class DatabaseDamaged(StoreUnavailable):
    """A page of the file cannot be understood. Other pages may still be readable."""


_PRIMARY: Final = 0xFF
"""The lower byte of an extended result code is the primary one."""


def unavailable(error: BaseException) -> StoreUnavailable | None:
    """StoreUnavailable for an error that means so, or None for any other."""
    if isinstance(error, StoreUnavailable):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and (fix := AWAY.get(code & _PRIMARY)) is not None:
            kind = DatabaseDamaged if code & _PRIMARY in DAMAGED else StoreUnavailable
            return kind(f"SQLite: {error}; {fix}")
    if isinstance(error, OSError):
        return StoreUnavailable(in_words(error))
    return None


@contextmanager
def refused(database: str) -> Iterator[None]:
    """Raise ConfigurationError, with the fix, for an error of SQLite in a command."""
    try:
        yield
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"the database {database} cannot be used: {unavailable(error) or error}"
        ) from error
