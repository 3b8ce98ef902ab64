"""The store on a SQLite file: one connection writes, read-only connections read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, TypeVar

from stage.core.errors import ConfigurationError
from stage.core.states import SagaState
from stage.ports.codec import Codec
from stage.ports.ownership import Ownership
from stage.ports.store import Backlog, Entry, Filter, Row, SagaRow, Unit
from stage.store.batches import Committed
from stage.store.codec import PLAIN
from stage.store.queue import ThreadChannel
from stage.store.sole_owner import SoleOwner
from stage.store.sqlite import dialect, rows
from stage.store.sqlite.connections import SqliteConnections
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.page import page_query
from stage.store.sqlite.statements import statement
from stage.store.writer import Writer, WriterLimits

T = TypeVar("T")


class SqliteLimits(WriterLimits, frozen=True, kw_only=True):
    """The limits of a store on a file, each with its default."""

    readers: int = 2
    """Read-only connections, each in a thread of its own."""


DEFAULT_LIMITS: Final = SqliteLimits()


class SqliteStore:
    """ports.store.Store on one SQLite file, which no other process may have open for writing.

    `migrations` are the author's folders, applied after ours at `open`. `factory` makes the
    connections, so that tests can let one fail. `committed` is notified of every batch, in the
    writer's thread. A file can be read only with the `codec` that it was written with.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        migrations: Sequence[Traversable] = (),
        limits: SqliteLimits = DEFAULT_LIMITS,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        committed: Committed | None = None,
        codec: Codec = PLAIN,
    ) -> None:
        self._codec = codec
        self._path = Path(path).absolute()
        self._migrations = tuple(migrations)
        self._lock = FileLock(self._path)
        self._ownership = SoleOwner(self.due)
        self._connections = SqliteConnections(
            self._path, codec, readers=limits.readers, factory=factory
        )
        self._writer = Writer(
            self._connections, ThreadChannel(), limits=limits, committed=committed
        )

    async def open(self, *, upgrade: bool = True) -> None:
        """See ports.store.Store. Without `upgrade` a pending migration is a ConfigurationError."""
        await asyncio.to_thread(self._lock.acquire)
        try:
            home = await self._connections.open(self._upgrade if upgrade else self._check)
            await self._writer.open(home)
        except BaseException as error:
            await self._connections.close()
            self._lock.release()
            if (away := unavailable(error)) is not None:
                raise ConfigurationError(
                    f"the database {self._path} cannot be opened: {away}"
                ) from error
            raise

    async def close(self) -> None:
        """See ports.store.Store."""
        try:
            await self._writer.close()
        finally:
            await self._connections.close()
            self._lock.release()

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        dialect.upgrade(connection, self._migrations, now=time.time())

    def _check(self, connection: sqlite3.Connection) -> None:
        dialect.check(connection, self._migrations)

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store. A full queue raises StoreUnavailable at once."""
        return await self._writer.transact(work, deferrable=deferrable)

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        found = await self._read("get_saga", saga_id)
        return rows.saga_row(found[0], self._codec) if found else None

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        found = await self._read("get_journal", saga_id)
        return [rows.entry(saga_id, row, self._codec) for row in found]

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store. `envelope` is left empty."""
        name, parameters = page_query(which)
        found = await self._read(name, *parameters)
        return [rows.saga_row(row, self._codec) for row in found]

    async def due(self, before: float, limit: int) -> list[str]:
        """See ports.store.Store."""
        return [row[0] for row in await self._read("due_sagas", before, limit)]

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store. States without a saga are there with 0."""
        found: dict[str, int] = dict(await self._read("count_sagas"))
        return {state: found.get(state.value, 0) for state in SagaState}

    async def backlog(self, now: float) -> Backlog:
        """See ports.store.Store."""
        parked = await self._read("count_parked")
        oldest = await self._read("oldest_unfinished")
        longest = await self._read("longest_due", now)
        return Backlog(
            parked=parked[0][0], oldest_accepted_at=oldest[0][0], longest_due_at=longest[0][0]
        )

    @property
    def queued(self) -> int:
        """How many units wait for the writer."""
        return self._writer.queued

    @property
    def codec(self) -> Codec:
        """See ports.store.Store."""
        return self._codec

    @property
    def ownership(self) -> Ownership:
        """See ports.store.Store: the lock of the file keeps every other process out."""
        return self._ownership

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return self._writer.available

    async def _read(self, name: str, *parameters: object) -> list[Row]:
        return await self._connections.read(_fetch, name, parameters)


def _fetch(connection: sqlite3.Connection, name: str, parameters: Sequence[Any]) -> list[Row]:
    return connection.execute(statement(name), parameters).fetchall()
