"""Group commit: one connection writes, and all units that wait become durable with one fsync.

    transact ──> queue ──> drain (writer thread, which waits here): BEGIN IMMEDIATE
                              unit ... (what an author wrote: SAVEPOINT, a bad one: ROLLBACK TO)
                              unit ...
                           number the batch, COMMIT
    futures <── deliver <── one call into the event loop

There is no timer for a unit that somebody waits for: a lone one starts at once, and what arrives
while a batch commits forms the next one. Patient units go with it; alone they wait for others, but
not for long. When a COMMIT raises, nobody knows whether it landed (rule 8). Every batch writes its
number; all connections are closed and opened again, and the number that is then read settles it.
A batch that did not land is repeated unit by unit, so that a poisoned one fails alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any, Final, Protocol, TypeVar

import msgspec

from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.ports.store import Unit
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.statements import statement
from stage.store.sqlite.unit import run_unit

T = TypeVar("T")

Committed = Callable[[int, float], None]
"""Told of a batch that became durable: its units, and the seconds that COMMIT took.

It never raises: who waits for the batch has not been told yet."""

UNITS_PER_BATCH_MAX: Final = 256
"""Units that share one commit: bounds how long the first of them waits for the last."""

QUEUE_UNITS_MAX: Final = 8192
"""Units that may wait; beyond it `transact` raises at once, so that callers shed their load."""

RETRY_SECONDS: Final = 0.5
"""While the database is away: time between two looks whether it is back."""

PATIENCE_SECONDS: Final = 0.004
"""How long deferrable units wait for one that somebody waits for."""

_BEGIN: Final = statement("begin_batch")
_NUMBER: Final = statement("number_batch")
_COMMIT: Final = statement("commit_batch")
_DROP: Final = statement("drop_batch")
_LAST: Final = statement("last_batch")
_CHECKPOINT: Final = statement("checkpoint")


class Connections(Protocol):
    """What the writer needs of the store: its connection, and a new one after trouble."""

    def removed(self) -> StoreUnavailable | None:
        """Says so when the open file is no longer the one that a new connection would find."""
        ...

    async def reopen(self) -> Bridge:
        """Close every connection to the file and open them again. Raises StoreUnavailable."""
        ...


class _Waiting:
    """A unit in the queue, then its outcome on the way to the caller."""

    __slots__ = ("context", "deferrable", "error", "future", "value", "work")

    def __init__(
        self,
        work: Callable[[Unit], Awaitable[Any]],
        future: asyncio.Future[Any],
        deferrable: bool = False,
    ) -> None:
        self.work = work
        self.future = future
        self.deferrable = deferrable
        self.context = contextvars.copy_context()
        self.value: Any = None
        self.error: BaseException | None = None


class _Away(msgspec.Struct, frozen=True):
    """The batch was certainly not written, and the connection is not to be trusted."""

    batch: Sequence[_Waiting]
    error: StoreUnavailable


class _InDoubt(msgspec.Struct, frozen=True):
    """The COMMIT of the batch of that number raised."""

    batch: Sequence[_Waiting]
    number: int
    error: BaseException


_Trouble = _Away | _InDoubt


class _Closed(Exception):
    """The store is closed while the database is away."""


class Writer:
    """Runs units on one connection. Used from one event loop."""

    def __init__(
        self,
        connections: Connections,
        *,
        units_per_batch_max: int = UNITS_PER_BATCH_MAX,
        queue_units_max: int = QUEUE_UNITS_MAX,
        retry_seconds: float = RETRY_SECONDS,
        committed: Committed | None = None,
    ) -> None:
        self._connections = connections
        self._units_per_batch_max = units_per_batch_max
        self._queue_units_max = queue_units_max
        self._retry_seconds = retry_seconds
        self._committed = committed
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        """None comes last: the store is closed."""
        self._again: list[_Waiting] = []
        """Taken from the queue, not written, and before it in order."""
        self._number = 0
        self._available = True
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._current: Sequence[_Waiting] = ()

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return self._available

    @property
    def queued(self) -> int:
        """How many units wait."""
        return self._queue.qsize() + len(self._again)

    async def open(self, bridge: Bridge) -> None:
        """Begin to take units."""
        self._loop = asyncio.get_running_loop()
        self._number = await bridge.run(_last_batch)
        self._task = self._loop.create_task(self._run(bridge), name="stage-writer")

    async def close(self) -> None:
        """Run what is queued and stop. Units whose commit is in doubt by then stay in doubt."""
        self._closing = True
        self._queue.put(None)
        if self._task is not None:
            await asyncio.shield(self._task)

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store. Raises StoreUnavailable at once when the queue is full."""
        if self._closing or self._task is None:
            raise StoreUnavailable("the store is closed: nothing was written")
        if self.queued >= self._queue_units_max:
            raise StoreUnavailable(
                f"the queue is full ({self._queue_units_max} units wait for the disk):"
                " nothing was written, try again later"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Waiting(work, future, deferrable))
        return await future

    async def _run(self, bridge: Bridge) -> None:
        """The life of the writer: its thread comes back from `_drain` with trouble, or for good."""
        try:
            while (trouble := await bridge.run(self._drain)) is not None:
                bridge = await self._mend(trouble)
        except _Closed:
            pass
        finally:
            # Nothing is left here but after a defect of ours, or when the file never came back.
            self._closing = True
            _fail(self._current, CommitInDoubt("the writer stopped; ask for the saga's state"))
            self._fail_queue(StoreUnavailable("the writer stopped: nothing was written"))
            self._queue.put(None)  # the thread is still waiting when it was this task that ended

    # --- in the writer thread -------------------------------------------------------------

    def _drain(self, connection: sqlite3.Connection) -> _Trouble | None:
        """Run batches until the store is closed. What arrives meanwhile forms the next one."""
        while batch := self._next():
            self._current = batch
            if (trouble := self._run_batch(connection, batch)) is not None:
                return trouble
            self._hand_over(batch)
            self._current = batch = ()  # nothing of it is kept while waiting for the next
        return None

    def _next(self) -> Sequence[_Waiting]:
        """Wait for a unit, and take with it what else waits; nothing once the store is closed."""
        batch, self._again = self._again, []
        hurry = bool(batch)  # what was taken before has waited enough
        wait = None if self._available else self._retry_seconds
        latest = monotonic() + PATIENCE_SECONDS
        try:
            while len(batch) < self._units_per_batch_max:
                waiting = self._queue.get(not hurry, wait)
                if waiting is None:
                    self._queue.put(None)  # for the next look, which finds nothing before it
                    break
                if not batch:
                    latest = monotonic() + PATIENCE_SECONDS
                batch.append(waiting)
                if waiting.deferrable and not hurry:
                    wait = max(0.0, latest - monotonic())
                else:
                    hurry = True
        except Empty:
            if not batch:
                # While the database is away: callers that see `available` send no units, and
                # nobody else would ever find out that it is back.
                nobody = self._loop.create_future()
                nobody.add_done_callback(_retrieve)
                batch.append(_Waiting(_nothing, nobody))
        return batch

    def _run_batch(
        self, connection: sqlite3.Connection, batch: Sequence[_Waiting]
    ) -> _Trouble | None:
        """Run a batch as one transaction, or its units one by one when it broke."""
        if (gone := self._connections.removed()) is not None:
            return _Away(batch, gone)
        try:
            connection.execute(_BEGIN)
        except sqlite3.Error as error:
            return _away(batch, error)
        for waiting in batch:
            waiting.error = None
            try:
                waiting.value = waiting.context.run(run_unit, connection, waiting.work)
            except BaseException as error:
                waiting.error = error
            if not connection.in_transaction:
                return self._run_broken(connection, batch, waiting)
        return self._commit(connection, batch)

    def _run_broken(
        self, connection: sqlite3.Connection, batch: Sequence[_Waiting], last: _Waiting
    ) -> _Trouble | None:
        """A unit took the whole transaction with it: repeat each in a transaction of its own."""
        if len(batch) == 1:
            away = unavailable(last.error) if last.error is not None else None
            if away is not None:
                last.error = away
                self._available = False
            return None
        return self._run_singly(connection, batch)

    def _run_singly(
        self, connection: sqlite3.Connection, batch: Sequence[_Waiting]
    ) -> _Trouble | None:
        """Each unit in a transaction of its own, so that a poisoned one fails alone."""
        for place, waiting in enumerate(batch):
            trouble = self._run_batch(connection, [waiting])
            if trouble is not None:
                self._hand_over(batch[:place])
                # Those behind it were not written; they form the next batch.
                self._again.extend(batch[place + 1 :])
                return trouble
        return None

    def _repeat(self, connection: sqlite3.Connection, batch: Sequence[_Waiting]) -> _Trouble | None:
        """Run a batch that did not land once more."""
        trouble = self._run_singly(connection, batch)
        if trouble is None:
            self._hand_over(batch)
        return trouble

    def _commit(self, connection: sqlite3.Connection, batch: Sequence[_Waiting]) -> _Trouble | None:
        failed = [waiting.error for waiting in batch if waiting.error is not None]
        away = any(isinstance(error, StoreUnavailable) for error in failed)
        if len(failed) == len(batch):
            with suppress(sqlite3.Error):
                connection.execute(_DROP)
            if away:
                self._available = False
            return None
        self._number += 1
        try:
            connection.execute(_NUMBER, (self._number,))
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute(_DROP)
            return _away(batch, error)
        began = perf_counter()
        try:
            connection.execute(_COMMIT)
        except sqlite3.IntegrityError as error:
            if not connection.in_transaction:
                return _InDoubt(batch, self._number, error)
            # A deferred foreign key: refused, not in doubt, and the transaction is still open.
            connection.execute(_DROP)
            if len(batch) > 1:
                return self._run_singly(connection, batch)
            batch[0].error = error
            return None
        except BaseException as error:
            return _InDoubt(batch, self._number, error)
        self._available = not away
        if self._committed is not None:
            self._committed(len(batch) - len(failed), perf_counter() - began)
        return None

    def _hand_over(self, batch: Sequence[_Waiting]) -> None:
        if batch:
            self._loop.call_soon_threadsafe(_deliver, batch)

    # --- in the event loop, after trouble --------------------------------------------------

    async def _mend(self, trouble: _Trouble) -> Bridge:
        """Settle what is in doubt; a connection that can be used again.

        A batch in doubt is held until the database can be read, because until then there is no
        honest answer. All others are told at once.
        """
        self._available = False
        repeated = False
        while True:
            if isinstance(trouble, _Away):
                _fail(trouble.batch, trouble.error)
                return await self._reopened()
            bridge = await self._reopened()
            try:
                landed = await bridge.run(_landed, trouble.number)
            except sqlite3.Error:
                await self._pause()
                continue
            if landed:
                self._available = True
                _deliver(trouble.batch)
                return bridge
            if repeated:
                _fail(trouble.batch, StoreUnavailable(f"the commit failed: {trouble.error}"))
                return bridge
            repeated = True
            again = await bridge.run(self._repeat, trouble.batch)
            if again is None:
                return bridge
            trouble = again

    async def _reopened(self) -> Bridge:
        """Fresh connections, as soon as there are any."""
        while True:
            try:
                return await self._connections.reopen()
            except StoreUnavailable as error:
                self._fail_queue(error)
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next look. Raises _Closed when nobody waits for the file any more."""
        if self._closing:
            raise _Closed
        await asyncio.sleep(self._retry_seconds)

    def _fail_queue(self, error: StoreUnavailable) -> None:
        waiting, self._again = self._again, []
        with suppress(Empty):
            while True:
                each = self._queue.get_nowait()
                if each is not None:
                    waiting.append(each)
        _fail(waiting, error)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take what the future carries for seen: nobody waits for it."""
    if not future.cancelled():
        future.exception()


def _deliver(batch: Sequence[_Waiting]) -> None:
    """Wake the callers. One that was cancelled meanwhile is left alone."""
    for waiting in batch:
        if waiting.future.done():
            continue
        if waiting.error is None:
            waiting.future.set_result(waiting.value)
        else:
            waiting.future.set_exception(waiting.error)


def _fail(batch: Sequence[_Waiting], error: StoreUnavailable) -> None:
    for waiting in batch:
        waiting.error = type(error)(str(error))
        waiting.error.__cause__ = error.__cause__
    _deliver(batch)


def _away(batch: Sequence[_Waiting], error: sqlite3.Error) -> _Away:
    return _Away(batch, unavailable(error) or StoreUnavailable(f"SQLite: {error}"))


def _last_batch(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute(_LAST).fetchone()
    return int(number)


def _landed(connection: sqlite3.Connection, number: int) -> bool:
    """Whether that batch is in the database; if so, sync it once more before anyone is told."""
    landed = _last_batch(connection) == number
    if landed:
        connection.execute(_CHECKPOINT)
    return landed


async def _nothing(unit: Unit) -> None:
    """A unit that writes nothing but the number of its batch."""
