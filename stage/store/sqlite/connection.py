"""The connection that writes to a SQLite file, as the writer uses it, and its thread.

Its methods block the thread and never suspend, so that a whole run of the writer, many batches
long, takes one hop between threads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from stage.core.errors import StoreUnavailable
from stage.ports.codec import Codec
from stage.store.connection import CommitRefused, Connection
from stage.store.drive import complete
from stage.store.queue import Waiting
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.entries import BatchEntries
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.identity import Timeline
from stage.store.sqlite.part import Care
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import TableGuard
from stage.store.sqlite.unit import run_unit

T = TypeVar("T")

_BEGIN: Final = statement("begin_batch")
_NUMBER: Final = statement("number_batch")
_COMMIT: Final = statement("commit_batch")
_DROP: Final = statement("drop_batch")
_LAST: Final = statement("last_batch")
_CHECKPOINT: Final = statement("checkpoint")
_SCRUB: Final = (statement("temp_store_file"), statement("copy_anew"))
_TEMP_STORE: Final = statement("temp_store")
_EMPTY_LOG: Final = statement("empty_log")
EMPTYINGS_MAX: Final = 5
"""How often the log is tried to be emptied: each waits for readers as long as `busy_timeout`."""


class SqliteConnection:
    """store.connection.Connection on one connection of sqlite3, in autocommit."""

    __slots__ = (
        "_care",
        "_check_file",
        "_codec",
        "_entries",
        "_guard",
        "_number",
        "_raw",
        "_timeline",
    )

    def __init__(
        self,
        raw: sqlite3.Connection,
        codec: Codec,
        check_file: Callable[[], None],
        timeline: Timeline,
        guard: TableGuard,
    ) -> None:
        """`check_file` raises StoreUnavailable when the open file is not that of the path."""
        self._raw = raw
        self._codec = codec
        self._check_file = check_file
        self._timeline = timeline
        self._guard = guard
        self._number = 0
        self._care = Care()
        self._entries = BatchEntries()

    async def begin(self, *, patient: bool) -> None:
        """See store.connection.Connection."""
        self._check_file()
        self._entries.clear()
        try:
            self._raw.execute(_BEGIN)
            self._timeline.check_foreign_writes(self._raw)
        except (sqlite3.Error, StoreUnavailable) as error:
            await self.drop()
            raise _away(error) from error

    async def run_units(self, units: Sequence[Waiting]) -> Waiting | None:
        """See store.connection.Connection."""
        raw, codec, care, entries = self._raw, self._codec, self._care, self._entries
        guard = self._guard
        for each in units:
            each.error = None
            try:
                each.value = each.context.run(run_unit, raw, each.work, codec, care, guard, entries)
            except sqlite3.Error as error:
                each.error = _explained(error)
            except BaseException as error:
                each.error = error
            if not raw.in_transaction:
                return each
        return None

    async def number(self, number: int) -> None:
        """See store.connection.Connection."""
        try:
            self._entries.write(self._raw)
            self._raw.execute(_NUMBER, (number,))
            self._number = number
        except sqlite3.IntegrityError as error:
            await self.drop()
            raise CommitRefused from error
        except sqlite3.Error as error:
            await self.drop()
            raise _away(error) from error

    async def commit(self) -> None:
        """See store.connection.Connection."""
        try:
            self._raw.execute(_COMMIT)
        except sqlite3.IntegrityError as error:
            if not self._raw.in_transaction:
                raise  # it may have landed
            # A deferred foreign key: refused, not in doubt, and the transaction is still open.
            self._raw.execute(_DROP)
            raise CommitRefused from error
        self._timeline.number = self._number

    async def drop(self) -> None:
        """See store.connection.Connection."""
        with suppress(sqlite3.Error):
            self._raw.execute(_DROP)

    async def scrub(self, clean: set[str]) -> None:
        """See store.connection.Connection. Every page is written anew, then the log is emptied.

        Deleting with `secure_delete` would not do: what was moved within the file before leaves
        copies behind that nothing points to.
        """
        try:
            self._check_file()
            try:
                for sql in _SCRUB:
                    self._raw.execute(sql)
            finally:
                self._raw.execute(_TEMP_STORE)
            for _ in range(EMPTYINGS_MAX):
                (busy, *_) = self._raw.execute(_EMPTY_LOG).fetchone()
                if not busy:
                    return
        except sqlite3.Error as error:
            raise StoreUnavailable(
                f"the database could not be copied within itself ({error}): it needs as much free"
                " space again in its folder, and in that for temporary files (SQLITE_TMPDIR)"
            ) from error
        raise StoreUnavailable(
            "the write-ahead log could not be emptied: another process reads the database; end it"
        )

    async def last_number(self) -> int:
        """See store.connection.Connection."""
        (number,) = self._raw.execute(_LAST).fetchone()
        return int(number)

    async def landed(self, number: int) -> bool:
        """See store.connection.Connection. A batch that landed is synced once more."""
        try:
            landed = await self.last_number() == number
            if landed:
                self._timeline.number = number
                self._raw.execute(_CHECKPOINT)
        except sqlite3.Error as error:
            raise _away(error) from error
        return landed


class SqliteHome:
    """store.connection.Home: the thread of one connection."""

    def __init__(
        self,
        bridge: Bridge,
        codec: Codec,
        check_file: Callable[[], None],
        timeline: Timeline,
        guard: TableGuard,
    ) -> None:
        """`guard` watches the connection of the bridge."""
        self._bridge = bridge
        self._connection = partial(
            SqliteConnection, codec=codec, check_file=check_file, timeline=timeline, guard=guard
        )

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """See store.connection.Home. One hop, however much is done there."""
        return await self._bridge.run(_run_here, self._connection, work)


def _run_here(
    raw: sqlite3.Connection,
    connection: Callable[[sqlite3.Connection], SqliteConnection],
    work: Callable[[Connection], Awaitable[T]],
) -> T:
    return complete(work(connection(raw)))


def _explained(error: sqlite3.Error) -> Exception:
    """The error that the caller of a unit gets for one of sqlite3."""
    if (away := unavailable(error)) is None:
        return error
    away.__cause__ = error
    return away


def _away(error: Exception) -> StoreUnavailable:
    return unavailable(error) or StoreUnavailable(f"SQLite: {error}")
