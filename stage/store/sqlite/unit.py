"""One unit on a SQLite connection, and the author's view of it. Nothing here suspends.

Units share a transaction, and one that fails must leave the others alone. A savepoint would do for
each, but two statements a unit are a tenth of its cost. So a unit marks its place only before the
first statement of its author, which may well fail behind it. Our own writes come last and fail only
for a defect or a disk that is full: then the transaction is dropped as a whole, and the writer
repeats the others one by one.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, Final, TypeVar

from stage.core.errors import StoreUnavailable
from stage.core.events import Event
from stage.ports.store import Entry, Row, SagaRow, Tx, Unit
from stage.store.drive import drive
from stage.store.errors import StatementRefused, TooManyRows, unavailable
from stage.store.sqlite import rows
from stage.store.sqlite.statements import statement

T = TypeVar("T")

FETCH_ROWS_MAX: Final = 10_000
"""Rows that `Tx.fetchall` hands out at most."""

ENTRIES_PER_STATEMENT_MAX: Final = 16
"""Entries appended by one statement; a unit has three or four."""

_INSERT: Final = statement("insert_saga")
_SAVE: Final = statement("save_saga")
_HELD: Final = statement("held_saga")
_GET: Final = statement("get_saga")
_CLOSABLE: Final = statement("closable_sagas")
_CLOSE: Final = statement("close_saga")
_DROP_JOURNAL: Final = statement("drop_journal")
_APPEND: Final = statement("append_entries")
_JOURNAL: Final = statement("get_journal")
_MARK: Final = statement("begin_part")
_KEEP: Final = statement("keep_part")
_UNDO: Final = statement("undo_part")
_DROP: Final = statement("drop_batch")

_REFUSED: Final = frozenset(
    {
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "ATTACH",
        "DETACH",
        "PRAGMA",
        "VACUUM",
    }
)
_FIRST_WORD: Final = re.compile(r"(?:[\s\ufeff]|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)


@lru_cache(maxsize=1024)
def _checked(sql: str) -> str:
    """The statement itself, looked at once: an author writes the same few again and again."""
    match = _FIRST_WORD.match(sql)
    word = match.group(1).upper() if match else ""
    if word in _REFUSED:
        raise StatementRefused(
            f"{word} is refused in a transaction function: the transaction is begun and ended for"
            " it, and other sagas share it. Return to commit, raise to roll back"
        )
    return sql


class SqliteTx:
    """The author's SQL within one unit. Once the unit is over, every method raises."""

    __slots__ = ("_connection", "broken", "loose", "marked")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection
        self.broken: StoreUnavailable | None = None
        """Set when the database failed under this unit: it fails even if it goes on."""
        self.marked = False
        """Whether the place to which what follows can be undone is marked."""
        self.loose = False
        """Whether something was written before that, which only the whole batch can undo."""

    def end(self) -> None:
        """The unit is over: a reference that was kept must not write into the next one."""
        self._connection = None

    def check(self) -> sqlite3.Connection:
        """Raises StatementRefused when the unit is over."""
        if self._connection is None:
            raise StatementRefused("this transaction is over: keep no reference to its tx")
        return self._connection

    def run(self, sql: str, parameters: Sequence[object]) -> sqlite3.Cursor:
        """Run one statement. Raises StoreUnavailable, or the author's mistake as it is."""
        connection = self._connection or self.check()
        if not connection.in_transaction:  # it would be durable by itself
            raise StatementRefused(ENDED)
        try:
            return connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise self.mapped(error) from error

    def mapped(self, error: sqlite3.Error) -> Exception:
        """The error to raise for one of sqlite3; remembered when the database is away."""
        away = unavailable(error)
        if away is None:
            return error
        self.broken = away
        return away

    def mark(self) -> None:
        """Mark the place to which what follows can be undone."""
        self.run(_MARK, ())
        self.marked = True

    def authored(self, sql: str, parameters: Sequence[object]) -> sqlite3.Cursor:
        """Run a statement of the author's, which can be undone."""
        checked = _checked(sql)
        if not self.marked:
            self.mark()
        return self.run(checked, parameters)

    async def execute(self, sql: str, *parameters: Any) -> int:
        """See ports.store.Tx."""
        return self.authored(sql, parameters).rowcount

    async def fetchone(self, sql: str, *parameters: Any) -> Row | None:
        """See ports.store.Tx."""
        found = self.fetched(self.authored(sql, parameters), 1)
        return found[0] if found else None

    async def fetchall(self, sql: str, *parameters: Any) -> list[Row]:
        """See ports.store.Tx. Raises TooManyRows beyond FETCH_ROWS_MAX."""
        found = self.fetched(self.authored(sql, parameters), FETCH_ROWS_MAX + 1)
        if len(found) > FETCH_ROWS_MAX:
            raise TooManyRows(
                f"the query found more than {FETCH_ROWS_MAX} rows: add a LIMIT and page through"
                f" them, or let the database count: {sql.strip()[:120]}"
            )
        return found

    def rows(self, sql: str, parameters: Sequence[object], limit: int) -> list[Row]:
        """At most `limit` rows of a query of ours."""
        return self.fetched(self.run(sql, parameters), limit)

    def fetched(self, cursor: sqlite3.Cursor, limit: int) -> list[Row]:
        """At most `limit` rows."""
        try:
            return cursor.fetchmany(limit)
        except sqlite3.Error as error:
            raise self.mapped(error) from error
        finally:
            cursor.close()

    def written(self, sql: str, parameters: Sequence[object]) -> int:
        """Run a statement of ours that writes; the number of rows it changed."""
        changed = self.run(sql, parameters).rowcount
        if changed and not self.marked:
            self.loose = True
        return changed


class SqliteUnit:
    """One unit on the writer's connection; other units share its transaction."""

    __slots__ = ("_connection", "_tx")

    def __init__(self, connection: sqlite3.Connection, tx: SqliteTx) -> None:
        self._connection = connection
        self._tx = tx

    @property
    def tx(self) -> Tx:
        """See ports.store.Unit."""
        return self._tx

    async def load(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        found = self._tx.rows(_GET, (saga_id,), 1)
        return rows.saga_row(found[0]) if found else None

    async def take(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit: nobody else can hold it."""
        return await self.load(saga_id)

    async def received(self, mail: Sequence[int]) -> None:
        """See ports.store.Unit: there is no mail."""

    async def journal(self, saga_id: str) -> list[Entry]:
        """See ports.store.Unit."""
        return [rows.entry(row) for row in self._tx.run(_JOURNAL, (saga_id,))]

    async def insert(self, row: SagaRow, events: Sequence[Event]) -> None:
        """See ports.store.Unit."""
        rows.check_insert(row, events)
        try:
            self._tx.written(_INSERT, rows.parameters(row))
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise KeyError(row.id) from error
            raise
        self._append(row, events)

    async def save(self, row: SagaRow, events: Sequence[Event], *, epoch: int) -> None:
        """See ports.store.Unit."""
        rows.check_save(row, epoch)
        length = row.length - len(events)
        if self._tx.written(_SAVE, (*rows.parameters(row), epoch, length)) != 1:
            held = self._tx.rows(_HELD, (row.id,), 1)
            rows.refuse(row, epoch, len(events), held[0] if held else None)
        self._append(row, events)

    def _append(self, row: SagaRow, events: Sequence[Event]) -> None:
        for first in range(0, len(events), ENTRIES_PER_STATEMENT_MAX):
            some = events[first : first + ENTRIES_PER_STATEMENT_MAX]
            number = row.length - len(events) + first + 1
            self._tx.written(_append(len(some)), rows.journal_values(row, number, some))

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit."""
        found = self._tx.rows(_CLOSABLE, (before, limit), limit)
        for (saga_id,) in found:
            self._tx.written(_DROP_JOURNAL, (saga_id,))
            self._tx.written(_CLOSE, (saga_id, at))
        return len(found)

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """See ports.store.Unit. An escape of `work` ends the attempt, with TransactionEscaped."""
        tx = self._tx
        inner = tx.marked  # what is marked already is another attempt's, which stays
        if inner:
            tx.mark()
        try:
            value = drive(work)
            if not self._connection.in_transaction:
                raise StatementRefused(ENDED)
        except BaseException:
            if tx.marked:
                _undo(self._connection, keep=not inner)
            raise
        if inner:
            tx.run(_KEEP, ())
        return value


def _undo(connection: sqlite3.Connection, *, keep: bool = False) -> None:
    """Undo what was written since the mark, and `keep` the mark or release it."""
    if not connection.in_transaction:
        return
    try:
        connection.execute(_UNDO)
        if not keep:
            connection.execute(_KEEP)
    except sqlite3.Error:
        # What cannot be undone in part is undone whole; the writer repeats the others.
        _drop(connection)


def _drop(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        connection.execute(_DROP)


@cache
def _append(entries: int) -> str:
    """The statement that appends so many entries."""
    head, group = _APPEND.rsplit("VALUES ", 1)
    return f"{head}VALUES {', '.join([group] * entries)}"


ENDED: Final = (
    "a statement ended the transaction it ran in (OR ROLLBACK, or RAISE(ROLLBACK) in a trigger):"
    " use OR ABORT, and raise to roll back"
)


def run_unit(connection: sqlite3.Connection, work: Callable[[Unit], Awaitable[T]]) -> T:
    """Run one unit within the open transaction; undone alone when it raises.

    The caller has to look whether the connection is still in a transaction: SQLite may have
    rolled back all of it, or the unit could not be undone alone.
    """
    tx = SqliteTx(connection)
    try:
        value = drive(work, SqliteUnit(connection, tx))
        if tx.broken is not None:
            raise tx.broken
        if not connection.in_transaction:
            raise StatementRefused(ENDED)
        if tx.marked:
            tx.run(_KEEP, ())
    except BaseException:
        if tx.loose:
            _drop(connection)
        elif tx.marked:
            _undo(connection)
        raise
    finally:
        tx.end()
    return value
