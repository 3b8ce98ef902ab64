"""One live saga in this process: its state, its inbox, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from stage.core import events as e
from stage.core.saga import Saga
from stage.engine.saga.context import Context
from stage.ports.observer import Span
from stage.ports.store import SagaRow


class NotLive(Exception):
    """The run left memory before it took the event; the saga has to be opened anew."""


class InboxItem:
    """An event for a run, the future that is done once it is durable, and the span it ends then."""

    __slots__ = ("durable", "event", "span")

    def __init__(
        self,
        event: e.Event,
        durable: asyncio.Future[None] | None = None,
        span: Span | None = None,
    ) -> None:
        self.event = event
        self.durable = durable
        self.span = span


class LiveSaga:
    """The state of one saga while this process works on it. Touched from the event loop only."""

    def __init__(self, saga_id: str) -> None:
        self.saga_id = saga_id
        self.saga: Saga | None = None
        self.context: Context | None = None
        self.row: SagaRow | None = None
        self.offer: tuple[Context, e.Accepted] | None = None
        """What to accept when the saga turns out to be unknown."""
        self.signal: e.CompensationRequested | e.Verb | None = None
        """What the run was opened for. An unknown saga that is to be compensated is buried."""
        self.span: Span | None = None
        self.inbox: deque[InboxItem] = deque()
        self.in_flight = 0
        self.sends: dict[asyncio.Task[None], None] = {}
        """The tasks of what is in flight."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the saga is durably there; carries why it could not be."""
        self.opened.add_done_callback(retrieve)
        self.resumed = False
        """True when nobody asked for this run: it was taken over."""
        self.replayed = False
        """True when the saga had ended before this run looked at it."""
        self._woken: asyncio.Future[None] | None = None
        self._watchers: dict[asyncio.Future[bool], Callable[[LiveSaga], bool]] = {}
        """In the order in which they came: a set of futures has another order in every run."""
        self.over = False

    def post(self, event: e.Event, span: Span) -> None:
        """Put the end of an attempt into the inbox."""
        self.inbox.append(InboxItem(event, span=span))
        self.rouse()

    def post_durably(self, event: e.Event) -> asyncio.Future[None]:
        """Put an event into the inbox; the future is done once it is durable. Raises RunOver."""
        if self.over:
            raise NotLive
        durable = asyncio.get_running_loop().create_future()
        durable.add_done_callback(retrieve)
        self.inbox.append(InboxItem(event, durable))
        self.rouse()
        return durable

    def rouse(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Return when something is in the inbox, or after that many seconds."""
        if self.inbox:
            return
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(seconds, 0.0), self.rouse)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()

    def changed(self) -> None:
        """Tell who waits that the saga has changed durably, or that the run is over."""
        for watcher, wanted in self._watchers.items():
            if not watcher.done() and (self.over or wanted(self)):
                watcher.set_result(True)

    async def watch(self, until: float, wanted: Callable[[LiveSaga], bool]) -> bool:
        """Return True after a change that is wanted, or when the run is over.

        False when there was none by `until`, an instant of the event loop's clock.
        """
        loop = asyncio.get_running_loop()
        watcher: asyncio.Future[bool] = loop.create_future()
        self._watchers[watcher] = wanted
        timer = loop.call_at(until, _release, watcher)
        try:
            return await watcher
        finally:
            timer.cancel()
            self._watchers.pop(watcher, None)

    @property
    def watched(self) -> bool:
        """True while somebody waits for a change."""
        return bool(self._watchers)


async def settled(future: asyncio.Future[None], until: float) -> bool:
    """Wait until the future is done, and raise what it carries; False when it is not by `until`.

    `until` is an instant of the event loop's clock. Who gives up waiting leaves the future alone.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()

        def wake(_: asyncio.Future[None]) -> None:
            _release(waiter)

        timer = loop.call_at(until, _release, waiter)
        future.add_done_callback(wake)
        try:
            await waiter
        finally:
            timer.cancel()
            future.remove_done_callback(wake)
        if not future.done():
            return False
    future.result()
    return True


def retrieve(future: asyncio.Future[None]) -> None:
    """Take what the future carries for seen: nobody may be waiting for it any more."""
    if not future.cancelled():
        future.exception()


def _release(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
