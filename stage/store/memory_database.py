"""The data of a store in memory, which several stores may share, and its owners."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Final

import msgspec
from msgspec.structs import replace

from stage.core.act_key import ActKey, KeptAct
from stage.core.age import is_due
from stage.core.events import Event
from stage.core.pause import Pause
from stage.core.steps import VERSION_MAX
from stage.core.sweep import Sweep, SweepEnd
from stage.ports.identity import Identity
from stage.ports.ownership import Mail, Posted, Share
from stage.ports.store import Act, Dropped, LostSaga, Row, SagaRow, Term
from stage.store.drive import outside_loop
from stage.store.sqlite import dialect
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import TableGuard

LOOK_SECONDS: Final = 0.05
"""How often a wait for another replica checks whether its lease is over."""
LEASE_SECONDS: Final = 10.0
RENEWALS_PER_LEASE: Final = 4

NAMELESS: Final = Identity(id="0" * 32, stage="", born_at=0.0)
"""The identity of a database in memory that nobody gives another."""


class HeldTask(msgspec.Struct, frozen=True, kw_only=True):
    """The newest task of a saga, as `ports.store.Unit.take_task` has it."""

    token: str
    before: tuple[str, ...]
    given_up: bool
    at: float


class MemoryDatabase:
    """Rows and journals in dicts, the author's tables in a SQLite database in memory.

    `owners` has the registration that owns a saga, `leases` the end of the lease of each
    registration that was not declared dead.
    """

    def __init__(
        self, migrations: Sequence[Traversable] = (), identity: Identity = NAMELESS
    ) -> None:
        self._migrations = tuple(migrations)
        self.sagas: dict[str, SagaRow] = {}
        self.journal: dict[str, list[Row]] = {}
        self.owners: dict[str, int] = {}
        self.leases: dict[int, float] = {}
        self.mail: dict[int, tuple[int, Mail]] = {}
        """By number, each with the registration that it was left for."""
        self.lost: dict[tuple[str, str], LostSaga] = {}
        """By saga and neighbour."""
        self.terms: dict[str, tuple[Term, ...]] = {}
        """By saga, with their values as the codec encodes them."""
        self.acts: list[Act] = []
        self.acted = 0
        """How many acts there ever were."""
        self.act_keys: dict[str, KeptAct] = {}
        self.dropped = Dropped()
        self.answers: dict[tuple[int, str], str] = {}
        """Of neighbours that were asked after a restore, by generation and name."""
        self.sweeps: dict[int, Sweep] = {}
        self.sweep_sagas: dict[int, dict[str, tuple[SweepEnd, str]]] = {}
        """By sweep and saga."""
        self.pauses: dict[tuple[str, str], Pause] = {}
        """By target and way."""
        self.tasks: dict[str, HeldTask] = {}
        """By saga."""
        self.identity = identity
        """It may be set while no store has it open."""
        self.connection: sqlite3.Connection | None = None
        self.guard = TableGuard()
        self._registered = 0
        self._posted = 0
        self._watchers: dict[asyncio.Future[None], str] = {}

    def open(self) -> None:
        """Make the author's tables, unless they are there."""
        if self.connection is None:
            with outside_loop():
                self.connection = _database(self._migrations)
            self.guard.watch(self.connection)

    def act_under(self, key: ActKey) -> KeptAct | None:
        """The result under a key. An order whose digest was dropped is taken for the same."""
        kept = self.act_keys.get(key.key)
        return kept if kept is None or kept.digest else replace(kept, digest=key.digest)

    def discard(self) -> None:
        """Drop all that was written."""
        for held in (self.sagas, self.journal, self.owners, self.leases, self.mail, self.lost):
            held.clear()
        for kept in (self.terms, self.acts, self.pauses, self.sweeps, self.sweep_sagas, self.tasks):
            kept.clear()
        self.act_keys.clear()
        self.answers.clear()
        self.acted, self.dropped = 0, Dropped()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def __del__(self) -> None:
        if self.connection is not None:
            self.connection.close()

    async def due(self, before: float, limit: int, version: int = VERSION_MAX) -> list[str]:
        """See ports.store.Store."""
        return self.needing_a_run(
            lambda row, at: is_due(at, before) and row.version <= version, limit
        )

    def needing_a_run(self, wanted: Callable[[SagaRow, float], bool], limit: int) -> list[str]:
        """Ids of at most so many sagas with an instant that is wanted, the longest due first."""
        found = [
            (row.due_at, row.id)
            for row in self.sagas.values()
            if row.due_at is not None and wanted(row, row.due_at)
        ]
        return [saga_id for _, saga_id in sorted(found)[:limit]]

    def register(self, until: float) -> int:
        """A registration that was never given out before."""
        self._registered += 1
        self.leases[self._registered] = until
        return self._registered

    def live_owner(self, saga_id: str, now: float) -> int | None:
        """The live owner of the saga. An owner whose lease is over is declared dead and is none."""
        owner = self.owners.get(saga_id)
        if owner is None or owner not in self.leases:
            return None
        if self.leases[owner] < now:
            del self.leases[owner]
            return None
        return owner

    def post(self, owner: int, saga_id: str, event: Event) -> Posted:
        """Leave mail for an owner."""
        self._posted += 1
        epoch = self.sagas[saga_id].epoch
        mail = Mail(number=self._posted, saga_id=saga_id, event=event, epoch=epoch)
        self.mail[self._posted] = owner, mail
        return Posted(number=self._posted, epoch=epoch)

    async def wait(self, saga_id: str, seconds: float) -> None:
        """Return when that saga was written, or after that many seconds."""
        loop = asyncio.get_running_loop()
        watcher: asyncio.Future[None] = loop.create_future()
        self._watchers[watcher] = saga_id
        timer = loop.call_later(max(seconds, 0.0), _wake, watcher)
        try:
            await watcher
        finally:
            timer.cancel()
            del self._watchers[watcher]

    def written(self, saga_ids: Sequence[str]) -> None:
        """Wake the waits for these sagas."""
        for watcher, saga_id in self._watchers.items():
            if saga_id in saga_ids:
                _wake(watcher)


