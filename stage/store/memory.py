"""The store in memory: the same law, nothing durable. For tests and for the simulation.

The journal is a dict of bytes; the author's SQL runs on a SQLite database in memory, which has
the author's tables and none of ours.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources.abc import Traversable
from itertools import islice
from operator import attrgetter
from typing import Final, TypeVar

from msgspec.structs import replace

from stage.core.errors import StaleEpoch, StoreUnavailable
from stage.core.events import (
    ApprovalAsked,
    Approved,
    CompensationRequested,
    Event,
    Rejected,
    TurnedBack,
)
from stage.core.pause import Pause, Way
from stage.core.states import SagaState
from stage.core.steps import VERSION_MAX
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.core.unseen import proves_age
from stage.ports.clock import Clock
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.ownership import HeldElsewhere, Ownership
from stage.ports.store import (
    LOST_SAGAS_MAX,
    NEWEST,
    TASK_SECONDS_MAX,
    Act,
    Asked,
    Backlog,
    Changes,
    Dropped,
    Entry,
    Filter,
    Group,
    LostSaga,
    SagaRow,
    TaskBefore,
    Term,
    Tx,
    Unit,
)
from stage.store import rows
from stage.store.codec import PLAIN
from stage.store.drive import drive, outside_loop
from stage.store.errors import StatementRefused
from stage.store.memory_database import LEASE_SECONDS, HeldTask, MemoryDatabase, MemoryReplica
from stage.store.sole_owner import SoleOwner
from stage.store.sqlite.part import ENDED, Care, Part
from stage.store.sqlite.statements import statement
from stage.store.sqlite.tx import author_tx

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

_CARE: Final = Care(needed=True)
"""No writer stands behind this store that would run a unit again."""

_BEGIN: Final = statement("begin_batch")
_COMMIT: Final = statement("commit_batch")
_ROLLBACK: Final = statement("drop_batch")
_MARK: Final = statement("begin_part")
_KEEP: Final = statement("keep_part")
_UNDO: Final = statement("undo_part")


_OVER: Final = (SagaState.COMPLETED, SagaState.COMPENSATED)
_OF_APPROVALS: Final = (ApprovalAsked, Approved, Rejected)


class MemoryStore:
    """ports.store.Store without a file. Units run at once, inside the call of `transact`.

    Its contents outlive `close`: the same store can be opened again, as a file could. Several
    stores that are not `exclusive` may share a `database`, as replicas do; their leases run by
    `clock`.
    """

    def __init__(
        self,
        *,
        migrations: Sequence[Traversable] = (),
        database: MemoryDatabase | None = None,
        exclusive: bool = True,
        clock: Clock | None = None,
        lease_seconds: float = LEASE_SECONDS,
        codec: Codec = PLAIN,
    ) -> None:
        self._codec = codec
        self._database = MemoryDatabase(migrations) if database is None else database
        self._replica: MemoryReplica | None = None
        if not exclusive:
            now = time.time if clock is None else clock.now
            self._replica = MemoryReplica(self._database, now, lease_seconds)
        self._sole_owner = SoleOwner(self._database.due)
        self._open = False

    async def open(self) -> None:
        """See ports.store.Store."""
        self._database.open()
        self._open = True

    async def close(self) -> None:
        """See ports.store.Store."""
        self._open = False

    def discard(self) -> None:
        """Drop all that was written."""
        self._open = False
        self._database.discard()

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        connection = self._database.connection
        if not self._open or connection is None:
            raise StoreUnavailable("the store is closed: nothing was written")
        with outside_loop():
            value, written = self._run(connection, work)
        if written:
            self._database.written(written)
        return value

    def _run(
        self, connection: sqlite3.Connection, work: Callable[[Unit], Awaitable[T]]
    ) -> tuple[T, list[str]]:
        """The value of the unit, and the ids of the sagas that it wrote."""
        connection.execute(_BEGIN)
        part = Part(connection, _CARE)
        unit = _MemoryUnit(self._database, self._replica, self._codec, connection, part)
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
        return value, unit.written

    async def scrub(self) -> None:
        """See ports.store.Store: there is no file."""

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        return self._database.sagas.get(saga_id)

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See ports.store.Store."""
        return frozenset(saga_ids).intersection(self._database.sagas)

    async def envelopes(self, saga_ids: Sequence[str], bytes_max: int) -> dict[str, bytes]:
        """See ports.store.Store."""
        sagas = self._database.sagas
        found = {each: sagas[each].envelope for each in saga_ids if each in sagas}
        return {each: held for each, held in found.items() if 0 < len(held) <= bytes_max}

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        return [
            rows.entry(saga_id, row, self._codec) for row in self._database.journal.get(saga_id, ())
        ]

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store."""
        sagas = sorted(self._database.sagas.items())
        if which.term is not None:
            values = self._codec.known_terms(which.term.name, which.term.value)
            wanted = {Term(which.term.name, value) for value in values}
            terms = self._database.terms
            found = [row for saga_id, row in sagas if wanted.intersection(terms.get(saga_id, ()))]
            found = [row for row in found if row.id > which.after]
        else:
            found = [row for _, row in sagas if _matches(row, which)]
        return found[: which.limit]

    async def groups(self) -> list[Group]:
        """See ports.store.Store."""
        found: dict[tuple[str, str, str, str], list[float]] = {}
        for row in self._database.sagas.values():
            if row.step or row.parked:
                cause = "" if row.parked_cause is None else row.parked_cause.value
                place = (cause, row.step, row.peer, row.state.value)
                found.setdefault(place, []).append(row.updated_at)
        return [rows.group((*place, len(at), min(at))) for place, at in sorted(found.items())]

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See ports.store.Store."""
        behind = NEWEST if before is None else before
        found = [act for act in reversed(self._database.acts) if act.number < behind]
        return [act for act in found if target in ("", act.target)][:limit]

    async def pauses(self) -> list[Pause]:
        """See ports.store.Store."""
        return [pause for _, pause in sorted(self._database.pauses.items())]

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See ports.store.Store."""
        found = [each for each in self._database.sweeps.values() if number in (None, each.number)]
        return [self._counted(each) for each in reversed(found)][:limit]

    def _counted(self, sweep: Sweep) -> Sweep:
        ends = Counter(end for end, _ in self._database.sweep_sagas[sweep.number].values())
        return replace(
            sweep,
            pending=ends[SweepEnd.PENDING],
            done=ends[SweepEnd.DONE],
            refused=ends[SweepEnd.REFUSED],
        )

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """See ports.store.Store."""
        sagas = sorted(self._database.sweep_sagas.get(number, {}).items())
        return [(saga_id, detail) for saga_id, (at, detail) in sagas if at is end][:limit]

    async def changed(self, since: Changes) -> list[SagaRow]:
        """See ports.store.Store."""
        behind = (since.at, since.saga_id)
        sagas = self._database.sagas.values()
        found = [row for row in sagas if (row.updated_at, row.id) > behind]
        found.sort(key=lambda row: (row.updated_at, row.id))
        return found[: since.limit]

    async def due(self, before: float, limit: int, version: int = VERSION_MAX) -> list[str]:
        """See ports.store.Store."""
        return await self._database.due(before, limit, version)

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store. States without a saga are there with 0."""
        found = dict.fromkeys(SagaState, 0)
        for row in self._database.sagas.values():
            found[row.state] += row.closed_at is None or row.state in _OVER
        return found

    async def backlog(self, now: float, version: int = VERSION_MAX) -> Backlog:
        """See ports.store.Store."""
        sagas, known = self._database.sagas.values(), self._database.sagas.keys()
        under_way = (SagaState.ACTIVE, SagaState.COMPENSATING)
        busy = [row for row in sagas if row.state in under_way and not row.parked]
        asked = dict(self._asked())
        accepted = [r.accepted_at for r in busy if r.due_at is not None and r.id not in asked]
        ours = [row for row in sagas if row.version <= version]
        due = [row.due_at for row in ours if row.due_at is not None and row.due_at <= now]
        return Backlog(
            asked=self._approvals(asked, now),
            newer=sum(row.due_at is not None and row.version > version for row in sagas),
            lost=len({each.saga_id for each in self._database.lost.values()} - known),
            parked=Counter(row.parked_cause for row in sagas if row.parked_cause is not None),
            oldest_accepted_at=min(accepted, default=None),
            longest_due_at=min(due, default=None),
            oldest_compensation_at=min(self._turned_back(), default=None),
        )

    def _asked(self) -> Iterator[tuple[str, list[float]]]:
        """The sagas that await approval, each with the instants of its journal since it does."""
        for row in self._database.sagas.values():
            if row.state is SagaState.ACTIVE and row.step and not (row.peer or row.parked):
                journal = self._database.journal.get(row.id, ())
                events = [rows.entry(row.id, each, self._codec).event for each in journal]
                words = [n for n, event in enumerate(events) if isinstance(event, _OF_APPROVALS)]
                if words and isinstance(events[words[-1]], ApprovalAsked):
                    yield row.id, [event.at for event in events[words[-1] :]]

    def _approvals(self, asked: Mapping[str, list[float]], now: float) -> tuple[Asked, ...]:
        sagas = self._database.sagas
        groups: dict[tuple[int, str], list[list[float]]] = {}
        for saga_id, instants in asked.items():
            row = sagas[saga_id]
            groups.setdefault((row.version, row.step), []).append(instants)
        return tuple(
            rows.asked((*group, len(found), min(found)[0]), min(found), now)
            for group, found in sorted(groups.items())
        )

    def _turned_back(self) -> Iterator[float]:
        """When each saga turned back whose undo, or the message of it, is under way."""
        undoing = (SagaState.ACTIVE, SagaState.COMPLETED)
        for row in self._database.sagas.values():
            if row.due_at is not None and row.state not in undoing:
                journal = self._database.journal.get(row.id, ())
                events = (rows.entry(row.id, each, self._codec).event for each in journal)
                turns = (e.at for e in events if isinstance(e, TurnedBack | CompensationRequested))
                yield from islice(turns, 1)

    async def lost_sagas(self, limit: int) -> list[LostSaga]:
        """See ports.store.Store."""
        found = sorted(self._database.lost.values(), key=lambda each: each.asked_at)
        return found[:limit]

    async def dropped(self) -> Dropped:
        """See ports.store.Store."""
        return self._database.dropped

    async def answers(self, generation: int) -> dict[str, str]:
        """See ports.store.Store."""
        kept = self._database.answers.items()
        return {neighbour: answer for (each, neighbour), answer in kept if each == generation}

    @property
    def codec(self) -> Codec:
        """See ports.store.Store."""
        return self._codec

    @property
    def ownership(self) -> Ownership:
        """See ports.store.Store."""
        return self._sole_owner if self._replica is None else self._replica

    @property
    def identity(self) -> Identity:
        """See ports.store.Store."""
        return self._database.identity

    @property
    def place(self) -> str:
        """See ports.store.Store."""
        return "memory"

    @property
    def made(self) -> bool:
        """See ports.store.Store: nobody would miss another one."""
        return False

    @property
    def migrated(self) -> Sequence[str]:
        """See ports.store.Store: nothing was there before."""
        return ()

    @property
    def queued(self) -> int:
        """See ports.store.Store: units run at once."""
        return 0

    @property
    def trouble(self) -> str:
        """See ports.store.Store: there is never any."""
        return ""

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return True


class _MemoryUnit:
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
        """Each undoes one change."""
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

    async def drop_pause(self, target: str, way: Way | None) -> bool:
        """See ports.store.Unit."""
        self._part.check()
        key = (target, rows.way_value(way))
        there = key in self._database.pauses
        self._keep_pause(key, None)
        return there

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
        held = tasks.get(saga_id, HeldTask(token="", before="", given_up=False, at=at))
        before = held.before if held.token == token else held.token
        self._keep_task(saga_id, replace(held, token=token, before=before, at=at))
        return TaskBefore(token=before, given_up=held.given_up)

    async def withdraw_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        held = self._newest_task(saga_id, token)
        if held is not None and held.before:
            self._keep_task(saga_id, replace(held, token=held.before, before=""))

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

    async def keep_lost(self, lost: LostSaga) -> bool:
        """See ports.store.Unit."""
        if await self.load(lost.saga_id) is not None:
            return False
        held, key = self._database.lost, (lost.saga_id, lost.requested_by)
        if key not in held and len(held) < LOST_SAGAS_MAX:
            held[key] = lost
            self._changes.append(partial(held.__delitem__, key))
        return True

    async def lost_request(self, saga_id: str) -> LostSaga | None:
        """See ports.store.Unit."""
        self._part.check()
        kept = [each for each in self._database.lost.values() if each.saga_id == saga_id]
        return min(kept, key=lambda each: (each.asked_at, each.requested_by), default=None)

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


def _matches(row: SagaRow, which: Filter) -> bool:
    return (
        row.id > which.after
        and (not which.states or row.state in which.states)
        and (which.parked is None or bool(row.parked) is which.parked)
        and (which.cause is None or row.parked_cause is which.cause)
        and (not which.waiting or bool(row.step or row.parked))
        and which.step in (None, row.step)
        and which.peer in (None, row.peer)
        and (which.changed_from is None or row.updated_at >= which.changed_from)
        and (which.changed_before is None or row.updated_at < which.changed_before)
    )
