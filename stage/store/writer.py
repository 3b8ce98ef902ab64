"""Group commit: one connection writes, and all units that wait become durable with one fsync.

    transact ──> queue ──> drain (where the connection lives): BEGIN
                              unit ... (what failed after it had written is undone: see the unit)
                              unit ...
                           number the batch, COMMIT
    futures <── deliver <── one call into the event loop

There is no timer for a unit that somebody waits for: a lone one starts at once, and units that
arrive while a batch commits form the next one. Deferrable units go with it; alone they are held for
others, but not for long. When a COMMIT raises, it is not known whether it landed (rule 8). Every
batch writes its number; all connections are closed and opened again, and the number that is then
read settles it. A batch that did not land is run again unit by unit, so that a poisoned unit fails
alone.

The writer knows no database: see connection.py for what it needs of one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.ports.store import Unit
from stage.store.batches import Aside, Away, Batches, Committed, Trouble
from stage.store.connection import Connection, Connections, Home
from stage.store.pace import Pace
from stage.store.queue import Channel, UnitQueue, Waiting, deliver, fail

T = TypeVar("T")


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a writer, each with its default."""

    units_per_batch_max: int = 256
    """Units that share one commit: bounds how long the first of them waits for the last."""
    queue_units_max: int = 8192
    """Units that may wait; beyond it `transact` raises at once, so that callers shed their load."""
    deferral_seconds_max: float = 0.004
    """How long deferrable units are held for one that somebody waits for."""
    retry_seconds: float = 0.5
    """While the database is away: time between two attempts to use it."""


DEFAULT_LIMITS: Final = WriterLimits()


class _Closed(Exception):
    """The store is closed while the database is away."""


