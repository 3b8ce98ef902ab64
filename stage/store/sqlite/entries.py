"""The journal entries of a batch, which wait for its end: then a few statements write them all.

A statement gives the interpreter away, and to get it back takes longer than to add a row. Entries
are read by nobody before the batch is durable, but by a unit that asks for a journal, and it has
them written first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from stage.store.sqlite.statements import statement

_APPEND: Final = statement("append_entries")
_COLUMNS: Final = 6
_SIZES: Final = (64, 32, 16, 8, 4, 3, 2, 1)
"""Entries that one statement adds: few texts, so that each is prepared once."""


def _statement(entries: int) -> str:
    head, group = _APPEND.rsplit("VALUES ", 1)
    return f"{head}VALUES {', '.join([group] * entries)}"


_STATEMENTS: Final = tuple((size, _statement(size)) for size in _SIZES)


class BatchEntries:
    """The journal entries that the units of one batch have added, and that are not written yet."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: list[object] = []

    def add(self, values: Sequence[object]) -> None:
        """The columns of entries of a unit that succeeded, one group behind the other."""
        self._values += values

    def clear(self) -> None:
        """Forget them: the transaction was dropped."""
        self._values.clear()

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all of them."""
        values, start = self._values, 0
        for size, sql in _STATEMENTS:
            width = size * _COLUMNS
            while len(values) - start >= width:
                connection.execute(sql, values[start : start + width])
                start += width
        values.clear()
