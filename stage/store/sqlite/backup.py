"""Looking through a whole SQLite file, and making a backup that was looked through."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from stage.core.errors import ConfigurationError
from stage.store.sqlite.lock import make_private
from stage.store.sqlite.making import sync
from stage.store.sqlite.statements import statement

UNFINISHED = ".unfinished"


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was made and checked. It holds all that was durable at the instant `as_of`."""

    path: Path
    size: int
    sagas: int
    entries: int
    as_of: float


def wrongs(connection: sqlite3.Connection) -> list[str]:
    """The faults of the file in words; empty when it is whole. Reads every page."""
    found = [text for (text,) in connection.execute(statement("integrity_check")) if text != "ok"]
    if found:
        return found  # what a damaged file answers to anything else is not to be trusted
    orphans = connection.execute(statement("foreign_key_check")).fetchall()
    for child, row, parent, _ in orphans[:20]:
        found.append(f"row {row} of {child} refers to a row of {parent} that is not there")
    for saga_id, length, entries in connection.execute(statement("uneven_sagas")):
        found.append(f"saga {saga_id} has {entries} journal entries where its row says {length}")
    for (saga_id,) in connection.execute(statement("stray_entries")):
        found.append(f"saga {saga_id} has journal entries and no row")
    return found


def back_up(connection: sqlite3.Connection, path: Path, now: float) -> Backup:
    """Copy the file to `path`, also beside a stage that is up, and check the copy.

    Raises ConfigurationError, and then there is nothing at `path`.
    """
    if path.exists():
        raise ConfigurationError(f"{path} is there already: give the path of a new file")
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.unlink(missing_ok=True)
        make_private(unfinished)
        connection.execute(statement("copy_into"), (str(unfinished),))
        with closing(sqlite3.connect(unfinished)) as copy:
            if found := wrongs(copy):
                raise ConfigurationError(
                    f"the copy is damaged, and so most likely is the database ({found[0]}): look"
                    " at it with `stage db verify`, and keep the last backup"
                )
            ((sagas, entries),) = copy.execute(statement("count_all")).fetchall()
        sync(unfinished)
        os.link(unfinished, path)  # fails where a file has come there meanwhile
        sync(path.parent)
    except OSError as error:
        raise ConfigurationError(f"the backup {path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    size = path.stat().st_size
    return Backup(path=path, size=size, sagas=sagas, entries=entries, as_of=now)
