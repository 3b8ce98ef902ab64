"""One live saga in this process: its state, its inbox, and the callers that wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from msgspec import UNSET

from stage.core import events as e
from stage.core.saga import Saga
from stage.engine.saga.context import Context, Output
from stage.engine.saga.fast_path import AnyTransition, FastTransition
from stage.engine.saga.journal import Stored
from stage.engine.saga.opening import OpenRequest
from stage.ports.observer import Span
from stage.ports.store import SagaRow


class NotLive(Exception):
    """The saga left memory before it took the event; it has to be opened anew."""


class InboxItem:
    """An event for a live saga.

    `durable` is done once the event is journaled, `span` ends then; `mail` is the number under
    which another replica sent it.
    """

    __slots__ = ("durable", "event", "mail", "span")

    def __init__(
        self,
        event: e.Event,
        durable: asyncio.Future[None] | None = None,
        span: Span | None = None,
        mail: int | None = None,
    ) -> None:
        self.event = event
        self.durable = durable
        self.span = span
        self.mail = mail

    @property
    def is_end(self) -> bool:
        """Whether an attempt ended here, and nobody waits for the event."""
        return self.durable is None and self.mail is None


class LiveSaga:
    """The state of one saga while this process works on it. Touched from the event loop only."""

    transition: AnyTransition | None = None
    """Where the last unit left it."""
    context: Context | None = None
    row: SagaRow | None = None
    span: Span | None = None
    in_flight = 0
    is_open = False
    """True once the saga is durably there."""
    refusal: Exception | None = None
    """Why it could not be opened."""
    recovered = False
    """True when no caller asked for it: recovery opened it."""
    replayed = False
    """True when the saga had ended before it was opened here."""
    lost = False
    """True when another replica took the saga, or may have: nothing is sent any more."""
    over = False
    interrupt: Callable[[], None] | None = None
    """Called once when something comes while the task of the saga awaits an attempt."""
    _opened: asyncio.Future[None] | None = None
    _woken: asyncio.Future[None] | None = None

    def __init__(self, request: OpenRequest) -> None:
        self.request = request
        self.saga_id = request.saga_id
        self.inbox: deque[InboxItem] = deque()
        self.sends: dict[asyncio.Task[None], None] = {}
        """The tasks of what is in flight."""
        self._watchers: dict[asyncio.Future[bool], Callable[[LiveSaga], bool]] = {}
        """In the order in which they came: a set of futures has another order in every run."""

    @property
    def opened(self) -> asyncio.Future[None]:
        """Done once the saga is durably there; carries why it could not be.

        Most sagas are there before anybody asks for it.
        """
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._opened.add_done_callback(retrieve)
            self._settle_opened()
        return self._opened

    def set_open(self) -> None:
        """It is durably there, unless it was refused."""
        if self.refusal is None:
            self.is_open = True
            self._settle_opened()

    def refuse(self, error: Exception) -> None:
        """It could not be opened, unless it is there."""
        if not self.is_open and self.refusal is None:
            self.refusal = error
            self._settle_opened()

    def _settle_opened(self) -> None:
        opened = self._opened
        if opened is None or opened.done():
            return
        if self.is_open:
            opened.set_result(None)
        elif self.refusal is not None:
            opened.set_exception(self.refusal)

    @property
    def saga(self) -> Saga | None:
        """The state of the saga, folded here on the fast path; None while it is being opened."""
        return None if self.transition is None else self.transition.saga

    @property
    def output(self) -> Output:
        """The output of the stage, where this run has asked for it."""
        return UNSET if self.transition is None else self.transition.output

    @property
    def on_fast_path(self) -> bool:
        """Whether it is on the fast path: neither parked nor pending nor in doubt."""
        return isinstance(self.transition, FastTransition)

    def go_on_from(self, stored: Stored) -> None:
        """Take what the last unit left, and wake the callers that wait for it."""
        transition = stored.transition
        self.transition, self.context, self.row = transition, stored.context, stored.row
        if stored.replayed:
            self.replayed = True
        if stored.span is not None:
            self.span = stored.span
        if self._watchers and transition.events:
            self.changed()

    def lose(self) -> None:
        """Stop: another replica owns the saga."""
        self.lost = True
        self.stop_sending()
        self.rouse()

    def stop_sending(self) -> None:
        """Cancel what is in flight: nothing may run beside the saga opened anew (rule 10)."""
        for sending in list(self.sends):
            sending.cancel()

    def post(self, event: e.Event, span: Span | None = None, mail: int | None = None) -> None:
        """Put the end of an attempt, or an event out of the mail, into the inbox."""
        self.inbox.append(InboxItem(event, span=span, mail=mail))
        self.rouse()

    def post_durably(self, event: e.Event) -> asyncio.Future[None]:
        """Put an event into the inbox; the future is done once it is durable. Raises NotLive."""
        if self.over:
            raise NotLive
        durable = asyncio.get_running_loop().create_future()
        durable.add_done_callback(retrieve)
        self.inbox.append(InboxItem(event, durable))
        self.rouse()
        return durable

    def rouse(self) -> None:
        """Let `wait` return; while an attempt is awaited in its place, let another task wait."""
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            interrupt()
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, seconds: float | None) -> bool:
        """Wait until something is in the inbox, or that many seconds; False when it is lost."""
        if self.inbox or self.lost:
            return not self.lost
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(seconds, 0.0), self.rouse)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()
        return not self.lost

    def changed(self) -> None:
        """Wake the callers that wait for this change; all of them when the saga left memory."""
        for watcher, wanted in self._watchers.items():
            if not watcher.done() and (self.over or wanted(self)):
                watcher.set_result(True)

    async def watch(self, until: float, wanted: Callable[[LiveSaga], bool]) -> bool:
        """Return True after a change that is wanted, or when the saga left memory.

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
        """True while a caller waits for a change."""
        return bool(self._watchers)


async def settled(future: asyncio.Future[None], until: float) -> bool:
    """Wait until the future is done, and raise what it carries; False when it is not by `until`.

    `until` is an instant of the event loop's clock. Giving up leaves the future alone.
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
    """Mark the error of the future as retrieved: no caller may be waiting for it any more."""
    if not future.cancelled():
        future.exception()


def _release(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
