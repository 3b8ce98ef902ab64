"""The log beside a SQLite file, and whether it was written for that file (rule 33).

A process that was killed leaves its log. SQLite plays a log into whatever file has the name, also
into a backup that was put in its place: pages of two states are mixed then. Nothing tells it
afterwards, because the newest number of a batch is in the log. So a file is looked at without its
log before anything opens both.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from stage.core.errors import ConfigurationError
from stage.ports.identity import Identity
from stage.store.sqlite.file_head import FORMATS, IN_LOGS
from stage.store.sqlite.identity import Mark, last_number, read_identity
from stage.store.sqlite.lock import is_locked, read_mark

LOG: Final = "-wal"
"""Added to the name of a database."""
INDEX: Final = "-shm"
_LOG_HEAD: Final = 32
"""Bytes of the head of a log, which differ each time that it is begun anew
(sqlite.org/fileformat.html#the_write_ahead_log)."""


def log_head(path: Path) -> bytes:
    """The head of the log of a database; empty where there is no log, or nothing in it."""
    with suppress(OSError), _log_of(path).open("rb") as log:
        return log.read(_LOG_HEAD)
    return b""


def refuse_foreign_log(path: Path, mark: Mark | None) -> None:
    """Raise ConfigurationError where the log beside a file was written for another one.

    `mark` is how far the database had come. A file never goes back behind `mark.base` by itself:
    its log begins there. The caller holds the lock.
    """
    if not log_head(path):
        return
    log = _log_of(path)
    if why := _why_foreign(path, mark):
        raise ConfigurationError(
            f"{path} {why}, and the log {log.name} beside it was written for the database that"
            f" stood there before: SQLite would mix both. Move {log.name} and"
            f" {log.name.removesuffix(LOG)}{INDEX} away, then accept this file with `stage db"
            " restored --as-of TIME`; or put the newer file back. Where log and file were copied"
            f" together, at one instant, keep them and remove {log.name.removesuffix(LOG)}.lock"
        )


def refuse_foreign_log_beside(path: Path) -> None:
    """As `refuse_foreign_log`, without the lock: a process that has it has looked itself."""
    try:
        refuse_foreign_log(path, read_mark(path))
    except ConfigurationError:
        if not is_locked(path):
            raise


def _log_of(path: Path) -> Path:
    real = path.resolve()  # where SQLite looks for it
    return real.with_name(real.name + LOG)


def _why_foreign(path: Path, mark: Mark | None) -> str:
    """Why the log is not that of the file; empty where it may be."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(FORMATS.stop)[FORMATS] != IN_LOGS:
            return "is a copy that no log was ever written for"
    found = _without_log(path)
    if mark is None or found is None:
        return ""
    identity, number = found
    if identity.id != mark.id:
        return "is another database"
    if number < mark.base:
        return f"is an older copy ({mark.base - number} batches behind where that log begins)"
    return ""


def _without_log(path: Path) -> tuple[Identity, int] | None:
    """The identity and the number of the last batch, as they stand in the file alone.

    None where they cannot be read: copying the log back was cut off, say, and SQLite goes on.
    """
    try:
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            identity = read_identity(connection)
            return None if identity is None else (identity, last_number(connection))
    except Exception:
        return None