class Writer:
    """Runs units on one connection. Used from one event loop."""

    def __init__(
        self,
        connections: Connections,
        channel: Channel,
        *,
        limits: WriterLimits = DEFAULT_LIMITS,
        committed: Committed | None = None,
        aside: Aside | None = None,
    ) -> None:
        """`channel` leads to where the connections live; `aside` takes what meets a lock."""
        self._connections = connections
        self._limits = limits
        pace = Pace(limits.units_per_batch_max)
        self._batches = Batches(pace, committed, aside)
        self._queue = UnitQueue(
            channel,
            pace=pace,
            deferral_seconds_max=limits.deferral_seconds_max,
        )
        self._closing = True  # until it is open
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._current: Sequence[Waiting] = ()
        self._trouble = ""
        self._scrubs: deque[tuple[asyncio.Future[None], set[str]]] = deque()
        """Each with the tables that are clean for it."""

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return self._batches.available

    @property
    def trouble(self) -> str:
        """See ports.store.Store."""
        return "" if self._batches.available else self._trouble or self._batches.trouble

    @property
    def queued(self) -> int:
        """How many units wait."""
        return len(self._queue)

    async def open(self, home: Home) -> None:
        """Begin to take units."""
        self._loop = asyncio.get_running_loop()
        self._batches.number = await home.run(_last_number)
        self._closing = False
        self._task = self._loop.create_task(self._run(home), name="stage-writer")

    async def close(self) -> None:
        """Run what is queued and stop. Units whose commit is in doubt by then stay in doubt."""
        self._closing = True
        self._queue.close()
        if self._task is not None:
            await asyncio.shield(self._task)

    def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> asyncio.Future[T]:
        """See ports.store.Store. Raises StoreUnavailable at once when the queue is full."""
        if self._closing:
            raise StoreUnavailable("the store is closed: nothing was written")
        if self._queue.arrived() >= self._limits.queue_units_max:
            raise StoreUnavailable(
                f"the queue is full ({self._limits.queue_units_max} units wait for the disk):"
                " nothing was written, try again later"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(Waiting(work, future, copy_context(), deferrable))
        return future

    async def scrub(self, clean: set[str] | None = None) -> None:
        """See ports.store.Store. Units that come meanwhile wait."""
        asked: asyncio.Future[None] = self._loop.create_future()
        asked.add_done_callback(_retrieve)  # where the unit fails nobody waits for it
        self._scrubs.append((asked, set() if clean is None else clean))
        await self.transact(_nothing)  # so that the writer looks
        await asked

    def adopt(self, waiting: Waiting) -> bool:
        """Take a unit over from another writer; False when this one is closed or full."""
        if self._closing or self.queued >= self._limits.queue_units_max:
            return False
        self._queue.put(waiting.copy())
        return True

    async def _run(self, home: Home) -> None:
        """The life of the writer: `_drain` returns trouble, or None when the store is closed."""
        try:
            while True:
                try:
                    if (trouble := await home.run(self._drain)) is None:
                        break
                    home = await self._mend(trouble)
                except _Closed:
                    break
                except Exception as error:
                    home = await self._begun_anew(error)
        except _Closed:
            pass
        finally:
            # Units are left here only when the database stayed away, or the task was cancelled.
            self._closing = True
            fail(self._current, CommitInDoubt("the writer stopped; ask for the saga's state"))
            self._queue.fail(StoreUnavailable("the writer stopped: nothing was written"))
            scrubs = [asked for asked, _ in self._scrubs]
            _scrubbed(scrubs, StoreUnavailable("the writer stopped: ask again"))
            self._queue.close()  # a thread still waits there when it was this task that ended

    # --- where the connection lives -------------------------------------------------------

    async def _drain(self, connection: Connection) -> Trouble | None:
        """Run batches until the store is closed. Units that arrive meanwhile form the next one."""
        while True:
            if self._scrubs:  # also those that were asked for before some trouble
                await self._scrub(connection)
            if not (batch := await self._next()):
                return None
            self._current = batch
            if (trouble := await self._batches.run(connection, batch)) is not None:
                return self._parted(trouble)
            self._hand_over(batch)
            self._current = batch = []  # nothing of it is kept while waiting for the next

    async def _scrub(self, connection: Connection) -> None:
        scrubs = [self._scrubs.popleft() for _ in range(len(self._scrubs))]
        clean = set[str].intersection(*(each for _, each in scrubs))
        error: Exception | None = None
        try:
            await connection.scrub(clean)
        except Exception as raised:
            error = raised
        for _, each in scrubs:
            each.update(clean)
        self._loop.call_soon_threadsafe(_scrubbed, [asked for asked, _ in scrubs], error)

    async def _next(self) -> list[Waiting]:
        """The next batch; empty once the store is closed."""
        batch = await self._queue.take(
            None if self._batches.available else self._limits.retry_seconds
        )
        if batch is None:
            # The database is away: callers that see `available` send no units, so that without
            # this one its return would go unnoticed.
            unheard = self._loop.create_future()
            unheard.add_done_callback(_retrieve)
            batch = [Waiting(_nothing, unheard, copy_context())]
        return batch

    async def _run_again(self, batch: Sequence[Waiting], connection: Connection) -> Trouble | None:
        """Run a batch that did not land once more."""
        if (trouble := await self._batches.run_singly(connection, batch)) is not None:
            return self._parted(trouble)
        self._hand_over(batch)
        return None

    def _parted(self, trouble: Trouble) -> Trouble:
        """Answer the units before the trouble, and let those behind it form the next batch."""
        self._hand_over(trouble.before)
        self._queue.put_back(trouble.behind)
        self._current = trouble.batch
        return trouble

    def _hand_over(self, batch: Sequence[Waiting]) -> None:
        if batch:
            self._loop.call_soon_threadsafe(deliver, batch)

    # --- in the event loop, after trouble --------------------------------------------------

    async def _mend(self, trouble: Trouble) -> Home:
        """Settle what is in doubt; a connection that can be used again.

        A batch in doubt is held until the database can be read, because until then there is no
        honest answer. All other units are answered at once.
        """
        self._batches.available = False
        self._trouble = str(trouble.error)
        repeated = False
        while True:
            if isinstance(trouble, Away):
                fail(trouble.batch, trouble.error)
                return await self._reopened()
            home = await self._reopened()
            try:
                landed = await home.run(partial(_landed, trouble.number))
            except StoreUnavailable:
                await self._pause()
                continue
            if landed:
                self._batches.available = True
                deliver(trouble.batch)
                return home
            if repeated:
                fail(trouble.batch, StoreUnavailable(f"the commit failed: {trouble.error}"))
                return home
            repeated = True
            again = await home.run(partial(self._run_again, trouble.batch))
            if again is None:
                return home
            trouble = again

    async def _begun_anew(self, error: Exception) -> Home:
        """Fresh connections after an error that none of the database is: no memory, or a defect.

        It need not come again, and a writer that has ended would refuse all that comes. How far the
        batch under way had come is not known, so that it is in doubt.
        """
        self._batches.available = False
        self._trouble = f"the writer met {type(error).__name__}: {error}"
        fail(self._current, CommitInDoubt(f"{self._trouble}; ask for the saga's state"))
        self._current = ()
        while True:
            await self._pause()
            home = await self._reopened()
            with suppress(Exception):  # it makes sure of the number of the last batch
                await home.run(partial(_landed, self._batches.number))
                return home

    async def _reopened(self) -> Home:
        """Fresh connections, as soon as there are any."""
        while True:
            try:
                return await self._connections.reopen()
            except StoreUnavailable as error:
                self._trouble = str(error)
                self._queue.fail(error)
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt. Raises _Closed when the store is being closed."""
        if self._closing:
            raise _Closed
        await asyncio.sleep(self._limits.retry_seconds)


def _scrubbed(asked: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in asked:
        if future.done():
            continue  # nobody waits for it any more
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future that nobody awaits: asyncio would log it."""
    if not future.cancelled():
        future.exception()


async def _last_number(connection: Connection) -> int:
    return await connection.last_number()


async def _landed(number: int, connection: Connection) -> bool:
    return await connection.landed(number)


async def _nothing(unit: Unit) -> None:
    """A unit that writes nothing but the number of its batch."""