class MemoryReplica:
    """ports.ownership.Ownership of one of the stores that share a database."""

    def __init__(
        self, database: MemoryDatabase, now: Callable[[], float], lease_seconds: float
    ) -> None:
        self._database = database
        self._now = now
        self._lease_seconds = lease_seconds
        self._registration: int | None = None

    @property
    def me(self) -> int:
        """The registration, a new one after `leave`."""
        if self._registration is None:
            self._registration = self._database.register(self._now() + self._lease_seconds)
        return self._registration

    def held_elsewhere(self, saga_id: str) -> bool:
        """Whether a live other replica owns the saga."""
        owner = self._database.live_owner(saga_id, self._now())
        return owner is not None and owner != self.me

    @property
    def sure(self) -> bool:
        """See ports.ownership.Ownership."""
        return self._database.leases.get(self.me, 0.0) >= self._now()

    async def assured(self) -> None:
        """See ports.ownership.Ownership."""
        while not self.sure:  # noqa: ASYNC110 - the clock may be one of a test, without a timer
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def renew_seconds(self) -> float | None:
        """See ports.ownership.Ownership."""
        return self._lease_seconds / RENEWALS_PER_LEASE

    async def renew(self) -> bool:
        """See ports.ownership.Ownership."""
        alive = self.me in self._database.leases
        if not alive:
            self._registration = None
        self._database.leases[self.me] = self._now() + self._lease_seconds
        return alive

    @property
    def time(self) -> float | None:
        """See ports.ownership.Ownership."""
        return self._now()

    @property
    def share(self) -> Share:
        """See ports.ownership.Ownership."""
        me, leases = self._registration, self._database.leases
        if me is None:
            return Share()
        live = {me, *(each for each, until in leases.items() if until >= self._now())}
        return Share(replicas=len(live), first=me == min(live))

    async def claim(self, now: float, limit: int, version: int = VERSION_MAX) -> dict[str, int]:
        """See ports.ownership.Ownership."""
        database, owners = self._database, self._database.owners

        def wanted(row: SagaRow, due_at: float) -> bool:
            if row.version > version or self.held_elsewhere(row.id):
                return False
            owner = owners.get(row.id)
            return is_due(due_at, now) or (owner is not None and owner != self.me)

        found = database.needing_a_run(wanted, limit)
        owners.update(dict.fromkeys(found, self.me))
        return {saga_id: database.sagas[saga_id].length for saga_id in found}

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """See ports.ownership.Ownership."""
        owners, rows = self._database.owners, self._database.sagas
        ours = [
            saga_id
            for saga_id, length in sagas.items()
            if owners.get(saga_id) == self.me and length in (None, rows[saga_id].length)
        ]
        for saga_id in ours:
            del owners[saga_id]
        self._database.written(ours)

    async def leave(self) -> None:
        """See ports.ownership.Ownership."""
        self._database.leases.pop(self.me, None)
        self._registration = None

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """See ports.ownership.Ownership."""
        loop, sagas = asyncio.get_running_loop(), self._database.sagas
        while self.held_elsewhere(saga_id):
            row, left = sagas.get(saga_id), until - loop.time()
            if row is None or row.length != length or left <= 0:
                return True
            await self._database.wait(saga_id, min(left, LOOK_SECONDS))
        return False

    async def post(self, saga_id: str, event: Event) -> Posted | None:
        """See ports.ownership.Ownership."""
        if not self.held_elsewhere(saga_id):
            return None
        return self._database.post(self._database.owners[saga_id], saga_id, event)

    async def unreceived(self, number: int) -> bool:
        """See ports.ownership.Ownership."""
        return number in self._database.mail

    async def mail(self) -> list[Mail]:
        """See ports.ownership.Ownership."""
        database = self._database
        for number, (to, mail) in list(database.mail.items()):
            row = database.sagas.get(mail.saga_id)
            owned = database.owners.get(mail.saga_id) == to
            if row is None or row.epoch != mail.epoch or not owned:
                del database.mail[number]
        return [mail for to, mail in database.mail.values() if to == self.me]


def _wake(watcher: asyncio.Future[None]) -> None:
    if not watcher.done():
        watcher.set_result(None)


def _database(migrations: Sequence[Traversable]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        connection.execute(statement("foreign_keys"))
        dialect.apply_authored(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection
