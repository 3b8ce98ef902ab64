"""Prepares an author's statements on the tables of their migrations, without running them.

SQLite finds a missing table or column and a wrong syntax when it prepares a statement. `EXPLAIN`
does that and writes nothing (sqlite.org/lang_explain.html).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from importlib.resources.abc import Traversable
from types import TracebackType
from typing import Self

from stage.store.errors import StatementRefused
from stage.store.hints import explain
from stage.store.sqlite import dialect
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import TableGuard
from stage.store.sqlite.tx import binding


class Preparing:
    """An empty database in memory with all tables, the author's and ours: a context manager.

    Raises ConfigurationError, when it is entered, for migrations that cannot be applied.
    """

    def __init__(self, folders: Sequence[Traversable]) -> None:
        self._folders = folders
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._guard = TableGuard(judging=True)

    def __enter__(self) -> Self:
        try:
            self._connection.execute(statement("foreign_keys"))
            dialect.upgrade(self._connection, self._folders, now=0.0)
            self._guard.watch(self._connection)
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def refused(self, sql: str, parameters: int) -> str:
        """The reason why the database refuses the statement, with the fix; empty if it does not."""
        nothing = (None,) * parameters
        self._guard.alters = False
        try:
            checked, given = binding(sql, nothing)
            with closing(self._connection.execute(f"EXPLAIN {checked}", given)):
                return ""
        except StatementRefused as error:
            return str(error)
        except (sqlite3.Error, sqlite3.Warning) as error:
            if refused := self._guard.take_refusal():
                return refused
            explain(error, sql, nothing)
            return ": ".join([str(error), *map(str, error.__notes__)])
