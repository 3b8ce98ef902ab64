"""Real SQLite files behind a simulation in virtual time, with commits that fail.

The store needs a real event loop and threads. `BlockingStore` runs it to its end within each call,
one unit after the other, so that the order is that of the simulation. Units do not share commits
here, and between two calls nothing happens: whatever the store does by the clock would throw dice
as often as the machine is slow, and the same seed would give another world. `FailingConnection`
lets a COMMIT raise before it took place, or after: the store then has to find out which it was
(rule 8).
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from stage.bootstrap.database import Database
from stage.core.act_key import ActKey, KeptAct
from stage.core.errors import ConfigurationError
from stage.core.pause import Pause
from stage.core.states import SagaState
from stage.core.steps import VERSION_MAX
from stage.core.sweep import Sweep, SweepEnd
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.ownership import Ownership
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
    Unit,
)
from stage.simulation.faults import Faults
from stage.store.drive import outside_loop
from stage.store.sole_owner import SoleOwner
from stage.store.sqlite.identity import DatabaseFile, last_number
from stage.store.sqlite.store import SqliteLimits, SqliteStore

T = TypeVar("T")

RETRY_SECONDS = 3_600.0
"""The writer sends no units of its own to see whether the file is back: the next call sends one."""


class StillLoop(asyncio.SelectorEventLoop):
    """A loop without time: no timer of the store runs, such as that of the looks at its file."""

    def time(self) -> float:
        """See asyncio.AbstractEventLoop."""
        return 0.0


def failing(faults: Faults) -> type[sqlite3.Connection]:
    """A connection whose COMMIT may raise, before or after it took place, and may be full."""

    class FailingConnection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql.startswith("COMMIT"):
                if faults.happens("commit_raises_before"):
                    super().execute("ROLLBACK")
                    raise sqlite3.OperationalError("disk I/O error")
                if faults.happens("commit_raises_after"):
                    super().execute(sql, *arguments)
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *arguments)

    return FailingConnection


def file_store(path: Path, migrations: tuple[Traversable, ...], faults: Faults) -> BlockingStore:
    """A store on a SQLite file for a simulation."""

    def make() -> SqliteStore:
        return SqliteStore(
            DatabaseFile(path=path, now=lambda: 0.0),  # older than any saga of its world
            migrations=migrations,
            limits=SqliteLimits(readers=1, retry_seconds=RETRY_SECONDS),
            factory=failing(faults),
        )

    return BlockingStore(make, path)


class BlockingStore:
    """ports.store.Store over one that needs a real event loop."""

    def __init__(self, make: Callable[[], Store], path: Path) -> None:
        self.path = path
        self._make = make
        self._store = make()
        self._loop = StillLoop()
        self._ownership = SoleOwner(self.due)

    def _run(self, work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        with outside_loop():
            return self._loop.run_until_complete(whole())

    def shut(self) -> None:
        """Close the store and the loop it lived in."""
        self._run(self._store.close())
        with outside_loop():
            self._loop.close()

    async def replace(self, change: Callable[[], object]) -> None:
        """Change the file while nothing has it open, and open what stands there then."""
        self._run(self._store.close())
        with outside_loop():
            change()
        self._store = self._make()
        self._run(self._store.open())

    async def open(self, *, upgrade: bool = True) -> None:
        """See ports.store.Store."""
        self._run(self._store.open(upgrade=upgrade))

    async def close(self) -> None:
        """See ports.store.Store."""
        self._run(self._store.close())

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store. Only one caller waits here at a time, so no unit is held back."""
        return self._run(self._store.transact(work))

    async def scrub(self, clean: set[str] | None = None) -> None:
        """See ports.store.Store."""
        return self._run(self._store.scrub(clean))

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        return self._run(self._store.get(saga_id))

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See ports.store.Store."""
        return self._run(self._store.seen(saga_ids))

    async def envelopes(self, saga_ids: Sequence[str], bytes_max: int) -> dict[str, bytes]:
        """See ports.store.Store."""
        return self._run(self._store.envelopes(saga_ids, bytes_max))

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        return self._run(self._store.entries(saga_id))

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store."""
        return self._run(self._store.page(which))

    async def groups(self) -> list[Group]:
        """See ports.store.Store."""
        return self._run(self._store.groups())

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See ports.store.Store."""
        return self._run(self._store.acts(limit, before=before, target=target))

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Store."""
        return self._run(self._store.act_under(key))

    async def pauses(self) -> list[Pause]:
        """See ports.store.Store."""
        return self._run(self._store.pauses())

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See ports.store.Store."""
        return self._run(self._store.sweeps(limit, number))

    async def unfinished_sweeps(self, limit: int) -> list[Sweep]:
        """See ports.store.Store."""
        return self._run(self._store.unfinished_sweeps(limit))

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """See ports.store.Store."""
        return self._run(self._store.sweep_sagas(number, end, limit))

    async def changed(self, since: Changes) -> list[SagaRow]:
        """See ports.store.Store."""
        return self._run(self._store.changed(since))

    async def due(self, before: float, limit: int, version: int = VERSION_MAX) -> list[str]:
        """See ports.store.Store."""
        return self._run(self._store.due(before, limit, version))

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store."""
        return self._run(self._store.count())

    async def backlog(self, now: float, version: int = VERSION_MAX) -> Backlog:
        """See ports.store.Store."""
        return self._run(self._store.backlog(now, version))

    async def lost_sagas(self, limit: int) -> list[LostSaga]:
        """See ports.store.Store."""
        return self._run(self._store.lost_sagas(limit))

    async def dropped(self) -> Dropped:
        """See ports.store.Store."""
        return self._run(self._store.dropped())

    async def answers(self, generation: int) -> dict[str, str]:
        """See ports.store.Store."""
        return self._run(self._store.answers(generation))

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
        return self._store.identity

    @property
    def place(self) -> str:
        """See ports.store.Store."""
        return self._store.place

    @property
    def made(self) -> bool:
        """See ports.store.Store."""
        return self._store.made

    @property
    def migrated(self) -> Sequence[str]:
        """See ports.store.Store."""
        return self._store.migrated

    @property
    def queued(self) -> int:
        """See ports.store.Store."""
        return self._store.queued

    @property
    def trouble(self) -> str:
        """See ports.store.Store."""
        return self._store.trouble

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return self._store.available


class FileCopy:
    """A copy of a SQLite file, and how it takes the place of the file."""

    def __init__(self, store: BlockingStore) -> None:
        self._store = store
        self._path = store.path
        self._copy = Path(f"{store.path}.copy")
        self._older = False
        self._copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("VACUUM INTO ?", (str(self._copy),))

    async def put_back(self, as_of: float, now: float) -> bool:
        """See `copies.Copy`. A start has to refuse an older file before it is named."""
        try:
            await self._store.replace(self._swap)
            refused = not self._older
        except ConfigurationError:
            refused = True
        await self._store.replace(lambda: self._named(as_of))
        return refused

    def _swap(self) -> None:
        with closing(sqlite3.connect(self._path)) as now:
            newest = last_number(now)
        for suffix in ("-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        shutil.copy(self._copy, self._path)
        with closing(sqlite3.connect(self._path)) as then:
            self._older = last_number(then) < newest

    def _named(self, as_of: float) -> None:
        with self._database() as database:
            database.restored(as_of)

    async def release(self, now: float) -> None:
        """See `copies.Copy`."""

        def released() -> None:
            with self._database() as database:
                database.released()

        await self._store.replace(released)

    def _database(self) -> Database:
        return Database(DatabaseFile(path=self._path), (), make=False)
