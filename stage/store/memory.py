"""The store in memory: the same law, nothing durable. For tests and for the simulation.

The journal is a dict of bytes; the author's SQL runs on a SQLite database in memory, which has
the author's tables and none of ours.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources.abc import Traversable
from typing import Final, TypeVar

from msgspec.structs import replace

from stage.core.errors import StoreUnavailable
from stage.core.events import Event
from stage.core.states import SagaState
from stage.ports.codec import Codec
from stage.ports.store import Backlog, Entry, Filter, Row, SagaRow, Tx, Unit
from stage.store.codec import PLAIN
from stage.store.drive import drive, outside_loop
from stage.store.errors import StatementRefused
from stage.store.sqlite import dialect, rows
from stage.store.sqlite.part import ENDED, Part
from stage.store.sqlite.statements import statement
from stage.store.sqlite.tx import author_tx

T = TypeVar("T")

_BEGIN: Final = statement("begin_batch")
_COMMIT: Final = statement("commit_batch")
_ROLLBACK: Final = statement("drop_batch")
_MARK: Final = statement("begin_part")
_KEEP: Final = statement("keep_part")
_UNDO: Final = statement("undo_part")


class MemoryStore:
    """ports.store.Store without a file. Units run at once, inside the call of `transact`.

    What was written outlives `close`: the same store can be opened again, as a file could.
    """

    def __init__(self, *, migrations: Sequence[Traversable] = (), codec: Codec = PLAIN) -> None:
        self._codec = codec
        self._migrations = tuple(migrations)
        self._sagas: dict[str, SagaRow] = {}
        self._journal: dict[str, list[Row]] = {}
        self._connection: sqlite3.Connection | None = None
        self._open = False

    async def open(self) -> None:
        """See ports.store.Store."""
        if self._connection is None:
            with outside_loop():
                self._connection = _database(self._migrations)
        self._open = True

    async def close(self) -> None:
        """See ports.store.Store."""
        self._open = False

    def discard(self) -> None:
        """Drop all that was written."""
        self._open = False
        self._sagas.clear()
        self._journal.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        if not self._open or self._connection is None:
            raise StoreUnavailable("the store is closed: nothing was written")
        with outside_loop():
            return self._run(self._connection, work)

    def _run(self, connection: sqlite3.Connection, work: Callable[[Unit], Awaitable[T]]) -> T:
        connection.execute(_BEGIN)
        part = Part(connection)
        unit = _MemoryUnit(self._sagas, self._journal, self._codec, connection, part)
        try:
            value = drive(work, unit)
            if part.failure is not None:
                raise part.failure
            if not connection.in_transaction:
                raise StatementRefused(ENDED)
            connection.execute(_COMMIT)
        except BaseException:
            unit.undo(0)
            if connection.in_transaction:
                connection.execute(_ROLLBACK)
            raise
        finally:
            unit.end()
        return value

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        return self._sagas.get(saga_id)

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        return [rows.entry(saga_id, row, self._codec) for row in self._journal.get(saga_id, ())]

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store."""
        found = [row for _, row in sorted(self._sagas.items()) if _matches(row, which)]
        return found[: which.limit]

    async def due(self, before: float, limit: int) -> list[str]:
        """See ports.store.Store."""
        found = [
            (row.due_at, row.id)
            for row in self._sagas.values()
            if row.due_at is not None and row.due_at <= before
        ]
        return [saga_id for _, saga_id in sorted(found)[:limit]]

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store. States without a saga are there with 0."""
        found = dict.fromkeys(SagaState, 0)
        for row in self._sagas.values():
            found[row.state] += 1
        return found

    async def backlog(self, now: float) -> Backlog:
        """See ports.store.Store."""
        sagas = self._sagas.values()
        under_way = (SagaState.ACTIVE, SagaState.COMPENSATING)
        accepted = [row.accepted_at for row in sagas if row.state in under_way and not row.parked]
        due = [row.due_at for row in sagas if row.due_at is not None and row.due_at <= now]
        return Backlog(
            parked=sum(bool(row.parked) for row in sagas),
            oldest_accepted_at=min(accepted, default=None),
            longest_due_at=min(due, default=None),
        )

    @property
    def codec(self) -> Codec:
        """See ports.store.Store."""
        return self._codec

    @property
    def exclusive(self) -> bool:
        """See ports.store.Store: the memory is that of this process."""
        return True

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return True


class _MemoryUnit:
    """One unit on the dicts; it remembers what it changed, so that it can be undone."""

    __slots__ = ("_changes", "_codec", "_connection", "_journal", "_part", "_sagas")

    def __init__(
        self,
        sagas: dict[str, SagaRow],
        journal: dict[str, list[Row]],
        codec: Codec,
        connection: sqlite3.Connection,
        part: Part,
    ) -> None:
        self._sagas = sagas
        self._journal = journal
        self._codec = codec
        self._connection = connection
        self._part = part
        self._changes: list[SagaRow | str | tuple[SagaRow, list[Row]]] = []
        """The row as it was before each change; the id of a saga that was not there; the row and
        the journal of one that was closed."""

    @property
    def tx(self) -> Tx:
        """See ports.store.Unit."""
        return author_tx(self._part)

    def end(self) -> None:
        """The unit is over: nothing kept from it may write any more."""
        self._part.end()

    def undo(self, mark: int) -> None:
        """Put the rows and the journal back to where they were after `mark` changes."""
        while len(self._changes) > mark:
            before = self._changes.pop()
            if isinstance(before, str):
                del self._sagas[before], self._journal[before]
            elif isinstance(before, tuple):
                row, journal = before
                self._sagas[row.id], self._journal[row.id] = row, journal
            else:
                self._sagas[before.id] = before
                del self._journal[before.id][before.length :]

    async def load(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        self._part.check()
        return self._sagas.get(saga_id)

    async def journal(self, saga_id: str) -> list[Entry]:
        """See ports.store.Unit."""
        self._part.check()
        return [rows.entry(saga_id, row, self._codec) for row in self._journal.get(saga_id, ())]

    async def insert(self, row: SagaRow, events: Sequence[Event]) -> None:
        """See ports.store.Unit."""
        self._part.check()
        rows.check_insert(row, events)
        if row.id in self._sagas:
            raise KeyError(row.id)
        self._write(row, events)
        self._changes.append(row.id)

    async def save(self, row: SagaRow, events: Sequence[Event], *, epoch: int) -> None:
        """See ports.store.Unit."""
        self._part.check()
        rows.check_save(row, epoch)
        held = self._sagas.get(row.id)
        if held is None:
            rows.refuse(row, epoch, len(events), None)
        if held.epoch != epoch or held.length + len(events) != row.length:
            rows.refuse(row, epoch, len(events), (held.epoch, held.length))
        self._write(row, events)
        self._changes.append(held)

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._part.check()
        found = [row for row in self._sagas.values() if _closable(row, before)]
        for row in sorted(found, key=lambda row: row.updated_at)[:limit]:
            self._changes.append((row, self._journal[row.id]))
            self._sagas[row.id] = replace(row, closed_at=at, envelope=b"")
            self._journal[row.id] = []
        return min(len(found), limit)

    def _write(self, row: SagaRow, events: Sequence[Event]) -> None:
        first = row.length - len(events) + 1
        written = [
            (number, row.epoch, self._codec.encode_event(row.id, event))
            for number, event in enumerate(events, first)
        ]
        self._sagas[row.id] = row
        self._journal.setdefault(row.id, []).extend(written)

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """See ports.store.Unit. An escape of `work` ends the attempt, with TransactionEscaped."""
        self._part.check()
        connection = self._connection
        mark = len(self._changes)
        connection.execute(_MARK)
        try:
            value = drive(work)
            if not connection.in_transaction:
                raise StatementRefused(ENDED)
        except BaseException:
            self.undo(mark)
            if connection.in_transaction:
                connection.execute(_UNDO)
                connection.execute(_KEEP)
            raise
        connection.execute(_KEEP)
        return value


def _database(migrations: Sequence[Traversable]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        connection.execute(statement("foreign_keys"))
        dialect.apply_authored(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _closable(row: SagaRow, before: float) -> bool:
    over = row.state in (SagaState.COMPLETED, SagaState.COMPENSATED)
    waits = row.due_at is not None or bool(row.parked)
    return over and not waits and row.closed_at is None and row.updated_at < before


def _matches(row: SagaRow, which: Filter) -> bool:
    return (
        row.id > which.after
        and (not which.states or row.state in which.states)
        and (which.parked is None or bool(row.parked) is which.parked)
    )
