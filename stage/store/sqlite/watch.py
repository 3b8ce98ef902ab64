"""Watches the open file: is it the same one, can it be written to, is it damaged (rule 33).

The writer finds all of that with its next batch, but a stage without work has none. A
finding here is therefore left to the writer to meet too: an empty unit is sent, which fails, and
the writer goes on as after any other failure.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from stage.core.errors import StoreUnavailable
from stage.store.sqlite.connections import SqliteConnections
from stage.store.sqlite.errors import DatabaseDamaged
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.statements import statement

LOOK_SECONDS: Final = 0.5
"""Time between two looks at the file: one that was swapped is noticed within a second."""
PROBE_SECONDS: Final = 2.0
"""A database that was not written to for so long is, to see whether it can be."""
PROBE_SECONDS_MAX: Final = 5.0
"""A write that takes longer is one that fails: the disk hangs."""


class FileWatch:
    """Looks at the file from time to time. `start`, then `stop` before the file is closed."""

    def __init__(
        self,
        connections: SqliteConnections,
        lock: FileLock,
        write_nothing: Callable[[], Awaitable[None]],
    ) -> None:
        """`write_nothing` returns when an empty batch is durable, or raises StoreUnavailable."""
        self._connections = connections
        self._lock = lock
        self._write_nothing = write_nothing
        self._number = 0
        self._inspection: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._probed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.damage = ""
        """The damage that was found. It stays until the process ends: nothing here mends a file."""

    @property
    def trouble(self) -> str:
        """The fault of the file; empty for none."""
        if self.damage:
            return self.damage
        late = self._probe is not None and self._late()
        return f"a write takes longer than {PROBE_SECONDS_MAX:g} s: look at the disk" * late

    def start(self) -> None:
        """Begin to watch, and to check the whole file beside it."""
        loop = asyncio.get_running_loop()
        self._probed_at = loop.time()
        self._task = loop.create_task(self._run(), name="stage-file-watch")
        self._inspection = loop.create_task(self._inspect(), name="stage-file-inspection")

    async def stop(self) -> None:
        """Watch no more. A look under way is finished, an inspection is broken off."""
        for task in (self._task, self._inspection, self._probe):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, StoreUnavailable):
                    await task
        self._task = self._inspection = self._probe = None

    def damaged(self, error: StoreUnavailable) -> None:
        """A statement met a damaged page."""
        self.damage = self.damage or str(error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._connections.read(self._look)
            except Exception:
                # No memory, or an OSError of the lock file, which may be on the same full disk.
                self._begin_probe()  # so that the writer meets it too
            self._probe_if_idle()

    def _look(self, connection: sqlite3.Connection) -> None:
        """In the thread of a reader: the lock, the file at the path, its identity, and the mark."""
        timeline = self._connections.timeline
        self._lock.keep()
        self._connections.check_file()
        self._connections.check_head()
        timeline.compare(connection)
        timeline.look_at_log(self._connections.log_head)
        if self._lock.mark != timeline.mark:
            self._lock.remember(timeline.mark)

    def _probe_if_idle(self) -> None:
        number, now = self._connections.timeline.number, asyncio.get_running_loop().time()
        if number != self._number:
            self._number, self._probed_at = number, now
        elif now - self._probed_at >= PROBE_SECONDS:
            self._begin_probe()

    def _begin_probe(self) -> None:
        if self._probe is None:
            loop = asyncio.get_running_loop()
            self._probed_at = loop.time()
            self._probe = loop.create_task(self._write(), name="stage-file-probe")

    async def _write(self) -> None:
        try:
            await self._write_nothing()
        except StoreUnavailable:
            pass  # the writer says so
        finally:
            self._probe = None

    def _late(self) -> bool:
        return asyncio.get_running_loop().time() - self._probed_at > PROBE_SECONDS_MAX

    async def _inspect(self) -> None:
        """Read the whole file once, on a connection of its own. Begin again after a reopening."""
        while True:
            try:
                found = await self._connections.inspect(self._read_all)
            except DatabaseDamaged as error:
                return self.damaged(error)
            except StoreUnavailable:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            if found != "ok":
                self.damage = f"the file is damaged: {found}: restore it from a backup"
            return None

    def _read_all(self, connection: sqlite3.Connection) -> str:
        """In the thread of the inspection. A file in place of ours is no damage of ours."""
        self._connections.check_file()
        self._connections.timeline.compare(connection)
        found = _quick_check(connection)
        self._connections.check_file()
        return found


def _quick_check(connection: sqlite3.Connection) -> str:
    (found,) = connection.execute(statement("quick_check")).fetchone()
    return " ".join(str(found).split())
