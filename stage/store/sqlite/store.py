"""The store on a SQLite file: one connection writes, read-only connections read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, TypeVar

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.core.states import SagaState
from stage.ports.clock import Clock
from stage.ports.ownership import Ownership
from stage.ports.store import Backlog, Entry, Filter, Row, SagaRow, Unit
from stage.store import migrate
from stage.store.errors import unavailable
from stage.store.sole_owner import SoleOwner
from stage.store.sqlite import rows
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.page import page_query
from stage.store.sqlite.statements import statement
from stage.store.writer import (
    QUEUE_UNITS_MAX,
    RETRY_SECONDS,
    UNITS_PER_BATCH_MAX,
    Committed,
    Connections,
    Writer,
)

T = TypeVar("T")

READERS: Final = 2
"""Read-only connections, a thread each."""

STATEMENTS_CACHED: Final = 256
"""Prepared statements a connection keeps: ours and the author's."""


class SqliteStore(Connections):
    """ports.store.Store on one SQLite file, which no other process may have open for writing.

    `migrations` are the author's folders, applied after ours at `open` unless `upgrade` is False:
    then anything pending is a ConfigurationError. `factory` makes the connections, so that tests
    can let one fail. `committed` is told of every batch, in the writer's thread.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        migrations: Sequence[Traversable] = (),
        upgrade: bool = True,
        clock: Clock | None = None,
        readers: int = READERS,
        units_per_batch_max: int = UNITS_PER_BATCH_MAX,
        queue_units_max: int = QUEUE_UNITS_MAX,
        retry_seconds: float = RETRY_SECONDS,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        committed: Committed | None = None,
    ) -> None:
        self._path = Path(path).absolute()
        self._migrations = tuple(migrations)
        self._upgrade = upgrade
        self._now = time.time if clock is None else clock.now
        self._factory = factory
        self._lock = FileLock(self._path)
        self._ownership = SoleOwner(self.due)
        self._writer = Writer(
            self,
            units_per_batch_max=units_per_batch_max,
            queue_units_max=queue_units_max,
            retry_seconds=retry_seconds,
            committed=committed,
        )
        self._readers_wanted = readers
        self._bridge: Bridge | None = None
        self._identity = (0, 0)
        self._readers: list[Bridge] = []
        self._next_reader = 0

    async def open(self) -> None:
        """See ports.store.Store."""
        await asyncio.to_thread(self._lock.acquire)
        try:
            bridge = await self._connect("rwc")
            await bridge.run(self._prepare)
            await self._connect_readers()
            await self._writer.open(bridge)
        except BaseException as error:
            await self._disconnect()
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
            await self._disconnect()
            self._lock.release()

    async def reopen(self) -> Bridge:
        """See store.writer.Connections.

        All of them are closed: as long as one is open, a new one takes over its view of the
        write-ahead log instead of reading the log itself.
        """
        await self._disconnect()
        try:
            # An empty file in place of the one that is gone would be the worst of answers.
            bridge = await self._connect("rw")
            await self._connect_readers()
        except (sqlite3.Error, OSError) as error:
            raise unavailable(error) or StoreUnavailable(f"SQLite: {error}") from error
        return bridge

    def removed(self) -> StoreUnavailable | None:
        """See store.writer.Connections. One stat, some microseconds a batch."""
        try:
            same = _identity(self._path) == self._identity
        except OSError as error:
            return StoreUnavailable(f"{error}: the database was removed; put it back")
        return None if same else StoreUnavailable(f"the database {self._path} was replaced")

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store. A full queue raises StoreUnavailable at once."""
        return await self._writer.transact(work, deferrable=deferrable)

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        found = await self._read(_fetch, "get_saga", (saga_id,))
        return rows.saga_row(found[0]) if found else None

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        found = await self._read(_fetch, "get_journal", (saga_id,))
        return [rows.entry(row) for row in found]

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store. `envelope` is left empty."""
        found = await self._read(_fetch, *page_query(which))
        return [rows.saga_row(row) for row in found]

    async def due(self, before: float, limit: int) -> list[str]:
        """See ports.store.Store."""
        found = await self._read(_fetch, "due_sagas", (before, limit))
        return [row[0] for row in found]

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store. States without a saga are there with 0."""
        found: dict[str, int] = dict(await self._read(_fetch, "count_sagas", ()))
        return {state: found.get(state.value, 0) for state in SagaState}

    async def backlog(self, now: float) -> Backlog:
        """See ports.store.Store."""
        parked = await self._read(_fetch, "count_parked", ())
        oldest = await self._read(_fetch, "oldest_unfinished", ())
        longest = await self._read(_fetch, "longest_due", (now,))
        return Backlog(
            parked=parked[0][0], oldest_accepted_at=oldest[0][0], longest_due_at=longest[0][0]
        )

    @property
    def queued(self) -> int:
        """How many units wait for the writer."""
        return self._writer.queued

    @property
    def ownership(self) -> Ownership:
        """See ports.store.Store: the lock of the file keeps every other process out."""
        return self._ownership

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return self._writer.available

    async def _read(
        self,
        work: Callable[[sqlite3.Connection, str, Sequence[object]], list[Row]],
        name: str,
        parameters: Sequence[object],
    ) -> list[Row]:
        """Read on the next reader. Raises StoreUnavailable when there is none."""
        if not self._readers:
            raise StoreUnavailable(f"the database {self._path} is not open: try again later")
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        reader = self._readers[self._next_reader]
        try:
            return await reader.run(work, name, parameters)
        except sqlite3.Error as error:
            raise unavailable(error) or error from error
        except ValueError as error:
            # What aiosqlite says of a connection that was closed under us by `reopen`.
            raise StoreUnavailable(f"the database {self._path} is being reopened") from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._upgrade:
            migrate.upgrade(connection, self._migrations, now=self._now())
        else:
            migrate.check(connection, self._migrations)

    async def _connect(self, mode: str) -> Bridge:
        bridge = Bridge(partial(_connect, self._path, mode, self._factory, _WRITER_SETTINGS))
        await bridge.open()
        self._bridge = bridge
        self._identity = await bridge.run(lambda _: _identity(self._path))
        return bridge

    async def _connect_readers(self) -> None:
        for _ in range(self._readers_wanted):
            reader = Bridge(partial(_connect, self._path, "ro", self._factory, _READER_SETTINGS))
            await reader.open()
            self._readers.append(reader)

    async def _disconnect(self) -> None:
        """Close the readers, then the writer: the last one to leave empties the log."""
        leaving, self._readers = self._readers, []
        if self._bridge is not None:
            leaving.append(self._bridge)
            self._bridge = None
        for bridge in leaving:
            await asyncio.shield(bridge.close())


_WRITER_SETTINGS: Final = (
    "busy_timeout",
    "journal_mode",
    "synchronous",
    "temp_store",
    "foreign_keys",
    "wal_autocheckpoint",
)
_READER_SETTINGS: Final = ("busy_timeout",)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _connect(
    path: Path, mode: str, factory: type[sqlite3.Connection], settings: Sequence[str]
) -> sqlite3.Connection:
    """A connection in autocommit; `mode` is that of sqlite.org/uri.html: ro, rw or rwc."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        cached_statements=STATEMENTS_CACHED,
        factory=factory,
    )
    try:
        for name in settings:
            connection.execute(statement(name)).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _fetch(connection: sqlite3.Connection, name: str, parameters: Sequence[Any]) -> list[Row]:
    return connection.execute(statement(name), parameters).fetchall()
