"""The units of a live saga: open it, journal its inbox and act, park it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from stage.core import events as e
from stage.core.errors import StageError, StoreUnavailable
from stage.core.machine import evolve
from stage.core.saga import Saga
from stage.core.states import ParkCause
from stage.engine.embedded.limits import STORE_RETRY
from stage.engine.embedded.live_saga import InboxItem, LiveSaga, NotLive, settled
from stage.engine.saga.attempts import end_span
from stage.engine.saga.context import Context, Output
from stage.engine.saga.fast_path import AnyTransition, Awaited, FastPath, FastTransition
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal, Stored
from stage.engine.saga.opening import Opening
from stage.engine.saga.repeats import act_key_of, refuse_repeat
from stage.ports.clock import Clock
from stage.ports.engine import ActRepeated, KeyReused, NotAllowed
from stage.ports.observer import Span
from stage.ports.store import Store, Unit
from stage.wire.text import sendable

T = TypeVar("T")
Act = Callable[[Unit, Saga, Context, Sequence[e.Event], Span, Output], Awaitable[AnyTransition]]


class LiveUnits:
    """Runs units until they are durable, unless the process stops."""

    def __init__(
        self,
        interpreter: Interpreter,
        opening: Opening,
        journal: Journal,
        store: Store,
        clock: Clock,
        fast_path: FastPath | None = None,
    ) -> None:
        """New sagas begin on the `fast_path`, where there is one."""
        self._fast_path = fast_path
        self._interpreter = interpreter
        self.plan = interpreter.plan
        """The plan of the newest version."""
        self._opening = opening
        self._journal = journal
        self._store = store
        self._clock = clock
        self._concluding: dict[LiveSaga, asyncio.Future[None] | None] = {}
        """The sagas whose end was answered and is not written yet; a future where it is awaited."""
        self.stopping = False
        """True once no unit may wait for a database that is away."""

    @property
    def concluding(self) -> int:
        """How many ends were answered for and are not durable yet."""
        return len(self._concluding)

    async def written(self, until: float) -> None:
        """Return when all that was answered for by now is durable, at the latest at `until`."""
        for live in list(self._concluding):
            if live not in self._concluding:
                continue  # it was written down meanwhile
            awaited = self._concluding[live]
            if awaited is None:
                awaited = asyncio.get_running_loop().create_future()
                self._concluding[live] = awaited
            await settled(awaited, until)

    async def open(self, live: LiveSaga) -> AnyTransition | None:
        """Accept the saga, or take it over; None when there is nothing to run."""
        request = live.request
        # A caller that waits for the answer asks again while the database is away.
        open_saga = self._store.transact if request.awaited else self._persist
        stored = await open_saga(partial(self._opening.first, request=request))
        if stored is None:
            return None
        live.go_on_from(stored)
        self._journal.report(stored)
        return stored.transition

    def advance(self, live: LiveSaga, items: Sequence[InboxItem]) -> Awaitable[AnyTransition]:
        """Journal what is in the inbox and act on it, in one unit."""
        if len(items) == 1 and items[0].is_end:
            return self.end_attempt(live, items[0].event, items[0].span)
        return self._interpret(live, items)

    def end_attempt(
        self, live: LiveSaga, event: e.Event, span: Span | None
    ) -> Awaitable[AnyTransition]:
        """Journal the end of the only attempt and act on it; it ends that span."""
        before, fast_path = live.transition, self._fast_path
        if fast_path is not None and isinstance(before, FastTransition) and before.awaits(event):
            return self._advance_on_fast_path(fast_path, live, before, event, span)
        return self._interpret(live, (InboxItem(event, span=span),))

    async def _interpret(self, live: LiveSaga, items: Sequence[InboxItem]) -> AnyTransition:
        """Journal the items and act on them as the rules say."""
        assert live.saga is not None and live.context is not None
        saga, context, output = live.saga, live.context, live.output
        mail = [item.mail for item in items if item.mail is not None]
        if live.row is not None and live.row.closed_at is not None:
            items = _left_out(items)  # its row would be written as if it was open
        elif any(isinstance(item.event, e.Verb) for item in items):
            items = self._allowed(saga, await self._without_repeats(items))
        events = [item.event for item in items]
        if live.span is None:  # opened to answer from what is stored, and now there is work
            live.span = self._opening.begin_span(live.request, saga, context.trace)
        span = live.span

        # Unless it is sure a stale saga would answer (rule 17). Mail is dropped in a unit with it.
        if events and not mail and self._store.ownership.sure:
            transition = self._interpreter.conclude(saga, context, events, span, output)
            if transition is not None:
                return await self._conclude(live, transition, items)

        async def work(unit: Unit) -> Stored:
            act = self._act_on(events)
            transition = await act(unit, saga, context, events, span, output)
            stored = self._journal.store(
                transition, context, before=live.row, in_flight=live.in_flight > 0
            )
            # A saga that was taken over and has only to wait is not due now any more.
            due_moved = live.row is not None and stored.row.due_at != live.row.due_at
            if transition.events or due_moved:
                await self._journal.write(unit, stored, epoch=saga.epoch, mail=mail)
            elif mail:
                await unit.received(mail)
            return stored

        stored = await self._persist(work)
        live.go_on_from(stored)
        self._report(stored, items)
        return stored.transition

    def _act_on(self, events: Sequence[e.Event]) -> Act:
        """The function that acts on them: a request to compensate may turn a usual saga round."""
        if self._fast_path is not None and list(map(type, events)) == [e.CompensationRequested]:
            return self._fast_path.turn
        return self._interpreter.advance

    async def _advance_on_fast_path(
        self,
        fast_path: FastPath,
        live: LiveSaga,
        before: FastTransition,
        event: Awaited,
        span: Span | None,
    ) -> AnyTransition:
        """Go on on the fast path, with the one answer that the saga awaited."""
        context, row, run = live.context, live.row, live.span
        assert context is not None and row is not None and run is not None
        if self._store.ownership.sure:
            fast = fast_path.conclude(before, context, event, run)
            if fast is not None:
                return await self._conclude(live, fast, (InboxItem(event, span=span),))

        async def work(unit: Unit) -> Stored:
            transition = await fast_path.go_on(unit, before, context, event, run)
            stored = self._journal.store(transition, context, before=row)
            await self._journal.write(unit, stored, epoch=row.epoch)
            return stored

        stored = await self._persist(work)
        live.go_on_from(stored)
        self._journal.report(stored)
        if span is not None:
            end_span(span, event)
        return stored.transition

    async def _conclude(
        self, live: LiveSaga, transition: AnyTransition, items: Sequence[InboxItem]
    ) -> AnyTransition:
        """Answer for a saga that completed, and write its end behind the answer.

        When the process dies in between, the forward is in doubt and repeated under the same key;
        downstream answers as before, and the saga completes as it was answered (decision 0011).
        """
        row, context = live.row, live.context
        assert row is not None and context is not None
        in_flight = live.in_flight > 0
        stored = self._journal.store(transition, context, before=row, in_flight=in_flight)
        live.go_on_from(stored)
        write = partial(self._journal.write, stored=stored, epoch=row.epoch)
        self._concluding[live] = None
        try:
            await self._persist(write, deferrable=True)
        finally:
            awaited = self._concluding.pop(live)
            if awaited is not None:
                awaited.set_result(None)
        self._report(stored, items)
        return transition

    def rested(self, live: LiveSaga) -> None:
        """A saga leaves memory with nothing in flight: it is not folded anew when it goes on."""
        if live.on_fast_path:
            return  # it never waited
        if live.row is not None and live.saga is not None and live.context is not None:
            self._opening.folds.keep(live.row, live.saga, live.context.trace.baggage)

    async def _without_repeats(self, items: Sequence[InboxItem]) -> Sequence[InboxItem]:
        """The items without the orders that were given under their keys before.

        Only this live saga writes the verbs of its saga down, so that none comes in between. An
        order that is among the items twice is to be given again: its first may be refused.
        """
        first: list[InboxItem] = []
        seen: set[str] = set()
        for item in items:
            key = act_key_of(item.event)
            if key is None:
                first.append(item)
                continue
            try:
                if key.key in seen:
                    raise NotLive
                await self._persist(partial(refuse_repeat, key=key))
            except (ActRepeated, KeyReused, NotLive) as error:
                _refuse(item, error)
            else:
                seen.add(key.key)
                first.append(item)
        return first

    def _allowed(self, saga: Saga, items: Sequence[InboxItem]) -> Sequence[InboxItem]:
        """The items without the verbs that are not allowed now; their senders get the reason."""
        allowed: list[InboxItem] = []
        for item in items:
            try:
                self._opening.check(saga, item.event)
            except NotAllowed as error:
                _refuse(item, error)
                continue
            saga = evolve(saga.under(self.plan), saga, item.event)
            allowed.append(item)
        return allowed

    def _report(self, stored: Stored, items: Sequence[InboxItem]) -> None:
        """Report what has become durable, to the observer and to the senders of the items."""
        self._journal.report(stored)
        for item in items:
            if item.span is not None:
                end_span(item.span, item.event)
            if item.durable is not None and not item.durable.done():
                item.durable.set_result(None)

    async def park(self, live: LiveSaga, cause: ParkCause, reason: str) -> bool:
        """Park a saga that cannot be run: it must not be tried for ever, nor stop the others.

        False when the saga is over, so that there is nothing to park.
        """
        row = live.row or await self._store.get(live.saga_id)
        if row is None or row.answered:
            return False
        if row.parked == sendable(reason) and row.due_at is None:
            return True  # so it is already, however often its neighbours ask
        stored = self._journal.park(row, cause, reason, self._clock.now())
        try:
            await self._store.transact(
                lambda unit: self._journal.write(unit, stored, epoch=row.epoch)
            )
        except (StoreUnavailable, StageError, ValueError):
            return True  # away, or another one wrote: it stays due, and the next scan finds it
        self._journal.report(stored)
        return True

    async def _persist(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """Run a unit until it is durable: the database may be away for long (rule 16)."""
        attempt = 0
        while True:
            try:
                return await self._store.transact(work, deferrable=deferrable)
            except StoreUnavailable:
                if self.stopping:
                    raise
                attempt += 1
                await self._clock.sleep(STORE_RETRY.backoff_seconds(attempt, "store"))


def _left_out(items: Sequence[InboxItem]) -> Sequence[InboxItem]:
    """Leave out all items: their senders open the saga anew, and are answered from its row."""
    for item in items:
        _refuse(item, NotLive())
    return ()


def _refuse(item: InboxItem, error: Exception) -> None:
    """Leave an item out, and let its sender know why."""
    if item.durable is not None and not item.durable.done():
        item.durable.set_exception(error)
