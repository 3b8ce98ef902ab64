"""One unit of the store in memory: it remembers what it changed, so that it can be undone."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Final, TypeVar

from msgspec.structs import replace

from stage.core.act_key import ACT_KEY_SECONDS_MAX, ActKey, KeptAct
from stage.core.errors import StaleEpoch
from stage.core.events import (
    Event,
)
from stage.core.pause import Pause, Way
from stage.core.states import SagaState
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.core.unseen import proves_age
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
    SagaRow,
    TaskBefore,
    Term,
    Tx,
)
from stage.store import rows
from stage.store.drive import drive
from stage.store.errors import StatementRefused
from stage.store.memory_database import HeldTask, MemoryDatabase, MemoryReplica
from stage.store.sqlite.part import ENDED, Part
from stage.store.sqlite.statements import statement
from stage.store.sqlite.tx import author_tx

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

_MARK: Final = statement("begin_part")
_KEEP: Final = statement("keep_part")
_UNDO: Final = statement("undo_part")
_OVER: Final = (SagaState.COMPLETED, SagaState.COMPENSATED)


class MemoryUnit:
    """One unit on the dicts; it remembers what it changed, so that it can be undone."""

    __slots__ = (
        "_changes",
        "_codec",
        "_connection",
        "_database",
        "_journal",
        "_part",
        "_replica",
        "_sagas",
        "written",
    )

    def __init__(
        self,
        database: MemoryDatabase,
        replica: MemoryReplica | None,
        codec: Codec,
        connection: sqlite3.Connection,
        part: Part,
    ) -> None:
        self._database = database
        self._sagas = database.sagas
        self._journal = database.journal
        self._replica = replica
        self._codec = codec
        self._connection = connection
        self._part = part
        self._changes: list[Callable[[], object]] = []
        """Functions that undo one change each, in the order of the changes."""
        self.written: list[str] = []
        """The sagas that were written, also those undone."""

    @property
    def tx(self) -> Tx:
        """See ports.store.Unit."""
        return author_tx(self._part)

    def end(self) -> None:
        """The unit is over: nothing kept from it may write any more."""
        self._part.end()

    def undo(self, mark: int) -> None:
        """Put everything back to where it was after `mark` changes."""
        while len(self._changes) > mark:
            self._changes.pop()()

    async def load(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        self._part.check()
        return self._sagas.get(saga_id)

    async def take(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        self._part.check()
        row = self._sagas.get(saga_id)
        if self._replica is not None and row is not None and row.due_at is not None:
            if self._replica.held_elsewhere(saga_id):
                raise HeldElsewhere(f"saga {saga_id} is run by another replica")
            self._own(saga_id, self._replica.me)
        return row

    async def journal(self, saga_id: str) -> list[Entry]:
        """See ports.store.Unit."""
        self._part.check()
        return [rows.entry(saga_id, row, self._codec) for row in self._journal.get(saga_id, ())]

    async def insert(
        self, row: SagaRow, events: Sequence[Event], terms: Sequence[Term] = ()
    ) -> None:
        """See ports.store.Unit."""
        self._part.check()
        rows.check_insert(row, events)
        if row.id in self._sagas:
            raise KeyError(row.id)
        self._write(row, events)
        if terms:
            values = rows.term_values(terms, row.id, self._codec)
            self._database.terms[row.id] = tuple(Term(name, value) for _, name, value in values)
            self._changes.append(partial(self._database.terms.pop, row.id, None))

    async def save(
        self, row: SagaRow, events: Sequence[Event], *, epoch: int, before: SagaRow | None = None
    ) -> None:
        """See ports.store.Unit."""
        self._part.check()
        rows.check_save(row, epoch)
        held = self._sagas.get(row.id)
        if held is None:
            rows.refuse(row, epoch, len(events), None)
        if held.epoch != epoch or held.length + len(events) != row.length:
            rows.refuse(row, epoch, len(events), (held.epoch, held.length))
        if self._replica is not None:
            owner = self._database.owners.get(row.id)
            if owner is not None and owner != self._replica.me:
                raise StaleEpoch(f"saga {row.id} is held by another replica; drop this run")
        self._write(row, events)

    async def received(self, mail: Sequence[int]) -> None:
        """See ports.store.Unit."""
        self._part.check()
        for number in mail:
            if (held := self._database.mail.pop(number, None)) is not None:
                self._changes.append(partial(self._database.mail.__setitem__, number, held))

    async def begin_sweep(self, sweep: Sweep, saga_ids: Sequence[str]) -> int:
        """See ports.store.Unit."""
        self._part.check()
        sweeps, sagas = self._database.sweeps, self._database.sweep_sagas
        number = len(sweeps) + 1
        sweeps[number] = replace(sweep, number=number)
        sagas[number] = dict.fromkeys(saga_ids, (SweepEnd.PENDING, ""))
        self._changes += [partial(sweeps.pop, number), partial(sagas.pop, number)]
        return number

    async def set_sweep(self, number: int, state: SweepState) -> None:
        """See ports.store.Unit."""
        self._part.check()
        sweeps = self._database.sweeps
        self._changes.append(partial(sweeps.__setitem__, number, sweeps[number]))
        sweeps[number] = replace(sweeps[number], state=state)

    async def end_sweep_saga(
        self, number: int, saga_id: str, end: SweepEnd, detail: str = ""
    ) -> None:
        """See ports.store.Unit."""
        self._part.check()
        sagas = self._database.sweep_sagas[number]
        self._changes.append(partial(sagas.__setitem__, saga_id, sagas[saga_id]))
        sagas[saga_id] = (end, detail)

    async def put_pause(self, pause: Pause) -> None:
        """See ports.store.Unit."""
        self._part.check()
        self._keep_pause((pause.target, rows.way_value(pause.way)), pause)

    async def drop_pause(self, target: str, way: Way | None, put_by: float) -> bool:
        """See ports.store.Unit."""
        self._part.check()
        key = (target, rows.way_value(way))
        held = self._database.pauses.get(key)
        if held is None or held.at > put_by:
            return False
        self._keep_pause(key, None)
        return True

    def _keep_pause(self, key: tuple[str, str], pause: Pause | None) -> None:
        pauses, before = self._database.pauses, self._database.pauses.get(key)
        self._changes.append(partial(_set, pauses, key, before))
        _set(pauses, key, pause)

    async def take_task(self, saga_id: str, token: str, at: float) -> TaskBefore:
        """See ports.store.Unit."""
        self._part.check()
        tasks = self._database.tasks
        for old in [each for each, task in tasks.items() if task.at < at - TASK_SECONDS_MAX]:
            self._keep_task(old, None)
        held = tasks.get(saga_id, HeldTask(token="", before=(), given_up=False, at=at))
        others = (held.token, *held.before) if held.token else ()
        before = held.before if held.token == token else others
        self._keep_task(saga_id, replace(held, token=token, before=before, at=at))
        return TaskBefore(token=before[0] if before else "", given_up=held.given_up)

    async def withdraw_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        self._part.check()
        held = self._database.tasks.get(saga_id)
        if held is None:
            return
        left = tuple(each for each in held.before if each != token)
        if held.token == token and left:
            self._keep_task(saga_id, replace(held, token=left[0], before=left[1:]))
        else:
            self._keep_task(saga_id, replace(held, before=left))

    async def give_up_task(self, saga_id: str, token: str) -> bool:
        """See ports.store.Unit."""
        held = self._newest_task(saga_id, token)
        if held is not None:
            self._keep_task(saga_id, replace(held, given_up=True))
        return held is not None

    async def end_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        if self._newest_task(saga_id, token) is not None:
            self._keep_task(saga_id, None)

    def _newest_task(self, saga_id: str, token: str) -> HeldTask | None:
        self._part.check()
        held = self._database.tasks.get(saga_id)
        return held if held is not None and held.token == token else None

    def _keep_task(self, saga_id: str, task: HeldTask | None) -> None:
        tasks = self._database.tasks
        self._changes.append(partial(_set, tasks, saga_id, tasks.get(saga_id)))
        _set(tasks, saga_id, task)

    async def drop_terms(self, saga_id: str) -> None:
        """See ports.store.Unit."""
        self._part.check()
        if (terms := self._database.terms.pop(saga_id, None)) is not None:
            self._changes.append(partial(self._database.terms.__setitem__, saga_id, terms))

    async def keep_act(self, act: Act) -> None:
        """See ports.store.Unit."""
        self._part.check()
        acts = self._database.acts
        self._database.acted += 1
        acts.append(replace(act, number=self._database.acted))
        self._changes.append(acts.pop)

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Unit."""
        self._part.check()
        return self._database.act_under(key)

    async def drop_digests(self) -> None:
        """See ports.store.Unit."""
        self._part.check()
        keys = self._database.act_keys
        for key, kept in keys.items():
            self._changes.append(partial(keys.__setitem__, key, kept))
            keys[key] = replace(kept, digest="")

    async def keep_act_key(
        self, key: ActKey, at: float, *, refused: str = "", sweep: int = 0
    ) -> None:
        """See ports.store.Unit."""
        self._part.check()
        keys = self._database.act_keys
        for old in [each for each, kept in keys.items() if kept.at < at - ACT_KEY_SECONDS_MAX]:
            self._changes.append(partial(keys.__setitem__, old, keys.pop(old)))
        if key.key not in keys:
            keys[key.key] = KeptAct(digest=key.digest, at=at, refused=refused, sweep=sweep)
            self._changes.append(partial(keys.__delitem__, key.key))

    async def keep_lost(self, lost: LostSaga) -> bool:
        """See ports.store.Unit."""
        if await self.load(lost.saga_id) is not None:
            return False
        held, key = self._database.lost, (lost.saga_id, lost.requested_by)
        there = self._database.sagas
        lost_ones = sum(each != UNKEPT and each not in there for each, _ in held)
        if key not in held and lost_ones < LOST_SAGAS_MAX + (lost.saga_id == UNKEPT):
            held[key] = lost
            self._changes.append(partial(held.__delitem__, key))
        return True

    async def lost_requests(self, saga_id: str) -> Sequence[LostSaga]:
        """See ports.store.Unit."""
        self._part.check()
        kept = [each for each in self._database.lost.values() if each.saga_id == saga_id]
        return sorted(kept, key=lambda each: (each.asked_at, each.requested_by))

    async def keep_answer(self, generation: int, neighbour: str, answer: str, at: float) -> None:
        """See ports.store.Unit."""
        self._part.check()
        kept, key = self._database.answers, (generation, neighbour)
        known, former = key in kept, kept.get(key, "")
        kept[key] = answer
        self._changes.append(
            partial(kept.__setitem__, key, former) if known else partial(kept.__delitem__, key)
        )

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._part.check()
        found = [row for row in self._sagas.values() if _closable(row, before) or row.given_up]
        for row in sorted(found, key=lambda row: row.updated_at)[:limit]:
            await self._close(row, replace(row, closed_at=at, envelope=b""))
        return min(len(found), limit)

    async def close(self, row: SagaRow, *, epoch: int) -> bool:
        """See ports.store.Unit."""
        self._part.check()
        held = self._sagas.get(row.id)
        if held is None or (held.epoch, held.length) != (epoch, row.length):
            return False
        if held.due_at is not None or held.parked:
            return False
        await self._close(held, row)
        for key, lost in list(self._database.lost.items()):
            if lost.saga_id == row.id:
                self._changes.append(partial(self._database.lost.__setitem__, key, lost))
                self._database.lost[key] = replace(lost, reason="")
        return True

    async def drop_answers(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._part.check()
        found = [
            row
            for row in self._sagas.values()
            if _kept_closed(row) and _closed_at(row) < before and row.answer_body
        ]
        for row in sorted(found, key=_closed_at)[:limit]:
            self._empty(row)
        return min(len(found), limit)

    async def drop_answer(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        self._part.check()
        row = self._sagas.get(saga_id)
        if row is None or not _kept_closed(row):
            return False
        self._empty(row)
        return True

    def _empty(self, row: SagaRow) -> None:
        self._changes.append(partial(self._sagas.__setitem__, row.id, row))
        self._sagas[row.id] = replace(row, answer_body=b"")

    async def drop_rows(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._part.check()
        found = [
            row for row in self._sagas.values() if _droppable(row) and _closed_at(row) < before
        ]
        old = sorted(found, key=attrgetter("closed_at", "id"))[:limit]
        for row in old:
            self._drop(row)
        return len(old)

    async def drop_row(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        self._part.check()
        row = self._sagas.get(saga_id)
        if row is None or not _droppable(row):
            return False
        self._drop(row)
        return True

    def _drop(self, row: SagaRow) -> None:
        database, before = self._database, self._database.dropped
        self._changes.append(partial(setattr, database, "dropped", before))
        ids_until, changed_until = rows.dropped_until([(row.id, row.updated_at)])
        database.dropped = Dropped(
            ids_until=max(before.ids_until, ids_until),
            changed_until=max(before.changed_until, changed_until),
        )
        self._changes.append(partial(self._sagas.__setitem__, row.id, row))
        self._changes.append(partial(self._journal.__setitem__, row.id, self._journal[row.id]))
        del self._sagas[row.id], self._journal[row.id]
        for key in [key for key in database.lost if key[0] == row.id]:
            self._changes.append(partial(database.lost.__setitem__, key, database.lost[key]))
            del database.lost[key]

    async def drop_acts(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        self._part.check()
        acts = self._database.acts
        self._changes.append(partial(acts.__setitem__, slice(None), list(acts)))
        kept = [act for act in acts[:limit] if act.at >= before] + acts[limit:]
        gone = len(acts) - len(kept)
        acts[:] = kept
        return gone

    async def dropped(self) -> Dropped:
        """See ports.store.Unit."""
        self._part.check()
        return self._database.dropped

    async def _close(self, held: SagaRow, row: SagaRow) -> None:
        self._changes.append(partial(self._journal.__setitem__, row.id, self._journal[row.id]))
        self._changes.append(partial(self._sagas.__setitem__, row.id, held))
        self._sagas[row.id] = row
        self._journal[row.id] = []
        await self.drop_terms(row.id)

    def _write(self, row: SagaRow, events: Sequence[Event]) -> None:
        self._changes.append(partial(self._restore, row.id, self._sagas.get(row.id)))
        first = row.length - len(events) + 1
        entries = [
            (number, row.epoch, self._codec.encode_event(row.id, number, event))
            for number, event in enumerate(events, first)
        ]
        self._sagas[row.id] = row
        self._journal.setdefault(row.id, []).extend(entries)
        if self._replica is not None:
            self._own(row.id, None if row.due_at is None else self._replica.me)
        self.written.append(row.id)

    def _restore(self, saga_id: str, before: SagaRow | None) -> None:
        if before is None:
            del self._sagas[saga_id], self._journal[saga_id]
        else:
            self._sagas[saga_id] = before
            del self._journal[saga_id][before.length :]

    def _own(self, saga_id: str, owner: int | None) -> None:
        owners = self._database.owners
        before = owners.get(saga_id)
        if owner != before:
            self._changes.append(partial(_set_owner, owners, saga_id, before))
            _set_owner(owners, saga_id, owner)

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


def _set_owner(owners: dict[str, int], saga_id: str, owner: int | None) -> None:
    if owner is None:
        owners.pop(saga_id, None)
    else:
        owners[saga_id] = owner


def _set(kept: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value


def _closable(row: SagaRow, before: float) -> bool:
    over = row.state in _OVER
    waits = row.due_at is not None or bool(row.parked)
    return over and not waits and row.closed_at is None and row.updated_at < before


def _kept_closed(row: SagaRow) -> bool:
    return row.closed_at is not None and row.state in _OVER


def _closed_at(row: SagaRow) -> float:
    return row.closed_at or 0.0


def _droppable(row: SagaRow) -> bool:
    return _kept_closed(row) and proves_age(row.id, _closed_at(row))
