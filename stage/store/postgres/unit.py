"""One unit on the connection that writes; other units share its transaction.

Its writes to sagas are kept in `Writes` until the end of the batch. A savepoint is set only
before the first statement of the author, which may well fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TypeVar

from stage.core.act_key import ACT_KEY_SECONDS_MAX, ActKey, KeptAct
from stage.core.errors import StoreUnavailable
from stage.core.events import Event
from stage.core.pause import Pause, Way
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.ports.codec import Codec
from stage.ports.ownership import HeldElsewhere
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
from stage.store.postgres.link import Link
from stage.store.postgres.part import Part
from stage.store.postgres.steps import Asked, Guarded, run
from stage.store.postgres.tx import author_tx
from stage.store.postgres.writes import Writes

T = TypeVar("T")


class PostgresUnit:
    """ports.store.Unit. `me` is the registration of this replica."""

    __slots__ = ("_codec", "_me", "_part", "_writes")

    def __init__(self, part: Part, writes: Writes, codec: Codec, me: int) -> None:
        self._part = part
        self._writes = writes
        self._codec = codec
        self._me = me

    @property
    def tx(self) -> Tx:
        """See ports.store.Unit."""
        return author_tx(self._part)

    async def load(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        self._part.check()
        if (write := self._writes.sagas.get(saga_id)) is not None:
            return write.row
        found = await self._part.rows("get_saga", saga_id)
        return rows.saga_row(found[0], self._codec) if found else None

    async def take(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit. The row is locked until the end of the batch."""
        self._part.check()
        if (write := self._writes.sagas.get(saga_id)) is not None:
            return write.row
        found = await self._part.rows("take_saga", saga_id)
        if not found:
            return None
        *columns, owner = found[0]
        row = rows.saga_row(tuple(columns), self._codec)
        if row.due_at is not None:
            if owner not in (None, self._me) and not await self._is_dead(owner):
                raise HeldElsewhere(f"saga {saga_id} is run by another replica")
            self._writes.take(saga_id)
        return row

    async def _is_dead(self, owner: int) -> bool:
        ((dead,),) = await self._part.rows("bury_owner", owner)
        return bool(dead)

    async def journal(self, saga_id: str) -> list[Entry]:
        """See ports.store.Unit."""
        self._part.check()
        write = self._writes.sagas.get(saga_id)
        stored: list[Row] = []
        if write is None or write.held is not None:
            stored = await self._part.rows("get_journal", saga_id)
        entries = [rows.entry(saga_id, row, self._codec) for row in stored]
        return entries if write is None else [*entries, *write.entries]

    async def insert(
        self, row: SagaRow, events: Sequence[Event], terms: Sequence[Term] = ()
    ) -> None:
        """See ports.store.Unit."""
        self._part.check()
        rows.check_insert(row, events)
        self._writes.insert(row, events, terms)

    async def save(
        self, row: SagaRow, events: Sequence[Event], *, epoch: int, before: SagaRow | None = None
    ) -> None:
        """See ports.store.Unit."""
        self._part.check()
        rows.check_save(row, epoch)
        self._writes.save(row, events, epoch)

    async def received(self, mail: Sequence[int]) -> None:
        """See ports.store.Unit."""
        self._part.check()
        self._writes.receive(mail)

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit. Sagas that this batch writes are left to the next time."""
        await self._marked()
        busy = list(self._writes.sagas)
        return len(await self._part.rows("close_ended", before, at, limit, busy))

    async def close(self, row: SagaRow, *, epoch: int) -> bool:
        """See ports.store.Unit. A saga that this batch writes is not there yet as it will be."""
        await self._marked()
        if row.id in self._writes.sagas:
            return False
        values = rows.closing_values(row, epoch, self._codec)
        return bool(await self._part.rows("close_rest", *values))

    async def drop_answers(self, before: float, limit: int) -> int:
        """See ports.store.Unit. Sagas that this batch writes are left to the next time."""
        await self._marked()
        busy = list(self._writes.sagas)
        return len(await self._part.rows("drop_answers", before, limit, busy))

    async def drop_answer(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        await self._marked()
        if saga_id in self._writes.sagas:
            return False
        return bool(await self._part.rows("drop_answer", saga_id))

    async def drop_rows(self, before: float, limit: int) -> int:
        """See ports.store.Unit. Sagas that this batch writes are left to the next time."""
        await self._marked()
        busy = list(self._writes.sagas)
        return await self._dropped(await self._part.rows("drop_sagas", before, limit, busy))

    async def drop_row(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        await self._marked()
        if saga_id in self._writes.sagas:
            return False
        return await self._dropped(await self._part.rows("drop_saga", saga_id)) == 1

    async def _dropped(self, found: Sequence[Row]) -> int:
        if found:
            await self._part.rows("mark_dropped", *rows.dropped_until(found))
        return len(found)

    async def drop_acts(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        await self._marked()
        return len(await self._part.rows("drop_acts", before, limit))

    async def dropped(self) -> Dropped:
        """See ports.store.Unit."""
        self._part.check()
        return rows.dropped((await self._part.rows("get_dropped"))[0])

    async def begin_sweep(self, sweep: Sweep, saga_ids: Sequence[str]) -> int:
        """See ports.store.Unit."""
        await self._marked()
        ((number,),) = await self._part.rows("begin_sweep", *rows.sweep_values(sweep))
        await self._part.rows("begin_sweep_sagas", number, list(saga_ids))
        return int(number)

    async def set_sweep(self, number: int, state: SweepState) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("set_sweep", number, state.value)

    async def end_sweep_saga(
        self, number: int, saga_id: str, end: SweepEnd, detail: str = ""
    ) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("end_sweep_saga", number, saga_id, end.value, detail)

    async def put_pause(self, pause: Pause) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("put_pause", *rows.pause_values(pause))

    async def drop_pause(self, target: str, way: Way | None, put_by: float) -> bool:
        """See ports.store.Unit."""
        await self._marked()
        return bool(await self._part.rows("drop_pause", target, rows.way_value(way), put_by))

    async def take_task(self, saga_id: str, token: str, at: float) -> TaskBefore:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("drop_old_tasks", at - TASK_SECONDS_MAX)
        ((before, given_up),) = await self._part.rows("take_task", saga_id, token, at)
        return TaskBefore(token=before.partition(" ")[0], given_up=given_up)

    async def withdraw_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("withdraw_task", saga_id, token)

    async def give_up_task(self, saga_id: str, token: str) -> bool:
        """See ports.store.Unit."""
        await self._marked()
        return bool(await self._part.rows("give_up_task", saga_id, token))

    async def end_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("end_task", saga_id, token)

    async def drop_terms(self, saga_id: str) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("drop_terms", saga_id)

    async def keep_act(self, act: Act) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("keep_act", *rows.act_values(act))

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("lock_act_key", key.key)
        return rows.kept_act(await self._part.rows("act_under", key.key), key, self._codec)

    async def drop_digests(self) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("drop_digests")

    async def keep_act_key(
        self, key: ActKey, at: float, *, refused: str = "", sweep: int = 0
    ) -> None:
        """See ports.store.Unit."""
        await self._marked()
        await self._part.rows("drop_old_act_keys", at - ACT_KEY_SECONDS_MAX)
        digest = rows.digest_kept(key, self._codec)
        await self._part.rows("keep_act_key", key.key, digest, at, refused, sweep)

    async def keep_lost(self, lost: LostSaga) -> bool:
        """See ports.store.Unit.

        The lock comes first: who adopts the saga meanwhile holds it until that is durable, and
        then it is found.
        """
        await self._marked()
        await self._part.rows("lock_lost", lost.saga_id)
        if await self.load(lost.saga_id) is not None:
            return False
        values = (lost.saga_id, lost.requested_by, lost.reason, lost.first_sent_at, lost.asked_at)
        room = LOST_SAGAS_MAX + (lost.saga_id == UNKEPT)
        await self._part.rows("keep_lost", *values, room)
        return True

    async def lost_requests(self, saga_id: str) -> Sequence[LostSaga]:
        """See ports.store.Unit."""
        await self._part.rows("lock_lost", saga_id)
        found = await self._part.rows("lost_requests", saga_id)
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
        await self._marked()
        await self._part.rows("put_reconciled", generation, neighbour, answer, at)

    async def _marked(self) -> None:
        self._part.check()
        if not self._part.marked:
            await Asked(self._part.mark)

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """See ports.store.Unit. An escape of `work` ends the attempt, with TransactionEscaped."""
        part, writes = self._part, self._writes
        part.check()
        inner = part.marked  # the mark that is there belongs to another attempt and stays
        if inner:
            await Asked(part.mark)
        mark = writes.mark()
        try:
            value = await Guarded(work)
            part.refuse_broken()
        except BaseException:
            writes.undo(mark)
            await Asked(partial(part.undo, keep=not inner))
            raise
        if inner:
            await Asked(part.keep)
        return value


async def run_unit(
    link: Link,
    writes: Writes,
    work: Callable[[Unit], Awaitable[T]],
    context: Context,
    codec: Codec,
    me: int,
) -> T:
    """Run one unit within the open transaction; it is undone alone when it raises.

    Where that is not possible the transaction is ended.
    """
    part = Part(link)
    mark = writes.mark()
    try:
        value = await run(context, work, PostgresUnit(part, writes, codec, me))
        if part.failure is not None:
            raise part.failure
        part.refuse_broken()
    except BaseException as error:
        writes.undo(mark)
        if link.in_transaction:
            with suppress(StoreUnavailable):  # then it is the failure of the part
                await part.undo(keep=True)
        if part.failure is not None or part.broken is not None:
            await link.drop()
        if part.failure is not None and error is not part.failure:
            raise part.failure from error
        raise
    finally:
        part.end()
    return value
