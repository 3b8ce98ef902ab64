"""The store in memory: the same law, nothing durable. For tests and for the simulation.

The journal is a dict of bytes; the author's SQL runs on a SQLite database in memory, which has
the author's tables and none of ours.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from itertools import islice
from typing import Final, TypeVar

from msgspec.structs import replace

from stage.core.act_key import ActKey, KeptAct
from stage.core.errors import StoreUnavailable
from stage.core.events import (
    ApprovalAsked,
    Approved,
    CompensationRequested,
    Rejected,
    TurnedBack,
)
from stage.core.pause import Pause
from stage.core.states import SagaState
from stage.core.steps import VERSION_MAX
from stage.core.sweep import SCRUBBED, Sweep, SweepEnd, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.ports.clock import Clock
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.ownership import Ownership
from stage.ports.store import (
    NEWEST,
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
    Term,
    Unit,
)
from stage.store import rows
from stage.store.codec import PLAIN
from stage.store.drive import drive, outside_loop
from stage.store.errors import StatementRefused
from stage.store.memory_database import LEASE_SECONDS, MemoryDatabase, MemoryReplica
from stage.store.memory_unit import MemoryUnit
from stage.store.sole_owner import SoleOwner
from stage.store.sqlite.part import ENDED, Care, Part
from stage.store.sqlite.statements import statement

T = TypeVar("T")

_CARE: Final = Care(needed=True)
"""No writer stands behind this store that would run a unit again."""

_BEGIN: Final = statement("begin_batch")
_COMMIT: Final = statement("commit_batch")
_ROLLBACK: Final = statement("drop_batch")


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

    async def open(self, *, upgrade: bool = True) -> None:
        """See ports.store.Store. A database in memory is made by this release."""
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
        part = Part(connection, _CARE, self._database.guard)
        unit = MemoryUnit(self._database, self._replica, self._codec, connection, part)
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

    async def scrub(self, clean: set[str] | None = None) -> None:
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
        groups = (rows.group((*place, len(at), min(at))) for place, at in sorted(found.items()))
        return [each for each in groups if each is not None]

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See ports.store.Store."""
        behind = NEWEST if before is None else before
        found = [act for act in reversed(self._database.acts) if act.number < behind]
        return [act for act in found if target in ("", act.target)][:limit]

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Store."""
        return self._database.act_under(key)

    async def pauses(self) -> list[Pause]:
        """See ports.store.Store."""
        return [pause for _, pause in sorted(self._database.pauses.items())]

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See ports.store.Store."""
        found = [each for each in self._database.sweeps.values() if number in (None, each.number)]
        return [self._counted(each) for each in reversed(found)][:limit]

    async def unfinished_sweeps(self, limit: int) -> list[Sweep]:
        """See ports.store.Store."""
        found = map(self._counted, self._database.sweeps.values())
        return [each for each in found if self._unfinished(each)][:limit]

    def _unfinished(self, sweep: Sweep) -> bool:
        if sweep.state is SweepState.STOPPED and sweep.verb is SweepVerb.ERASE and sweep.done:
            acts = [act.act for act in self._database.acts if act.target == f"sweep {sweep.number}"]
            return bool(acts) and acts[-1] != SCRUBBED
        return sweep.state is SweepState.RUNNING

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
        there = self._database.sagas
        kept = [each for each in self._database.lost.values() if each.saga_id not in there]
        return sorted(kept, key=lambda each: each.asked_at)[:limit]

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


def _matches(row: SagaRow, which: Filter) -> bool:
    return (
        row.id > which.after
        and (not which.states or row.state in which.states)
        and (which.parked is None or bool(row.parked) is which.parked)
        and (which.cause is None or row.parked_cause is which.cause)
        and (not which.waiting or bool(row.step or row.parked))
        and (not which.steps or row.step in which.steps)
        and (not which.peers or row.peer in which.peers)
        and (which.changed_from is None or row.updated_at >= which.changed_from)
        and (which.changed_before is None or row.updated_at < which.changed_before)
    )
