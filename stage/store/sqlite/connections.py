"""The connections to one SQLite file: one that writes, and some that only read."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from stage.core.errors import StoreUnavailable
from stage.ports.codec import Codec
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.connection import SqliteHome
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.file_head import FileHead, was_written_over
from stage.store.sqlite.identity import Timeline
from stage.store.sqlite.left_log import log_head
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import TableGuard

P = ParamSpec("P")
T = TypeVar("T")

STATEMENTS_CACHED: Final = 256
"""Prepared statements that a connection keeps: ours and the author's."""

_WRITER_SETTINGS: Final = (
    "journal_mode",
    "synchronous",
    "temp_store",
    "foreign_keys",
    "wal_autocheckpoint",
)
_READER_SETTINGS: Final = ()

Check = Callable[[sqlite3.Connection], None]
"""Raises when the file must not be used. It writes nothing."""


class SqliteConnections:
    """Opens, reopens and closes them all; reads on the next reader in turn.

    store.connection.Connections for the writer.
    """

    def __init__(
        self,
        path: Path,
        codec: Codec,
        *,
        readers: int,
        factory: type[sqlite3.Connection],
        check_lock: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_lock` raises StoreUnavailable when another process has the file."""
        self._path = path
        self._check_lock = check_lock
        self._codec = codec
        self._factory = factory
        self._readers_wanted = readers
        self._writer: Bridge | None = None
        self._inode = (0, 0)
        self._head: FileHead | None = None
        self._heads: list[FileHead] = []
        """To be closed behind the last connection."""
        self._written_over = False
        """True for good once another program has written a copy into the open file."""
        self.timeline = Timeline(path)
        self._readers: list[Bridge] = []
        self._inspector: Bridge | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._next_reader = 0

    async def open(self, check: Check, prepare: Callable[[sqlite3.Connection], None]) -> SqliteHome:
        """Open the file that is there, and `prepare` it before anything reads it.

        `check` raises before anything is written, when the file must not be used.
        """
        bridge = await self._connect(check)
        await bridge.run(prepare)
        await self._connect_readers()
        return await self._home(bridge)

    async def reopen(self) -> SqliteHome:
        """See store.connection.Connections.

        All of them are closed: as long as one is open, a new one takes over its view of the
        write-ahead log instead of reading the log itself.
        """
        try:
            await self.close()
            self._refuse_written_over()
            bridge = await self._connect(self.timeline.check)
            await self._connect_readers()
            return await self._home(bridge)
        except Exception as error:  # also no thread or no memory for one: it is tried again
            words = f"the database cannot be opened: {type(error).__name__}: {error}"
            raise unavailable(error) or StoreUnavailable(words) from error

    async def _home(self, bridge: Bridge) -> SqliteHome:
        guard = TableGuard()
        await bridge.run(guard.watch)
        return SqliteHome(bridge, self._codec, self.check_file, self.timeline, guard)

    async def close(self) -> None:
        """Close the readers, then the writer: the last one to close empties the log.

        It must not empty it into a copy that was written over the file: then a reader is the last.
        The connections of a close that was cancelled are waited for first: their threads need the
        event loop, and a reader cannot empty the log when it is the last one.
        """
        leaving, self._readers = self._readers, []
        if self._inspector is not None:
            self._inspector.interrupt()
            leaving.append(self._inspector)
            self._inspector = None
        if self._writer is not None:
            leaving.append(self._writer)
            self._writer = None
        if leaving:
            _ = self._begin_close(leaving)
        if self._closing:
            await asyncio.shield(asyncio.gather(*self._closing))
        heads, self._heads, self._head = self._heads, [], None
        for head in heads:
            head.close()

    def _begin_close(self, leaving: Sequence[Bridge]) -> asyncio.Task[None]:
        before = tuple(self._closing)
        closing = asyncio.get_running_loop().create_task(self._close(leaving, before))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing

    async def _close(self, leaving: Sequence[Bridge], before: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.gather(*before, return_exceptions=True)
        try:
            await asyncio.to_thread(self._look_at_head)
        except OSError:
            pass
        except Exception:  # no thread for it: one that stays open would be believed by new ones
            with suppress(OSError):
                self._look_at_head()
        for bridge in reversed(leaving) if self._written_over else leaving:
            await bridge.close()

    async def read(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)` on a reader. Raises StoreUnavailable when there is none."""
        self._refuse_written_over()
        if not self._readers:
            raise StoreUnavailable(f"the database {self._path} is not open: try again later")
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        reader = self._readers[self._next_reader]
        try:
            return await reader.run(work, *arguments, **options)
        except sqlite3.Error as error:
            raise unavailable(error) or error from error
        except ValueError as error:
            # aiosqlite raises it for a connection that `reopen` closed meanwhile.
            raise StoreUnavailable(f"the database {self._path} is being reopened") from error

    async def inspect(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run long `work` on a connection of its own. Raises StoreUnavailable, also when closed."""
        if self._inspector is not None or not self._readers:
            raise StoreUnavailable(f"the database {self._path} is not open: try again later")
        bridge = self._inspector = self._reader()
        try:
            await bridge.open()
            return await bridge.run(work)
        except (sqlite3.Error, ValueError, RuntimeError, MemoryError) as error:
            # The last two: no thread, or no memory, for now.
            raise unavailable(error) or StoreUnavailable(f"SQLite: {error}") from error
        finally:
            if self._inspector is bridge:
                self._inspector = None
                bridge.interrupt()  # nobody waits for the work of a wait that was cancelled
                await asyncio.shield(self._begin_close([bridge]))

    def check_file(self) -> None:
        """Raises StoreUnavailable when a new connection would find another file than the open one.

        So it does when another process has it, and when a copy was written into it. Two stats:
        some microseconds a batch.
        """
        self._check_lock()
        self._refuse_written_over()
        head = self._head
        try:
            found = self._path.stat()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                raise unavailable(error) or error from error
            raise StoreUnavailable(f"{error}: the database was removed; put it back") from error
        if (found.st_dev, found.st_ino) != self._inode:
            raise StoreUnavailable(f"the database {self._path} was replaced")
        if head is not None and head.cut(found.st_size):
            try:
                self.check_head()
            except OSError as error:
                raise unavailable(error) or error from error

    def check_head(self) -> None:
        """Raises StoreUnavailable when another program has written a copy into the open file.

        It stays so: SQLite has read and written pages of both by then. Raises OSError.
        """
        self._look_at_head()
        self._refuse_written_over()

    def _look_at_head(self) -> None:
        if (head := self._head) is not None and not self._written_over and head.written_over():
            self._written_over = True
            self.timeline.written_over()

    def _refuse_written_over(self) -> None:
        if self._written_over:
            raise was_written_over(self._path)

    def log_head(self) -> bytes:
        """The head of the log, which differs each time that it is begun anew."""
        return log_head(self._path)

    async def _connect(self, check: Check) -> Bridge:
        # Mode rw, not rwc: an empty file in place of a missing one would lose everything.
        connect = partial(_connect, self._path, "rw", self._factory)
        bridge = Bridge(partial(connect, _WRITER_SETTINGS, check))
        await bridge.open()
        self._writer = bridge
        self._head = await bridge.run(lambda _: FileHead(self._path))
        self._heads.append(self._head)
        self._inode = self._head.inode
        return bridge

    async def _connect_readers(self) -> None:
        for _ in range(self._readers_wanted):
            reader = self._reader()
            await reader.open()
            self._readers.append(reader)

    def _reader(self) -> Bridge:
        connect = partial(_connect, self._path, "ro", self._factory)
        return Bridge(partial(connect, _READER_SETTINGS, _any_file))


def _any_file(connection: sqlite3.Connection) -> None:
    """No check: the writer's connection has made it."""


def _connect(
    path: Path,
    mode: str,
    factory: type[sqlite3.Connection],
    settings: Sequence[str],
    check: Check,
) -> sqlite3.Connection:
    """A connection in autocommit; `mode` is that of sqlite.org/uri.html: ro or rw.

    It is checked before its settings are made: the journal mode would change a foreign file.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        cached_statements=STATEMENTS_CACHED,
        factory=factory,
    )
    try:
        connection.execute(statement("busy_timeout")).fetchall()
        check(connection)
        for name in settings:
            connection.execute(statement(name)).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection
