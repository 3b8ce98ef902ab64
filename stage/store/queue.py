"""The units that wait for the writer, and how each caller gets its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol

import msgspec

from stage.core.errors import StoreUnavailable
from stage.ports.store import Unit
from stage.store.pace import Pace


class Waiting(msgspec.Struct, eq=False):
    """A unit in the queue, then its outcome on the way to the caller."""

    work: Callable[[Unit], Awaitable[Any]]
    future: asyncio.Future[Any]
    context: Context
    deferrable: bool = False
    value: Any = None
    error: BaseException | None = None
    repeated: bool = False
    """True once it was run again because it met a lock; then it waits for one."""
    reread: bool = False
    """True once it was run again so that it sees a saga that another transaction inserted."""
    moved: bool = False
    """True once another writer has taken it over: its caller is answered there."""

    def copy(self) -> Waiting:
        """The same unit for another writer, with the same caller and context."""
        return Waiting(self.work, self.future, self.context, self.deferrable)


class Channel(Protocol):
    """How units get from the event loop to where the writer's connection lives. None ends it."""

    def put(self, item: Waiting | None) -> None:
        """Add one. Called in the event loop and at the other end."""
        ...

    async def get(self, timeout: float | None) -> Waiting | None:
        """Wait for the next one, at most `timeout` seconds. Raises queue.Empty."""
        ...

    def get_nowait(self) -> Waiting | None:
        """The next one. Raises queue.Empty when there is none."""
        ...

    def qsize(self) -> int:
        """How many wait."""
        ...


class ThreadChannel:
    """The channel to a connection that lives in a thread of its own: `get` blocks that thread."""

    __slots__ = ("_get", "get_nowait", "put", "qsize")

    def __init__(self) -> None:
        queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._get = queue.get
        self.get_nowait = queue.get_nowait
        self.put = queue.put
        self.qsize = queue.qsize

    async def get(self, timeout: float | None) -> Waiting | None:
        """See Channel."""
        return self._get(True, timeout)


class LoopChannel:
    """The channel to a connection that lives in the event loop."""

    __slots__ = ("_queue", "put", "qsize")

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self.put = self._queue.put_nowait
        self.qsize = self._queue.qsize

    async def get(self, timeout: float | None) -> Waiting | None:
        """See Channel."""
        try:
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except TimeoutError:
            raise Empty from None

    def get_nowait(self) -> Waiting | None:
        """See Channel."""
        try:
            return self._queue.get_nowait()
        except asyncio.QueueEmpty:
            raise Empty from None


class UnitQueue:
    """Units in the order in which they are to run. `take` forms batches of them."""

    def __init__(self, channel: Channel, *, pace: Pace, deferral_seconds_max: float) -> None:
        self._channel = channel
        self.put = channel.put
        """Add a unit at the end."""
        self.arrived = channel.qsize
        """How many units wait, but for those that were put back."""
        self._pace = pace
        self._deferral_seconds_max = deferral_seconds_max
        self._returned: list[Waiting] = []

    def __len__(self) -> int:
        return self._channel.qsize() + len(self._returned)

    def put_back(self, units: Sequence[Waiting]) -> None:
        """Put units that were taken and not written in front of all others."""
        self._returned.extend(units)

    def close(self) -> None:
        """Let `take` return nothing once all that was put before is taken."""
        self._channel.put(None)

    async def take(self, idle_seconds_max: float | None) -> list[Waiting] | None:
        """Wait for a unit and take it with all others that wait; an empty list once closed.

        None when no unit came for `idle_seconds_max`. Deferrable units alone are held for others,
        at most `deferral_seconds_max` from the first of them.
        """
        batch, self._returned = self._returned, []
        units, get = self._pace.units, self._channel.get_nowait
        try:
            if not batch:  # units that were taken before have waited enough
                await self._take_first(batch, units, idle_seconds_max)
            while len(batch) < units:
                waiting = get()
                if waiting is None:
                    self.put(None)  # for the next call, which then finds nothing before it
                    break
                batch.append(waiting)
        except Empty:
            return batch or None
        return batch

    async def _take_first(self, batch: list[Waiting], units: int, timeout: float | None) -> None:
        """Take units until one that cannot be deferred. Raises queue.Empty when none comes."""
        latest = 0.0
        while len(batch) < units:
            waiting = await self._channel.get(timeout)
            if waiting is None:
                self.put(None)
                return
            if not batch:
                latest = monotonic() + self._deferral_seconds_max
            batch.append(waiting)
            if not waiting.deferrable:
                return
            timeout = max(0.0, latest - monotonic())

    def fail(self, error: StoreUnavailable) -> None:
        """Answer all units that wait with that error."""
        waiting, self._returned = self._returned, []
        with suppress(Empty):
            while True:
                each = self._channel.get_nowait()
                if each is not None:
                    waiting.append(each)
        fail(waiting, error)


def deliver(batch: Sequence[Waiting]) -> None:
    """Wake the callers. A caller that was cancelled meanwhile is left alone."""
    for waiting in batch:
        if waiting.moved or waiting.future.done():
            continue
        if waiting.error is None:
            waiting.future.set_result(waiting.value)
        else:
            waiting.future.set_exception(waiting.error)


def fail(batch: Sequence[Waiting], error: StoreUnavailable) -> None:
    """Answer every unit of a batch with an error of its own."""
    for waiting in batch:
        waiting.error = type(error)(str(error))
        waiting.error.__cause__ = error.__cause__
    deliver(batch)
