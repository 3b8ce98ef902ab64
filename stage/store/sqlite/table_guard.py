"""Keeps an author's SQL from the tables of the stage: SQLite itself says what a statement does.

SQLite asks an authorizer while it prepares a statement, once for each thing that the statement is
to do (sqlite.org/c3ref/set_authorizer.html): behind its triggers, views and WITH too, with every
name resolved. No text is parsed here, and a statement that is prepared already costs nothing more:
SQLite prepares it anew, and asks anew, once the schema has changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from stage.ports.stage_tables import is_stage_table, refusal

_PLACE_OF_TABLE: Final[Mapping[int, int]] = {
    **dict.fromkeys((sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE), 0),
    **dict.fromkeys((sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_TEMP_TABLE), 0),
    **dict.fromkeys((sqlite3.SQLITE_CREATE_VIEW, sqlite3.SQLITE_CREATE_TEMP_VIEW), 0),
    **dict.fromkeys((sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_CREATE_VTABLE), 0),
    **dict.fromkeys((sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_TRIGGER), 1),
    **dict.fromkeys((sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_DROP_INDEX), 1),
    sqlite3.SQLITE_ALTER_TABLE: 1,
}
"""Which argument of an action names the table that it would change. Temporary things are among it:
a temporary table under a name of ours would hide ours, and take what we write."""
_PAGES: Final = "sqlite_dbpage"
"""A table that is the bytes of the file, where SQLite was compiled with it."""
_NUMBERS: Final = "sqlite_sequence"
"""The last number of each table with AUTOINCREMENT, the audit and the sweeps among them. SQLite
writes to it by itself, unasked as it adds a row, and asked as a table goes or gets another name."""
_ALTERS: Final = frozenset({sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_ALTER_TABLE})


class TableGuard:
    """The authorizer of one connection. It judges what is prepared while `judging` is true."""

    __slots__ = ("alters", "judging", "refused")

    def __init__(self, *, judging: bool = False) -> None:
        self.judging = judging
        self.alters = False
        """True once the statement drops or alters a table. To be set to False before the next."""
        self.refused = ""
        """Why the last statement was refused; empty where none was."""

    def watch(self, connection: sqlite3.Connection) -> None:
        """Judge the statements of a connection; those that are prepared are prepared anew."""
        connection.set_authorizer(self._judge)

    def _judge(
        self,
        action: int,
        first: str | None,
        second: str | None,
        schema: str | None,
        _by: str | None,
    ) -> int:
        if not self.judging or (place := _PLACE_OF_TABLE.get(action)) is None:
            return sqlite3.SQLITE_OK
        table = (second if place else first) or ""
        if action == sqlite3.SQLITE_ALTER_TABLE and first == "temp":
            # Its new name is not among what SQLite says, and could be one of ours.
            self.refused = f"{table} is a temporary table, which is not altered: make it anew"
        elif is_stage_table(table) or table == _PAGES:
            self.refused = refusal(table)
        elif table.lower() == _NUMBERS and not self.alters:
            self.refused = (
                f"{_NUMBERS} has the numbers of the stage's tables too, and one that comes again"
                " would name another act: make your table anew to have its numbers begin anew"
            )
        else:
            self.alters = self.alters or action in _ALTERS
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def take_refusal(self) -> str:
        """The words of the statement that was refused last, once; empty where none was."""
        refused, self.refused = self.refused, ""
        return refused


@contextmanager
def guarded(connection: sqlite3.Connection, *, judging: bool) -> Iterator[TableGuard]:
    """Judge what is prepared within, or nothing. The connection has no other authorizer."""
    guard = TableGuard(judging=judging)
    guard.watch(connection)
    try:
        yield guard
    finally:
        connection.set_authorizer(None)
