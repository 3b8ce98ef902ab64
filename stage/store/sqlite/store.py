"""The store on a SQLite file: one connection writes, read-only connections read."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.core.steps import VERSION_MAX
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.ownership import Ownership
from stage.ports.store import Backlog, Filter, Row, Unit
from stage.store import rows
from stage.store.asked import earliest
from stage.store.batches import Committed
from stage.store.codec import PLAIN
from stage.store.queries import StatementQueries
from stage.store.queue import ThreadChannel
from stage.store.sole_owner import SoleOwner
from stage.store.sqlite import dialect
from stage.store.sqlite.connections import SqliteConnections
from stage.store.sqlite.errors import DatabaseDamaged, unavailable
from stage.store.sqlite.identity import (
    DatabaseFile,
    is_made,
    missing,
    read_identity,
    refuse_foreign,
    refuse_owner,
    refuse_removed,
    refuse_worker,
    take,
)
from stage.store.sqlite.left_log import log_head, refuse_foreign_log
from stage.store.sqlite.lock import LOOK_SECONDS, DatabaseInUse, FileLock
from stage.store.sqlite.making import make_database
from stage.store.sqlite.page import page_query
from stage.store.sqlite.payload_keys import record_key
from stage.store.sqlite.statements import statement
from stage.store.sqlite.watch import FileWatch
from stage.store.writer import Writer, WriterLimits

T = TypeVar("T")


class SqliteLimits(WriterLimits, frozen=True, kw_only=True):
    """The limits of a store on a file, each with its default."""

    readers: int = 2
    """Read-only connections, each in a thread of its own."""


DEFAULT_LIMITS: Final = SqliteLimits()


class SqliteStore(StatementQueries):
    """ports.store.Store on one SQLite file, which no other process may have open for writing.

    `migrations` are the author's folders, applied after ours at `open`. `factory` makes the
    connections, so that tests can let one fail. `committed` is notified of every batch, in the
    writer's thread. A file can be read only with the `codec` that it was written with.
    """

    def __init__(
        self,
        file: DatabaseFile | Path | str,
        *,
        migrations: Sequence[Traversable] = (),
        limits: SqliteLimits = DEFAULT_LIMITS,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        committed: Committed | None = None,
        codec: Codec = PLAIN,
    ) -> None:
        super().__init__(codec)
        if not isinstance(file, DatabaseFile):
            file = DatabaseFile(path=Path(file))
        self._file = msgspec.structs.replace(file, path=file.path.absolute())
        self._path = self._file.path
        self._made = False
        self._without_log = True
        """Whether nothing stood in a log before the file was opened."""
        self._migrations = tuple(migrations)
        self._migrated: tuple[str, ...] = ()
        self._lock = FileLock(self._path)
        self._ownership = SoleOwner(self.due, self._file.workers)
        self._connections = SqliteConnections(
            self._path,
            codec,
            readers=limits.readers,
            factory=factory,
            check_lock=self._lock.check,
        )
        self._writer = Writer(
            self._connections, ThreadChannel(), limits=limits, committed=committed
        )
        self._watch = FileWatch(self._connections, self._lock, self._write_nothing)

    async def open(self, *, upgrade: bool = True) -> None:
        """See ports.store.Store. Without `upgrade` nothing is made.

        Then a file that is not there is a ConfigurationError, and a migration that is pending.
        """
        await self._take_turn(may_make=upgrade and not self._file.must_exist)
        try:
            home = await self._connections.open(
                partial(refuse_foreign, file=self._file),
                partial(self._prepare, upgrade=upgrade),
            )
            await self._writer.open(home)
            self._watch.start()
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
        await self._watch.stop()
        try:
            await self._writer.close()
        finally:
            await self._connections.close()
            await asyncio.to_thread(self._let_go)

    async def _take_turn(self, *, may_make: bool) -> None:
        """Take the lock, and wait for the process that has it as long as the file says."""
        loop, waiting = asyncio.get_running_loop(), False
        until = loop.time() + self._file.lock_wait_seconds
        while True:
            try:
                await asyncio.to_thread(self._acquire, may_make=may_make)
            except DatabaseInUse as error:
                if loop.time() >= until:
                    raise
                if not waiting:
                    self._file.waiting(str(error))
                    waiting = True
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return

    def _acquire(self, *, may_make: bool) -> None:
        """Take the lock on a file that is there, or is made now. Raises ConfigurationError."""
        if not is_made(self._path) and not may_make:
            raise missing(self._path)  # before there is a lock file in a folder of others
        self._lock.acquire()
        try:
            if not is_made(self._path):  # the process before us may have made it meanwhile
                refuse_removed(self._path, self._lock.mark)
                make_database(self._file, self._migrations, self._lock)
                self._made = True
            refuse_foreign_log(self._path, self._lock.mark)
            self._without_log = not log_head(self._path)
            self._file.check()
        except BaseException:
            self._lock.release()
            raise

    def _let_go(self) -> None:
        timeline = self._connections.timeline
        with suppress(StoreUnavailable):  # another file stands there
            self._connections.check_file()
            timeline.closed(without_log=not log_head(self._path))
        with suppress(OSError):  # the mark of the last look stands there
            self._lock.remember(timeline.mark)
        self._lock.release()

    def _prepare(self, connection: sqlite3.Connection, *, upgrade: bool) -> None:
        """Bring the schema up to date, and see whose database it is."""
        refuse_owner(read_identity(connection), self._file)
        refuse_worker(connection, self._file)
        if upgrade:
            applied = dialect.upgrade_now(connection, self._migrations)
            self._migrated = tuple(each.title for each in applied)
        else:
            dialect.check(connection, self._migrations)
        record_key(connection, self._codec)
        found = None if upgrade else read_identity(connection)
        identity = found or take(connection, self._file, self._file.now())
        left, without_log = self._lock.mark, self._without_log
        self._connections.timeline.opened(connection, identity, left, without_log=without_log)

    async def _write_nothing(self) -> None:
        await self.transact(_nothing)

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store. A full queue raises StoreUnavailable at once."""
        try:
            return await self._writer.transact(work, deferrable=deferrable)
        except DatabaseDamaged as error:
            self._watch.damaged(error)
            raise

    async def scrub(self, clean: set[str] | None = None) -> None:
        """See ports.store.Store. A file is copied as a whole."""
        await self._writer.scrub()

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See ports.store.Store."""
        asked = msgspec.json.encode(saga_ids).decode()
        return frozenset(row[0] for row in await self._read("seen_sagas", asked))

    async def envelopes(self, saga_ids: Sequence[str], bytes_max: int) -> dict[str, bytes]:
        """See ports.store.Store."""
        asked = msgspec.json.encode(saga_ids).decode()
        return dict(await self._read("get_envelopes", asked, bytes_max))

    async def backlog(self, now: float, version: int = VERSION_MAX) -> Backlog:
        """See ports.store.Store."""
        parked = await self._read("count_parked")
        oldest = await self._read("oldest_unfinished")
        longest = await self._read("longest_due", now, version)
        undo = await self._read("oldest_compensation")
        lost = await self._read("count_lost")
        newer = await self._read("count_newer", version)
        asked, other = await self._asked.read(now)
        by_cause, unknown = rows.parked(parked)
        return Backlog(
            asked=asked,
            newer=newer[0][0] + unknown,
            lost=lost[0][0],
            parked=by_cause,
            oldest_accepted_at=earliest(oldest[0][0], other),
            longest_due_at=longest[0][0],
            oldest_compensation_at=undo[0][0],
            sizes=await asyncio.to_thread(_sizes, self._path),
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
        return self._writer.available and not self._watch.trouble

    @property
    def trouble(self) -> str:
        """See ports.store.Store."""
        return self._watch.trouble or self._writer.trouble

    @property
    def identity(self) -> Identity:
        """See ports.store.Store."""
        identity = self._connections.timeline.identity
        assert identity is not None, "the store was never opened"
        return identity

    @property
    def place(self) -> str:
        """See ports.store.Store."""
        return str(self._path)

    @property
    def made(self) -> bool:
        """See ports.store.Store."""
        return self._made

    @property
    def migrated(self) -> Sequence[str]:
        """See ports.store.Store."""
        return self._migrated

    @property
    def path(self) -> Path:
        """Where the file is: an absolute path."""
        return self._path

    async def _read_page(self, which: Filter) -> list[Row]:
        name, parameters = page_query(which, self._codec)
        return await self._read(name, *parameters)

    async def _read(self, name: str, *parameters: object) -> list[Row]:
        try:
            return await self._connections.read(_fetch, name, parameters)
        except DatabaseDamaged as error:
            self._watch.damaged(error)
            raise


async def _nothing(unit: Unit) -> None:
    """A unit that writes nothing but the number of its batch."""


def _fetch(connection: sqlite3.Connection, name: str, parameters: Sequence[Any]) -> list[Row]:
    return connection.execute(statement(name), parameters).fetchall()


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of the file and of its write-ahead log."""
    sizes = {}
    for part, file in (("database", path), ("wal", path.with_name(path.name + "-wal"))):
        with suppress(OSError):  # there is none, or it is gone: the next write tells of that
            sizes[part] = file.stat().st_size
    return sizes
