"""One unit on a SQLite connection. Nothing here suspends.

Units share a transaction, and a unit that fails must leave the others alone. A savepoint for each
would do, but its two statements are a tenth of the cost of a unit. So no unit sets one at first.
When one fails that has written, the whole transaction is dropped, and the writer runs all of its
units again, one by one. Our own writes fail only for a defect or a full disk. Functions of an
author may fail by design after they have written: once one has, each unit sets a savepoint before
the first write of the author.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from stage.core.act_key import ACT_KEY_SECONDS_MAX, ActKey, KeptAct
from stage.core.events import Event
from stage.core.pause import Pause, Way
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.ports.codec import Codec
from stage.ports.store import (
    LOST_SAGAS_MAX,
    TASK_SECONDS_MAX,
    UNKEPT,
    Act,
    Dropped,
    Entry,
    LostSaga,
    Row,
    SagaRow,
    TaskBefore,
    Term,
    Tx,
    Unit,
)
from stage.store import rows
from stage.store.drive import drive
from stage.store.errors import Contended, StatementRefused
from stage.store.sqlite.entries import BatchEntries
from stage.store.sqlite.part import ENDED, Care, Part
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import TableGuard
from stage.store.sqlite.tx import author_tx

T = TypeVar("T")

_INSERT: Final = statement("insert_saga")
_SAVE: Final = statement("save_saga")
_HELD: Final = statement("held_saga")
_GET: Final = statement("get_saga")
_KEEP_LOST: Final = statement("keep_lost")
_LOST_REQUESTS: Final = statement("lost_requests")
_CLOSABLE: Final = statement("closable_sagas")
_CLOSE: Final = statement("close_saga")
_CLOSE_REST: Final = statement("close_rest")
_GIVEN_UP: Final = statement("given_up_sagas")
_BLANK_LOST: Final = statement("blank_lost")
_DROP_ANSWERS: Final = statement("drop_answers")
_DROP_ANSWER: Final = statement("drop_answer")
_DROPPABLE: Final = statement("droppable_sagas")
_DROPPABLE_ONE: Final = statement("droppable_saga")
_DROP_SAGA: Final = statement("drop_saga")
_DROP_LOST: Final = statement("drop_lost")
_MARK_DROPPED: Final = statement("mark_dropped")
_DROPPED: Final = statement("get_dropped")
_DROP_ACTS: Final = statement("drop_acts")
_DROP_JOURNAL: Final = statement("drop_journal")
_DROP_TERMS: Final = statement("drop_terms")
_TERM: Final = statement("insert_term")
_KEEP_ACT: Final = statement("keep_act")
_ACT_UNDER: Final = statement("act_under")
_KEEP_ACT_KEY: Final = statement("keep_act_key")
_DROP_OLD_ACT_KEYS: Final = statement("drop_old_act_keys")
_DROP_DIGESTS: Final = statement("drop_digests")
_KEEP_ANSWER: Final = statement("put_reconciled")
_BEGIN_SWEEP: Final = statement("begin_sweep")
_BEGIN_SWEEP_SAGAS: Final = statement("begin_sweep_sagas")
_SET_SWEEP: Final = statement("set_sweep")
_END_SWEEP_SAGA: Final = statement("end_sweep_saga")
_PUT_PAUSE: Final = statement("put_pause")
_DROP_PAUSE: Final = statement("drop_pause")
_TAKE_TASK: Final = statement("take_task")
_WITHDRAW_TASK: Final = statement("withdraw_task")
_GIVE_UP_TASK: Final = statement("give_up_task")
_END_TASK: Final = statement("end_task")
_DROP_OLD_TASKS: Final = statement("drop_old_tasks")
_JOURNAL: Final = statement("get_journal")
_KEEP: Final = statement("keep_part")
_UNDO: Final = statement("undo_part")
_DROP: Final = statement("drop_batch")
_NUMBER: Final = re.compile(r"\?[0-9]+")
"""The place of a parameter in a statement of ours."""


class SqliteUnit(msgspec.Struct, eq=False):
    """One unit on the writer's connection; other units share its transaction."""

    _connection: sqlite3.Connection
    _part: Part
    _codec: Codec
    _entries: BatchEntries
    """The entries of the units before it in the batch."""
    added: list[object] = []
    """The columns of the journal entries that it adds."""
    _flushed: bool = False
    """True once the attempt under way has had entries written."""

    @property
    def tx(self) -> Tx:
        """See ports.store.Unit."""
        return author_tx(self._part)

    async def load(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        found = self._part.rows(_GET, (saga_id,), 1)
        return rows.saga_row(found[0], self._codec) if found else None

    take = load  # nobody else can hold it

    async def received(self, mail: Sequence[int]) -> None:
        """See ports.store.Unit: there is no mail."""

    async def journal(self, saga_id: str) -> list[Entry]:
        """See ports.store.Unit."""
        self._write_entries()
        found = self._part.run(_JOURNAL, (saga_id,))
        return [rows.entry(saga_id, row, self._codec) for row in found]

    async def insert(
        self, row: SagaRow, events: Sequence[Event], terms: Sequence[Term] = ()
    ) -> None:
        """See ports.store.Unit."""
        rows.check_insert(row, events)
        try:
            self._part.write(_INSERT, rows.parameters(row, self._codec))
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise KeyError(row.id) from error
            raise
        self.added += rows.journal_values(row, events, self._codec)
        for values in rows.term_values(terms, row.id, self._codec):
            self._part.write(_TERM, values)

    async def save(
        self, row: SagaRow, events: Sequence[Event], *, epoch: int, before: SagaRow | None = None
    ) -> None:
        """See ports.store.Unit."""
        rows.check_save(row, epoch)
        length = row.length - len(events)
        columns: tuple[str, ...] = ()
        if before is not None:
            columns, values = rows.changes(row, before, self._codec)
        if columns:
            sql, given = _save(columns), (*values, epoch, length)
        else:
            sql, given = _SAVE, (*rows.parameters(row, self._codec), epoch, length)
        if self._part.write(sql, given) != 1:
            held = self._part.rows(_HELD, (row.id,), 1)
            rows.refuse(row, epoch, len(events), held[0] if held else None)
        self.added += rows.journal_values(row, events, self._codec)

    def _write_entries(self) -> None:
        """Write what waits for the end of the batch, so that it can be read."""
        if self.added or self._part.marked:  # no mark may undo those of other units
            self._flushed = self._part.wrote_unmarked = True
        try:
            self._entries.add(self.added)
            self.added = []
            self._entries.write(self._connection)
        except sqlite3.Error as error:
            raise self._part.mapped(error) from error

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._write_entries()
        found = self._part.rows(_CLOSABLE, (before, limit), limit)
        if left := limit - len(found):
            found += self._part.rows(_GIVEN_UP, (left,), left)
        for (saga_id,) in found:
            self._part.write(_DROP_JOURNAL, (saga_id,))
            self._part.write(_DROP_TERMS, (saga_id,))
            self._part.write(_CLOSE, (saga_id, at))
        return len(found)

    async def close(self, row: SagaRow, *, epoch: int) -> bool:
        """See ports.store.Unit."""
        self._write_entries()
        if self._part.write(_CLOSE_REST, rows.closing_values(row, epoch, self._codec)) != 1:
            return False
        for sql in (_DROP_JOURNAL, _DROP_TERMS, _BLANK_LOST):
            self._part.write(sql, (row.id,))
        return True

    async def drop_answers(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        return self._part.write(_DROP_ANSWERS, (before, limit))

    async def drop_answer(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        return self._part.write(_DROP_ANSWER, (saga_id,)) == 1

    async def drop_rows(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._write_entries()
        return self._drop(self._part.rows(_DROPPABLE, (before, limit), limit))

    async def drop_row(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        self._write_entries()
        return self._drop(self._part.rows(_DROPPABLE_ONE, (saga_id,), 1)) == 1

    def _drop(self, found: Sequence[Row]) -> int:
        for saga_id, _ in found:
            for sql in (_DROP_SAGA, _DROP_LOST):
                self._part.write(sql, (saga_id,))
        if found:
            self._part.write(_MARK_DROPPED, rows.dropped_until(found))
        return len(found)

    async def drop_acts(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        return self._part.write(_DROP_ACTS, (before, limit))

    async def dropped(self) -> Dropped:
        """See ports.store.Unit."""
        return rows.dropped(self._part.rows(_DROPPED, (), 1)[0])

    async def begin_sweep(self, sweep: Sweep, saga_ids: Sequence[str]) -> int:
        """See ports.store.Unit."""
        self._part.wrote_unmarked = self._part.wrote_unmarked or not self._part.marked
        ((number,),) = self._part.rows(_BEGIN_SWEEP, rows.sweep_values(sweep), 1)
        ids = msgspec.json.encode(list(saga_ids)).decode()
        self._part.write(_BEGIN_SWEEP_SAGAS, (number, ids))
        return int(number)

    async def set_sweep(self, number: int, state: SweepState) -> None:
        """See ports.store.Unit."""
        self._part.write(_SET_SWEEP, (number, state.value))

    async def end_sweep_saga(
        self, number: int, saga_id: str, end: SweepEnd, detail: str = ""
    ) -> None:
        """See ports.store.Unit."""
        self._part.write(_END_SWEEP_SAGA, (number, saga_id, end.value, detail))

    async def put_pause(self, pause: Pause) -> None:
        """See ports.store.Unit."""
        self._part.write(_PUT_PAUSE, rows.pause_values(pause))

    async def drop_pause(self, target: str, way: Way | None, put_by: float) -> bool:
        """See ports.store.Unit."""
        return self._part.write(_DROP_PAUSE, (target, rows.way_value(way), put_by)) > 0

    async def take_task(self, saga_id: str, token: str, at: float) -> TaskBefore:
        """See ports.store.Unit."""
        self._part.write(_DROP_OLD_TASKS, (at - TASK_SECONDS_MAX,))
        self._part.wrote_unmarked = self._part.wrote_unmarked or not self._part.marked
        ((before, given_up),) = self._part.rows(_TAKE_TASK, (saga_id, token, at), 1)
        return TaskBefore(token=before.partition(" ")[0], given_up=bool(given_up))

    async def withdraw_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        self._part.write(_WITHDRAW_TASK, (saga_id, token))

    async def give_up_task(self, saga_id: str, token: str) -> bool:
        """See ports.store.Unit."""
        return self._part.write(_GIVE_UP_TASK, (saga_id, token)) > 0

    async def end_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        self._part.write(_END_TASK, (saga_id, token))

    async def drop_terms(self, saga_id: str) -> None:
        """See ports.store.Unit."""
        self._part.write(_DROP_TERMS, (saga_id,))

    async def keep_act(self, act: Act) -> None:
        """See ports.store.Unit."""
        self._part.write(_KEEP_ACT, rows.act_values(act))

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Unit."""
        return rows.kept_act(self._part.rows(_ACT_UNDER, (key.key,), 1), key, self._codec)

    async def drop_digests(self) -> None:
        """See ports.store.Unit."""
        self._part.write(_DROP_DIGESTS, ())

    async def keep_act_key(
        self, key: ActKey, at: float, *, refused: str = "", sweep: int = 0
    ) -> None:
        """See ports.store.Unit."""
        self._part.write(_DROP_OLD_ACT_KEYS, (at - ACT_KEY_SECONDS_MAX,))
        digest = rows.digest_kept(key, self._codec)
        self._part.write(_KEEP_ACT_KEY, (key.key, digest, at, refused, sweep))

    async def keep_lost(self, lost: LostSaga) -> bool:
        """See ports.store.Unit."""
        if await self.load(lost.saga_id) is not None:
            return False
        values = (lost.saga_id, lost.requested_by, lost.reason, lost.first_sent_at, lost.asked_at)
        self._part.write(_KEEP_LOST, (*values, LOST_SAGAS_MAX + (lost.saga_id == UNKEPT)))
        return True

    async def lost_requests(self, saga_id: str) -> Sequence[LostSaga]:
        """See ports.store.Unit."""
        found = self._part.rows(_LOST_REQUESTS, (saga_id,), LOST_SAGAS_MAX)
        return [
            LostSaga(
                saga_id=saga_id,
                requested_by=requested_by,
                reason=reason,
                first_sent_at=first_sent_at,
                asked_at=asked_at,
            )
            for requested_by, reason, first_sent_at, asked_at in found
        ]

    async def keep_answer(self, generation: int, neighbour: str, answer: str, at: float) -> None:
        """See ports.store.Unit."""
        self._part.write(_KEEP_ANSWER, (generation, neighbour, answer, at))

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """See ports.store.Unit. An escape of `work` ends the attempt, with TransactionEscaped."""
        part = self._part
        before, part.wrote_as_author = part.wrote_as_author, False
        added, self._flushed = len(self.added), False
        inner = part.marked  # the mark that is there belongs to another attempt and stays
        if inner:
            part.mark()
        try:
            value = drive(work)
            if not self._connection.in_transaction:
                raise StatementRefused(ENDED)
        except BaseException as error:
            del self.added[added:]
            if self._flushed:  # with the entries of others, which no mark may undo
                _drop(self._connection)
                raise Contended("the unit is run again: others wrote with it") from error
            if part.marked:
                _undo(self._connection, keep=not inner)
            elif part.wrote_as_author and part.failure is None:
                part.take_care()
                _drop(self._connection)
                raise Contended("the unit is run again: it failed after it had written") from error
            raise
        part.wrote_as_author |= before
        if inner:
            part.run(_KEEP, ())
        return value


def _undo(connection: sqlite3.Connection, *, keep: bool = False) -> None:
    """Undo what was written since the mark; release the mark unless it is to `keep`."""
    if not connection.in_transaction:
        return
    try:
        connection.execute(_UNDO)
        if not keep:
            connection.execute(_KEEP)
    except sqlite3.Error:
        # A part that cannot be undone alone takes the batch along; the writer repeats the others.
        _drop(connection)


def _drop(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        connection.execute(_DROP)


@lru_cache(rows.CHANGES_MAX)
def _save(columns: tuple[str, ...]) -> str:
    """The statement that saves these columns alone; then come the id, the epoch and the length.

    SQLite writes anew the entry of every index that has a column which is set, equal or not. And
    to bind a value takes as long as to store it.
    """
    head, where = _SAVE.split(" SET", 1)[0], _SAVE.split("WHERE", 1)[1]
    chosen = ", ".join(f"{column} = ?" for column in columns)
    return f"{head} SET {chosen} WHERE{_NUMBER.sub('?', where)}"


def run_unit(
    connection: sqlite3.Connection,
    work: Callable[[Unit], Awaitable[T]],
    codec: Codec,
    care: Care,
    guard: TableGuard,
    entries: BatchEntries,
) -> T:
    """Run one unit within the open transaction; it is undone alone when it raises.

    Afterwards the caller has to check that the connection is still in a transaction: SQLite may
    have rolled back all of it, or the unit could not be undone alone.
    """
    part = Part(connection, care, guard)
    try:
        unit = SqliteUnit(connection, part, codec, entries)
        value = drive(work, unit)
        if part.failure is not None:
            raise part.failure
        if not connection.in_transaction:
            raise StatementRefused(ENDED)
        if part.marked:
            part.run(_KEEP, ())
        entries.add(unit.added)
    except BaseException:
        if part.wrote_unmarked:
            _drop(connection)
        elif part.marked:
            _undo(connection)
        raise
    finally:
        part.end()
    return value
