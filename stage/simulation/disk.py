"""The store of a simulated process: the real store, with what a disk and a crash do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

import msgspec

from stage.authoring.participant import StageParticipant
from stage.core.act_key import ActKey, KeptAct
from stage.core.commands import AttemptKind
from stage.core.errors import StaleEpoch, StoreUnavailable
from stage.core.events import Event, Recovered
from stage.core.pause import Pause, Way
from stage.core.states import SagaState
from stage.core.steps import VERSION_MAX
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.engine.embedded.retention import Retention
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.ownership import Ownership
from stage.ports.stage import RunView
from stage.ports.store import (
    Act,
    Backlog,
    Changes,
    Dropped,
    Entry,
    Filter,
    Group,
    LostSaga,
    SagaRow,
    Store,
    TaskBefore,
    Term,
    Tx,
    Unit,
)
from stage.simulation.books import Books
from stage.simulation.facts import Worked, Written
from stage.simulation.faults import LANDED, NOT_LANDED, Faults
from stage.simulation.loop import Process
from stage.simulation.primary import Primary
from stage.simulation.replicas import ReplicaOwnership, SharedDatabase
from stage.store.memory_database import MemoryDatabase, MemoryReplica
from stage.store.sole_owner import SoleOwner

T = TypeVar("T")

COMMIT_SECONDS = (0.0005, 0.01)
CHANGED_LOOK_SECONDS = 0.1
LANDED_SHARE = 0.5
"""The share of commits under way at the loss of a primary that reached the standby."""


class Disk:
    """The store that the processes of one node share, and whether it can be written."""

    def __init__(self, stage: str, store: Store, books: Books, faults: Faults, random: Random):
        self.stage = stage
        self.store = store
        self.books = books
        self.faults = faults
        self.random = random
        self.away = False
        """Nothing can be read or written."""
        self.exclusive = False
        """Whether a process that was taken for dead can never come back to it."""
        self.full = False
        """Stored sagas can be read, and no unit becomes durable."""
        self.shared: SharedDatabase | None = None
        """The database of its live processes, where it has several at a time."""
        self.database: MemoryDatabase | None = None
        """Its content, where it is in memory."""
        self.unit: _Noted | None = None
        """The unit that runs now."""

    async def read(self, saga_id: str) -> SagaRow | None:
        """The durable row."""
        return await self.store.get(saga_id)


def _is_of_retention(work: object) -> bool:
    method = work.func if isinstance(work, partial) else work
    return isinstance(getattr(method, "__self__", None), Retention)


class SimulatedStore:
    """ports.store.Store for one process. `crash` ends the process at a commit."""

    def __init__(
        self,
        disk: Disk,
        process: Process,
        crash: Callable[[Process], None],
        *,
        alone: bool = False,
    ) -> None:
        """`alone` is a command that works while the stage is stopped."""
        self._disk = disk
        self._process = process
        self._crash = crash
        self._store = disk.store
        self._replica: MemoryReplica | None = None
        self._ownership: Ownership = SimulatedOwnership(self)
        if disk.shared is not None and not alone:
            self._store, self._replica = disk.shared.replica()
            self._ownership = ReplicaOwnership(disk.shared, self._replica, process, self._writable)

    def leaves(self, saga_id: str, *, was_paused: bool) -> int | None:
        """A message leaves the process; its registration, where it is one of several.

        A message that a pause caught between the last look at the lease and the socket is not held
        against the process: nothing can be done about it (decision 0013).
        """
        shared, replica = self._disk.shared, self._replica
        if shared is None or replica is None:
            return None
        me = replica.me
        if not was_paused:
            shared.check_sends(self._process.name, saga_id, me)
        shared.leaves(saga_id, me)
        return me

    def ends(self, saga_id: str, registration: int | None) -> None:
        """The message with that registration is not waited for any more."""
        if self._disk.shared is not None and registration is not None:
            self._disk.shared.ends(saga_id, registration)

    def busy_elsewhere(self, saga_id: str) -> bool:
        """Whether another live process over this database has a message of it under way."""
        shared, replica = self._disk.shared, self._replica
        return (
            shared is not None
            and replica is not None
            and shared.busy_elsewhere(saga_id, replica.me)
        )

    @property
    def exclusive(self) -> bool:
        """Whether no other process can write."""
        return self._disk.exclusive

    async def open(self, *, upgrade: bool = True) -> None:
        """Begin to use a disk that was opened before."""
        if self._replica is not None:
            await self._store.open()

    async def close(self) -> None:
        """The disk stays."""

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        disk, process, faults = self._disk, self._process, self._disk.faults
        # Retention belongs to no saga: its units are no point of a script.
        scripted = faults.scripted and not _is_of_retention(work)
        if scripted:
            await faults.pause(f"{process.name} before a unit")
        if process.held:
            await process.gate()
        primary = None if disk.shared is None else disk.shared.primary
        losses = 0 if primary is None else primary.losses
        if primary is not None:
            self._present()
            primary.begins_commit()
        await asyncio.sleep(disk.random.uniform(*COMMIT_SECONDS))
        if process.held:
            await process.gate()
        if primary is not None and primary.losses > losses:
            return await self._settle(work, primary, scripted=scripted)
        self._present()
        return await self._commit(work, scripted=scripted)

    async def _settle(
        self, work: Callable[[Unit], Awaitable[T]], primary: Primary, *, scripted: bool
    ) -> T:
        """The COMMIT was under way when the primary was lost: the standby has it, or not.

        As the writer does it: the process waits for the database, and runs again what did not land.
        """
        faults = self._disk.faults
        landed = self._disk.random.random() < LANDED_SHARE
        faults.struck[LANDED if landed else NOT_LANDED] += 1
        value = await self._commit(work, scripted=scripted, lost=not landed)
        landed = await primary.settled(self._process.name, landed=landed)
        if self._process.held:
            await self._process.gate()
        if landed:
            return value
        self._present()
        return await self._commit(work, scripted=scripted)

    # Long because the faults of a unit strike one after the other, before, in and after it.
    async def _commit(
        self, work: Callable[[Unit], Awaitable[T]], *, scripted: bool, lost: bool = False
    ) -> T:
        """Run a unit, and make it durable; where it is `lost` it has its value, and nothing is."""
        disk, process, faults = self._disk, self._process, self._disk.faults
        if faults.happens("crash_before_commit"):
            self._crash(process)
            await process.nothing()
        fails = faults.happens("commit_failed") or disk.full
        noted: list[_Noted] = []
        values: list[T] = []
        struck = ""

        async def watched(unit: Unit) -> T:
            note = _Noted(unit, self._owned_elsewhere, disk.books.rows_of(disk.stage))
            disk.unit = note
            value = await work(note)
            noted.append(note)
            values.append(value)
            if scripted and note.writes:
                nonlocal struck
                struck = faults.point("write", process.name)
                if struck == "crash_before":
                    raise _Crashed
                if struck == "error":
                    raise StoreUnavailable("the commit failed; nothing was written")
            if fails:
                if disk.full:
                    faults.struck["disk_full_write"] += 1
                raise StoreUnavailable("the commit failed; nothing was written")
            if lost:
                raise _Lost
            return value

        try:
            value = await self._store.transact(watched)
        except _Crashed:
            self._crash(process)
            await process.nothing()
            raise
        except _Lost:
            return values[-1]
        except StaleEpoch:
            faults.struck["stale_write_refused"] += 1
            raise
        finally:
            disk.unit = None
        disk.books.committed(disk.stage, process.name, noted[-1].writes, noted[-1].works)
        faults.struck.update(disk.books.left(disk.stage, noted[-1].left, noted[-1].gone))
        self._check_owner(noted[-1])
        if disk.shared is not None:
            disk.shared.primary.wrote(process.name)
        if struck == "crash_after" or faults.happens("crash_after_commit"):
            self._crash(process)
            await process.nothing()
        if scripted:
            await faults.pause(f"{process.name} after a unit")
        return value

    def _owned_elsewhere(self, saga_id: str) -> bool:
        shared, replica = self._disk.shared, self._replica
        return (
            shared is not None
            and replica is not None
            and shared.owned_elsewhere(saga_id, replica.me)
        )

    def _check_owner(self, unit: _Noted) -> None:
        shared, replica = self._disk.shared, self._replica
        if shared is None or replica is None:
            return
        for saga_id in unit.trespasses:
            shared.trespassed(self._process.name, saga_id)
        for write in unit.writes:
            if any(isinstance(event, Recovered) for event in write.events):
                shared.check_takes_over(self._process.name, write.row.id, replica.me)

    def _writable(self) -> None:
        self._present()
        if self._disk.full:
            raise StoreUnavailable("the disk is full; nothing was written")

    def _present(self) -> None:
        if self._disk.away:
            raise StoreUnavailable("the database is away")
        if self._replica is not None and self._disk.shared is not None:
            self._disk.shared.primary.check(self._process.name)

    async def scrub(self, clean: set[str] | None = None) -> None:
        """See ports.store.Store."""
        self._present()
        await self._store.scrub(clean)

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.get(saga_id)

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.seen(saga_ids)

    async def envelopes(self, saga_ids: Sequence[str], bytes_max: int) -> dict[str, bytes]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.envelopes(saga_ids, bytes_max)

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.entries(saga_id)

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.page(which)

    async def groups(self) -> list[Group]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.groups()

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.acts(limit, before=before, target=target)

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.act_under(key)

    async def pauses(self) -> list[Pause]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.pauses()

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.sweeps(limit, number)

    async def unfinished_sweeps(self, limit: int) -> list[Sweep]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.unfinished_sweeps(limit)

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.sweep_sagas(number, end, limit)

    async def changed(self, since: Changes) -> list[SagaRow]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.changed(since)

    async def due(self, before: float, limit: int, version: int = VERSION_MAX) -> list[str]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.due(before, limit, version)

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.count()

    async def backlog(self, now: float, version: int = VERSION_MAX) -> Backlog:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.backlog(now, version)

    async def lost_sagas(self, limit: int) -> list[LostSaga]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.lost_sagas(limit)

    async def dropped(self) -> Dropped:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._store.dropped()

    async def answers(self, generation: int) -> dict[str, str]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.answers(generation)

    @property
    def codec(self) -> Codec:
        """See ports.store.Store."""
        return self._store.codec

    @property
    def ownership(self) -> Ownership:
        """See ports.store.Store."""
        return self._ownership

    @property
    def identity(self) -> Identity:
        """See ports.store.Store."""
        return self._disk.store.identity

    @property
    def place(self) -> str:
        """See ports.store.Store."""
        return self._disk.store.place

    @property
    def made(self) -> bool:
        """See ports.store.Store."""
        return self._disk.store.made

    @property
    def migrated(self) -> Sequence[str]:
        """See ports.store.Store."""
        return self._disk.store.migrated

    @property
    def queued(self) -> int:
        """See ports.store.Store."""
        return self._disk.store.queued

    @property
    def trouble(self) -> str:
        """See ports.store.Store."""
        return self._disk.store.trouble

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        shared = self._disk.shared
        failing = shared is not None and (shared.primary.lost or shared.primary.older)
        return not (self._disk.away or self._disk.full or failing)


class SimulatedOwnership(SoleOwner):
    """The ownership of a process that may be taken for dead, and come back. It has no lease yet.

    A process then loses a saga by its epoch alone, and follows the one that took it over.
    """

    def __init__(self, store: SimulatedStore) -> None:
        super().__init__(store.due)
        self._store = store

    @property
    def sure(self) -> bool:
        """See ports.ownership.Ownership."""
        return self._store.exclusive

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """See ports.ownership.Ownership."""
        loop = asyncio.get_running_loop()
        while not self._store.exclusive and loop.time() < until:
            row = await self._store.get(saga_id)
            if row is None or row.length != length:
                return True
            await asyncio.sleep(CHANGED_LOOK_SECONDS)
        return False


class _Crashed(Exception):
    """The process dies before the unit becomes durable."""


class _Lost(Exception):
    """The primary is lost before the unit becomes durable."""


class _Noted:
    """A unit that remembers what was written and which functions ran in it."""

    __slots__ = (
        "_known", "_owned_elsewhere", "_unit", "gone", "left", "trespasses", "works", "writes",
    )  # fmt: skip

    def __init__(
        self, unit: Unit, owned_elsewhere: Callable[[str], bool], known: Iterable[SagaRow]
    ) -> None:
        """`known` are the rows as they were durable before; they are looked at when some go."""
        self._unit = unit
        self._owned_elsewhere = owned_elsewhere
        self._known = known
        self.trespasses: list[str] = []
        """Sagas that were written though a live other process owned them."""
        self.writes: list[Written] = []
        self.works: list[Worked] = []
        self.left: list[SagaRow] = []
        """Rows that are left of sagas whose journals, or answers, were dropped."""
        self.gone: list[str] = []
        """Sagas whose rows were dropped."""

    @property
    def tx(self) -> Tx:
        """See ports.store.Unit."""
        return self._unit.tx

    async def load(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        return await self._unit.load(saga_id)

    async def take(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Unit."""
        return await self._unit.take(saga_id)

    async def received(self, mail: Sequence[int]) -> None:
        """See ports.store.Unit."""
        await self._unit.received(mail)

    async def journal(self, saga_id: str) -> list[Entry]:
        """See ports.store.Unit."""
        return await self._unit.journal(saga_id)

    async def insert(
        self, row: SagaRow, events: Sequence[Event], terms: Sequence[Term] = ()
    ) -> None:
        """See ports.store.Unit."""
        await self._unit.insert(row, events, terms)
        self.writes.append(Written(row, tuple(events), None))

    async def save(
        self, row: SagaRow, events: Sequence[Event], *, epoch: int, before: SagaRow | None = None
    ) -> None:
        """See ports.store.Unit."""
        elsewhere = self._owned_elsewhere(row.id)
        await self._unit.save(row, events, epoch=epoch, before=before)
        if elsewhere:
            self.trespasses.append(row.id)
        self.writes.append(Written(row, tuple(events), epoch))

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit."""
        return await self._looked(await self._unit.close_ended(before, at, limit))

    async def close(self, row: SagaRow, *, epoch: int) -> bool:
        """See ports.store.Unit."""
        closed = await self._unit.close(row, epoch=epoch)
        if closed:
            self.left.append(row)
        return closed

    async def drop_answers(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        return await self._looked(await self._unit.drop_answers(before, limit))

    async def drop_answer(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        return await self._unit.drop_answer(saga_id)

    async def drop_rows(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        return await self._looked(await self._unit.drop_rows(before, limit))

    async def _looked(self, count: int) -> int:
        """Note what is left, where retention has dropped something of so many sagas."""
        for before in self._known if count else ():
            row = await self._unit.load(before.id)
            if row is None:
                self.gone.append(before.id)
            elif (row.closed_at, row.answer_body) != (before.closed_at, before.answer_body):
                self.left.append(row)
        return count

    async def drop_row(self, saga_id: str) -> bool:
        """See ports.store.Unit."""
        return await self._unit.drop_row(saga_id)

    async def drop_acts(self, before: float, limit: int) -> int:
        """See ports.store.Unit."""
        return await self._unit.drop_acts(before, limit)

    async def dropped(self) -> Dropped:
        """See ports.store.Unit."""
        return await self._unit.dropped()

    async def begin_sweep(self, sweep: Sweep, saga_ids: Sequence[str]) -> int:
        """See ports.store.Unit."""
        return await self._unit.begin_sweep(sweep, saga_ids)

    async def set_sweep(self, number: int, state: SweepState) -> None:
        """See ports.store.Unit."""
        await self._unit.set_sweep(number, state)

    async def end_sweep_saga(
        self, number: int, saga_id: str, end: SweepEnd, detail: str = ""
    ) -> None:
        """See ports.store.Unit."""
        await self._unit.end_sweep_saga(number, saga_id, end, detail)

    async def put_pause(self, pause: Pause) -> None:
        """See ports.store.Unit."""
        await self._unit.put_pause(pause)

    async def drop_pause(self, target: str, way: Way | None, put_by: float) -> bool:
        """See ports.store.Unit."""
        return await self._unit.drop_pause(target, way, put_by)

    async def take_task(self, saga_id: str, token: str, at: float) -> TaskBefore:
        """See ports.store.Unit."""
        return await self._unit.take_task(saga_id, token, at)

    async def withdraw_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        await self._unit.withdraw_task(saga_id, token)

    async def give_up_task(self, saga_id: str, token: str) -> bool:
        """See ports.store.Unit."""
        return await self._unit.give_up_task(saga_id, token)

    async def end_task(self, saga_id: str, token: str) -> None:
        """See ports.store.Unit."""
        await self._unit.end_task(saga_id, token)

    async def drop_terms(self, saga_id: str) -> None:
        """See ports.store.Unit."""
        await self._unit.drop_terms(saga_id)

    async def keep_act(self, act: Act) -> None:
        """See ports.store.Unit."""
        await self._unit.keep_act(act)

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Unit."""
        return await self._unit.act_under(key)

    async def drop_digests(self) -> None:
        """See ports.store.Unit."""
        await self._unit.drop_digests()

    async def keep_act_key(
        self, key: ActKey, at: float, *, refused: str = "", sweep: int = 0
    ) -> None:
        """See ports.store.Unit."""
        await self._unit.keep_act_key(key, at, refused=refused, sweep=sweep)

    async def keep_lost(self, lost: LostSaga) -> bool:
        """See ports.store.Unit."""
        return await self._unit.keep_lost(lost)

    async def lost_requests(self, saga_id: str) -> Sequence[LostSaga]:
        """See ports.store.Unit."""
        return await self._unit.lost_requests(saga_id)

    async def keep_answer(self, generation: int, neighbour: str, answer: str, at: float) -> None:
        """See ports.store.Unit."""
        await self._unit.keep_answer(generation, neighbour, answer, at)

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """See ports.store.Unit."""
        mark = len(self.works)
        try:
            return await self._unit.attempt(work)
        except BaseException:
            del self.works[mark:]
            raise


class WatchedStage(StageParticipant[Any, Any]):
    """The author's stage; transactions that ran are noted in the unit in which they did."""

    def __init__(self, bound: StageParticipant[Any, Any], disk: Disk) -> None:
        self.__dict__.update(vars(bound))
        self._disk = disk
        before = bound.supersedes
        self.supersedes = None if before is None else WatchedStage(before, disk)

    async def run_transaction(
        self, tx: Tx, kind: AttemptKind, step: str, view: RunView
    ) -> msgspec.Raw:
        """See ports.stage.Participant."""
        result = await super().run_transaction(tx, kind, step, view)
        if self._disk.unit is not None:
            undo = kind is AttemptKind.COMPENSATE
            self._disk.unit.works.append(Worked(view.id, step, undo))
        return result
