"""The store of a simulated process: the real store, with what a disk and a crash do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec

from stage.authoring.participant import StageParticipant
from stage.core.commands import Activity
from stage.core.errors import StaleEpoch, StoreUnavailable
from stage.core.events import Event
from stage.core.states import SagaState
from stage.ports.codec import Codec
from stage.ports.ownership import Ownership
from stage.ports.stage import RunView
from stage.ports.store import Backlog, Entry, Filter, SagaRow, Store, Tx, Unit
from stage.simulation.books import Books, Worked, Written
from stage.simulation.faults import Faults
from stage.simulation.loop import Process
from stage.store.sole_owner import SoleOwner

T = TypeVar("T")

HOUSEKEEPING = "_close_batch"
"""The unit of the engine that belongs to no saga: no point of a script."""
COMMIT_SECONDS = (0.0005, 0.01)
CHANGED_LOOK_SECONDS = 0.1


class Disk:
    """What the processes of one node share: the store itself, and whether it can be written."""

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
        """What is there can be read, and no unit becomes durable."""
        self.unit: _Noted | None = None
        """The unit that runs now."""

    async def read(self, saga_id: str) -> SagaRow | None:
        """The durable row."""
        return await self.store.get(saga_id)


class SimulatedStore:
    """ports.store.Store for one process. `crash` ends the process at a commit."""

    def __init__(self, disk: Disk, process: Process, crash: Callable[[Process], None]) -> None:
        self._disk = disk
        self._process = process
        self._crash = crash
        self._ownership = SimulatedOwnership(self)

    @property
    def exclusive(self) -> bool:
        """Whether no other process can write."""
        return self._disk.exclusive

    async def open(self) -> None:
        """The disk has been opened."""

    async def close(self) -> None:
        """The disk stays."""

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        disk, process, faults = self._disk, self._process, self._disk.faults
        scripted = faults.scripted and getattr(work, "__name__", "") != HOUSEKEEPING
        if scripted:
            await faults.pause(f"{process.name} before a unit")
        if process.held:
            await process.gate()
        await asyncio.sleep(disk.random.uniform(*COMMIT_SECONDS))
        if process.held:
            await process.gate()
        self._present()
        if faults.happens("crash_before_commit"):
            self._crash(process)
            await process.nothing()
        fails = faults.happens("commit_failed") or disk.full
        noted: list[_Noted] = []
        struck = ""

        async def watched(unit: Unit) -> T:
            note = _Noted(unit)
            disk.unit = note
            value = await work(note)
            noted.append(note)
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
            return value

        try:
            value = await disk.store.transact(watched)
        except _Crashed:
            self._crash(process)
            await process.nothing()
            raise
        except StaleEpoch:
            faults.struck["stale_write_refused"] += 1
            raise
        finally:
            disk.unit = None
        disk.books.committed(disk.stage, process.name, noted[-1].writes, noted[-1].works)
        if struck == "crash_after" or faults.happens("crash_after_commit"):
            self._crash(process)
            await process.nothing()
        if scripted:
            await faults.pause(f"{process.name} after a unit")
        return value

    def _present(self) -> None:
        if self._disk.away:
            raise StoreUnavailable("the database is away")

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.get(saga_id)

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.entries(saga_id)

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.page(which)

    async def due(self, before: float, limit: int) -> list[str]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.due(before, limit)

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.count()

    async def backlog(self, now: float) -> Backlog:
        """See ports.store.Store."""
        if self._process.held:
            await self._process.gate()
        self._present()
        return await self._disk.store.backlog(now)

    @property
    def codec(self) -> Codec:
        """See ports.store.Store."""
        return self._disk.store.codec

    @property
    def ownership(self) -> Ownership:
        """See ports.store.Store."""
        return self._ownership

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return not (self._disk.away or self._disk.full)


class SimulatedOwnership(SoleOwner):
    """That of a process which may be taken for dead, and come back: there are no leases here yet.

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


class _Noted:
    """A unit that remembers what was written and which functions ran in it."""

    __slots__ = ("_unit", "works", "writes")

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.writes: list[Written] = []
        self.works: list[Worked] = []

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

    async def insert(self, row: SagaRow, events: Sequence[Event]) -> None:
        """See ports.store.Unit."""
        await self._unit.insert(row, events)
        self.writes.append(Written(row, tuple(events), None))

    async def save(self, row: SagaRow, events: Sequence[Event], *, epoch: int) -> None:
        """See ports.store.Unit."""
        await self._unit.save(row, events, epoch=epoch)
        self.writes.append(Written(row, tuple(events), epoch))

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """See ports.store.Unit."""
        return await self._unit.close_ended(before, at, limit)

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

    async def run_transaction(
        self, tx: Tx, activity: Activity, step: str, view: RunView
    ) -> msgspec.Raw:
        """See ports.stage.Participant."""
        result = await super().run_transaction(tx, activity, step, view)
        if self._disk.unit is not None:
            undo = activity is Activity.COMPENSATE
            self._disk.unit.works.append(Worked(view.id, step, undo))
        return result
