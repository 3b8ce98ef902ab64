"""One live saga in this process: its state, its inbox, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque

from stage.core import events as e
from stage.core.saga import Saga
from stage.engine.context import Context
from stage.ports.observer import Span
from stage.ports.store import SagaRow


class RunOver(Exception):
    """The run left memory before it took the event; the saga has to be opened anew."""


class Letter:
    """An event for a run, and the future that is done once it is durable."""

    __slots__ = ("durable", "event")

    def __init__(self, event: e.Event, durable: asyncio.Future[None] | None = None) -> None:
        self.event = event
        self.durable = durable


class Run:
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
        self.inbox: deque[Letter] = deque()
        self.in_flight = 0
        self.sends: dict[asyncio.Task[None], None] = {}
        """The tasks of what is in flight."""
        self.changes = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the saga is durably there; carries why it could not be."""
        self.resumed = False
        """True when nobody asked for this run: it was taken over."""
        self.replayed = False
        """True when the saga had ended before this run looked at it."""
        self._woken: asyncio.Future[None] | None = None
        self._watchers: dict[asyncio.Future[None], None] = {}
        """In the order in which they came: a set of futures has another order in every run."""
        self.over = False

    def post(self, event: e.Event) -> None:
        """Put an event into the inbox."""
        self.inbox.append(Letter(event))
        self._wake()

    async def post_durably(self, event: e.Event) -> None:
        """Put an event into the inbox and return once it is durable. Raises RunOver."""
        if self.over:
            raise RunOver
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.inbox.append(Letter(event, durable))
        self._wake()
        await durable

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Return when something is in the inbox, or after that many seconds."""
        if self.inbox:
            return
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(seconds, 0.0), self._wake)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()

    def changed(self) -> None:
        """Tell who waits that the saga has changed durably."""
        self.changes += 1
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def watch(self, seconds: float) -> bool:
        """Return True after the next change, False when that many seconds went by without."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers[watcher] = None
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await watcher
            return True
        except TimeoutError:
            return False
        finally:
            self._watchers.pop(watcher, None)

    @property
    def watched(self) -> bool:
        """True while somebody waits for a change."""
        return bool(self._watchers)
