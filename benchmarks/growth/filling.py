"""Fills a database with copies of one real saga, under ids as they would be after months.

Copied are the saga's row, its journal and the author's row, byte for byte but for the id, which
stands in keys and bodies too. The ids are UUIDv7, older than the template's, so that the indexes
look as they do in life: new sagas come at the end, and what is due stands where it would.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

SAGAS_PER_TRANSACTION = 20_000
ID_LENGTH = 36
TABLES = (("saga", "id"), ("journal", "saga_id"), ("payment", "saga_id"), ("saga_term", "saga_id"))
"""Whose rows make a saga, and the column with its id."""
OPTIONAL = frozenset({"saga_term"})
"""Where a saga may have no row: its stage indexes no numbers."""
TIMES = ("accepted_at", "updated_at", "due_at")
"""Moved into the past with the id. A deadline is not: the template must have none."""

Row = tuple[Any, ...]


def uuid7(milliseconds: int, dice: random.Random) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) of that time."""
    value = milliseconds << 80 | 0x7 << 76 | dice.getrandbits(12) << 64
    value |= 0b10 << 62 | dice.getrandbits(62)
    digits = f"{value:032x}"
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts)


def fill(database: Path, template: str, sagas: int, *, over_seconds: float, seed: int = 1) -> float:
    """Add so many copies of the saga `template`, spread evenly over so long before now.

    Nobody else may have the file open. The seconds it took.
    """
    if len(template) != ID_LENGTH:
        raise ValueError(f"the id of the template must have {ID_LENGTH} characters: {template!r}")
    began = time.monotonic()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        rows = {table: _rows(connection, table, key, template) for table, key in TABLES}
        columns = [each[1] for each in connection.execute("PRAGMA table_info(saga)")]
        times = [columns.index(name) for name in TIMES]
        ids = _ids(sagas, over_seconds, random.Random(seed))
        for first in range(0, sagas, SAGAS_PER_TRANSACTION):
            chunk = [next(ids) for _ in range(min(SAGAS_PER_TRANSACTION, sagas - first))]
            connection.execute("BEGIN IMMEDIATE")
            for table, _ in TABLES:
                _insert(connection, table, _copies(rows[table], template, chunk, table, times))
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with database.open("rb") as file:
        os.fsync(file.fileno())  # else the measurement pays for what is still to be written
    return time.monotonic() - began


def _rows(connection: sqlite3.Connection, table: str, key: str, template: str) -> list[Row]:
    found = connection.execute(
        f"SELECT * FROM {table} WHERE {key} = ?",  # noqa: S608 - a name from TABLES
        (template,),
    ).fetchall()
    if not found and table not in OPTIONAL:
        raise ValueError(f"the saga {template} has no row in {table}")
    return found


def _ids(sagas: int, over_seconds: float, dice: random.Random) -> Iterator[tuple[str, float]]:
    """Ids with the time they are of, the oldest first."""
    now = time.time()
    for number in range(sagas):
        at = now - over_seconds * (sagas - number) / sagas
        yield uuid7(int(at * 1e3), dice), at


def _copies(
    rows: Sequence[Row],
    template: str,
    ids: Sequence[tuple[str, float]],
    table: str,
    times: Sequence[int],
) -> Iterator[Row]:
    old = template.encode()
    for saga_id, at in ids:
        new = saga_id.encode()
        for row in rows:
            copy = [_renamed(value, template, saga_id, old, new) for value in row]
            if table == "saga":
                for column in times:
                    if copy[column] is not None:
                        copy[column] = at
            yield tuple(copy)


def _renamed(value: Any, template: str, saga_id: str, old: bytes, new: bytes) -> Any:
    if isinstance(value, str):
        return value.replace(template, saga_id)
    if isinstance(value, bytes):
        return value.replace(old, new)
    return value


def _insert(connection: sqlite3.Connection, table: str, copies: Iterator[Row]) -> None:
    width = len(connection.execute(f"PRAGMA table_info({table})").fetchall())
    marks = ", ".join("?" * width)
    connection.executemany(f"INSERT INTO {table} VALUES ({marks})", copies)  # noqa: S608 - as above
