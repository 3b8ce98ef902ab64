"""The part of a transaction that belongs to one unit: our own statements, and what can be undone.

Only the unit holds it. The author of a transaction function gets `author_tx` (tx.py), which offers
a few methods and no way to this object.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from stage.core.errors import StoreUnavailable
from stage.ports.store import Row
from stage.store.errors import StatementRefused
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import TableGuard

ENDED: Final = (
    "a statement ended the transaction it ran in (OR ROLLBACK, or RAISE(ROLLBACK) in a trigger):"
    " use OR ABORT, and raise to roll back"
)

_MARK: Final = statement("begin_part")


class Care:
    """Whether the author's writes are marked. One value for all units of a connection."""

    __slots__ = ("needed",)

    def __init__(self, *, needed: bool = False) -> None:
        self.needed = needed
        """True once a function has failed after it had written: others will."""


class Part(msgspec.Struct, eq=False):
    """Runs statements within one unit. Once the unit is over, every method raises."""

    _connection: sqlite3.Connection | None
    _care: Care
    guard: TableGuard
    """The guard of the connection, for statements of the author."""
    failure: StoreUnavailable | None = None
    """Set when the database failed under this unit: the unit fails even if it goes on."""
    marked: bool = False
    """True once a savepoint marks the place to which this part can be undone."""
    wrote_unmarked: bool = False
    """True when something was written without a mark: only the whole batch can undo it."""
    wrote_as_author: bool = False
    """True when the attempt under way may have written without a mark."""

    def end(self) -> None:
        """End the part: a reference to its tx that was kept cannot write into the next unit."""
        self._connection = None

    def check(self) -> sqlite3.Connection:
        """The connection. Raises StatementRefused when the unit is over."""
        if self._connection is None:
            raise StatementRefused("this transaction is over: keep no reference to its tx")
        return self._connection

    def run(self, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> sqlite3.Cursor:
        """Run one statement. Raises StoreUnavailable, or the error of a wrong statement as it is.

        Raises StatementRefused when the transaction was ended: the statement would be durable by
        itself.
        """
        connection = self._connection or self.check()
        if not connection.in_transaction:
            raise StatementRefused(ENDED)
        try:
            return connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise self.mapped(error) from error

    def mapped(self, error: sqlite3.Error) -> Exception:
        """The error to raise for one of sqlite3; kept as `failure` when the database is away."""
        away = unavailable(error)
        if away is None:
            return error
        self.failure = away
        return away

    def author_writes(self) -> None:
        """The author is about to write: mark the place before, where functions have failed so."""
        if self.marked:
            return
        if self._care.needed:
            self.mark()
        else:
            self.wrote_as_author = self.wrote_unmarked = True

    def take_care(self) -> None:
        """Mark the writes of authors from here on."""
        self._care.needed = True

    def mark(self) -> None:
        """Mark the place to which later statements can be undone."""
        self.run(_MARK, ())
        self.marked = True

    def write(self, sql: str, parameters: Sequence[object]) -> int:
        """Run a statement of ours that writes; the number of rows it changed."""
        changed = self.run(sql, parameters).rowcount
        if changed and not self.marked:
            self.wrote_unmarked = True
        return changed

    def rows(self, sql: str, parameters: Sequence[object], limit: int) -> list[Row]:
        """At most `limit` rows of a query."""
        return self.fetch(self.run(sql, parameters), limit)

    def fetch(self, cursor: sqlite3.Cursor, limit: int) -> list[Row]:
        """At most `limit` rows of a cursor, which is closed."""
        try:
            return cursor.fetchmany(limit)
        except sqlite3.Error as error:
            raise self.mapped(error) from error
        finally:
            cursor.close()
