"""The first unit of a live saga: accept it, bury it, or take it over under a new epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import msgspec

from stage.core import events as e
from stage.core.errors import JournalMismatch, NewerJournal
from stage.core.lost import events_after_restore
from stage.core.machine import (
    asked_before,
    at_rest,
    evolve,
    heard_before,
    landed_behind_close,
    lands_behind_close,
)
from stage.core.questions import awaits_opener, belongs_to, is_in_flight
from stage.core.saga import Saga
from stage.core.states import ParkCause, SagaState
from stage.core.unseen import Unseen
from stage.core.verbs import refuse_verb
from stage.engine.saga.closing import refuse_closed
from stage.engine.saga.context import (
    Context,
    baggage_of,
    bare_saga,
    buried,
    context_of,
    with_baggage,
)
from stage.engine.saga.cut_off import CutOff, cut_off
from stage.engine.saga.dropped import DroppedRows
from stage.engine.saga.fast_path import AnyTransition, FastPath
from stage.engine.saga.folds import Folds
from stage.engine.saga.interpreter import Interpreter, Transition
from stage.engine.saga.journal import Journal, Stored
from stage.engine.saga.repeats import act_key_of, refuse_repeat
from stage.engine.saga.tombstones import REASON_CHARS_MAX
from stage.ports.author_code import AuthorCode
from stage.ports.clock import Clock
from stage.ports.engine import LeftToNewer, NotAllowed, NotYours, OpenerUnknown
from stage.ports.observer import DroppedKind, Observer, Span, TraceContext
from stage.ports.ownership import HeldElsewhere
from stage.ports.store import LOST_SAGAS_MAX, UNKEPT, LostSaga, SagaRow, Store, Unit

DEATHS_MAX = 2
"""Processes that may die in the code of one saga: at the third start it waits for a person."""
LATE = "the deadline was over on arrival"
NO_ROOM = f"more than {LOST_SAGAS_MAX} requests about lost sagas: those of others were not kept"


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A saga to accept if it is new.

    One is `late` whose deadline was over when it came: of a new saga nothing is run then.
    """

    context: Context
    accepted: e.Accepted
    late: bool

    @property
    def first(self) -> tuple[Context, e.Accepted | e.Tombstoned]:
        """The first event of a new saga, and its context: accepted, or buried if it is late.

        Its sender takes the answer for final, so no repeat may run (decision 0041).
        """
        accepted = self.accepted
        if not self.late:
            return self.context, accepted
        by = accepted.upstream or "unknown"
        return buried(self.context.trace), e.Tombstoned(
            at=accepted.at, requested_by=by, reason=LATE
        )


_CHANGES_THE_WAY = (e.CompensationRequested, e.Verb)
_REQUESTS = (e.Accepted, e.AnswerDeferred, e.Webhook, *_CHANGES_THE_WAY)
"""A run acts on these in the unit that journals them, unless they were only written down."""

Signal = e.CompensationRequested | e.Verb | e.AnswerDeferred | e.Webhook
"""An event that may be asked of a saga that exists."""


class OpenRequest(msgspec.Struct, eq=False, kw_only=True):
    """Why a saga is opened: it is offered, something is asked of it, or it has only to go on.

    An unknown saga that is asked to compensate, or `barred`, is buried. `trace` is that of the
    request, `mail` the numbers of the mail that the signal came in.
    """

    saga_id: str
    offer: Offer | None = None
    signal: Signal | None = None
    barred: e.Tombstoned | None = None
    trace: TraceContext = TraceContext()
    mail: tuple[int, ...] = ()
    deposit: bool = False
    """Only write down what is offered or asked: a scheduler says when and where it is run."""
    unseen: Unseen = Unseen.NEW
    """The proof that the request brings, in case there is no such saga."""
    first_sent_at: float | None = None

    @property
    def awaited(self) -> bool:
        """True when a caller waits for it, and can ask again."""
        if self.offer is not None or self.barred is not None:
            return True
        return self.signal is not None and not self.mail


class _Found(NamedTuple):
    """A stored saga that is to be run; `lost` are its attempts in flight when it was lost.

    `asked` says that its last entry is a request, and that no run has acted on it.
    """

    row: SagaRow
    saga: Saga
    context: Context
    lost: tuple[CutOff, ...]
    asked: bool = False


class Opening:
    """Opens sagas; each method runs within a unit of the store."""

    # Many because it is made in one place, of parts that belong to other rooms of the engine.
    def __init__(
        self,
        interpreter: Interpreter,
        journal: Journal,
        store: Store,
        observer: Observer,
        clock: Clock,
        admit: Callable[[OpenRequest], None],
        code: AuthorCode,
        dropped: DroppedRows,
        fast_path: FastPath | None = None,
    ) -> None:
        """`admit` raises Busy for a new saga, or a tombstone, that is not to be taken on.

        A new saga begins on the `fast_path`, where there is one.
        """
        self._fast_path = fast_path
        self._interpreter = interpreter
        self._plan = interpreter.plan
        self._journal = journal
        self._codec = store.codec
        self._store = store
        self._observer = observer
        self._clock = clock
        self._admit = admit
        self._code = code
        self._dropped = dropped
        self.folds = Folds()
        """The states of sagas that left memory to wait."""

    async def first(self, unit: Unit, request: OpenRequest) -> Stored | None:
        """The first unit: accept, bury, or take over. None when there is nothing to open.

        Raises HeldElsewhere when a live other replica owns the saga, and ActRepeated for a verb
        that was ordered under its key before.
        """
        row = await unit.take(request.saga_id)
        if request.signal is not None:
            await refuse_repeat(unit, act_key_of(request.signal))
        if row is None:
            # While a restored database awaits its release, every saga that it lacks may come back.
            if not self._store.identity.awaits_release:
                await self._dropped.refuse_in(unit, request.saga_id)
            return await self._begin(unit, request)
        context = context_of(row, self._codec)
        self._observer.bind(request.saga_id, context.trace)  # for the functions of this unit
        if row.closed_at is not None:
            return await self._closed(unit, request, row, context)
        try:
            found = await self._found(unit, row, context)
        except JournalMismatch as error:
            if isinstance(request.signal, e.Forgotten) and not isinstance(error, NewerJournal):
                return await self._forget_unread(unit, request.signal, row, context)
            if not _answered_for_good(row, request):
                raise
            return self._replay(request, row, context, bare_saga(row))
        saga, context = found.saga, found.context
        if isinstance(request.signal, e.CompensationRequested):
            self.check(saga, request.signal)  # also where the request would change nothing
        asked = self._asked(saga, request)
        if saga.under(self._plan).newer:
            return await self._leave_alone(unit, request, found, asked)
        if not asked and (saga.ended or saga.parked) and row.due_at is None:
            return self._replay(request, row, context, saga)
        if request.deposit:
            return await self._deposit(unit, request, found, asked)
        return await self._take_over(unit, request, found, asked)

    async def _closed(
        self, unit: Unit, request: OpenRequest, row: SagaRow, context: Context
    ) -> Stored:
        """A saga whose journal was dropped: it is answered from its row, and runs no more.

        Where an API says late that a call of it landed, a person is asked, who forgets it in the
        end: nothing but its row is written by either.
        """
        saga, signal = bare_saga(row), request.signal
        plan = self._interpreter.versions.of(saga).plan
        saga = msgspec.structs.replace(saga, plan=None if plan is self._plan else plan)
        events: list[e.Event]
        if isinstance(signal, e.WebhookFound) and lands_behind_close(plan, saga, signal):
            saga, parked = landed_behind_close(plan, saga, signal)
            failed = e.FailedToCompensate(at=signal.at, stands=(signal.step,))
            events = [signal, failed, parked]
        elif row.parked and isinstance(signal, e.Forgotten):
            events = [signal]
        else:
            if isinstance(signal, e.Verb) and (why := refuse_closed(row, signal)):
                raise NotAllowed(why)
            return self._replay(request, row, context, saga)
        transition = self._interpreter.note(saga, events, self._clock.now())
        transition.rest_until = None
        stored = self._journal.store(transition, context, before=row)
        return await self._journal.write_closed(unit, stored)

    async def _forget_unread(
        self, unit: Unit, verb: e.Forgotten, row: SagaRow, context: Context
    ) -> Stored:
        """Forget a saga by its row alone: nothing else ends one whose journal cannot be read."""
        saga = bare_saga(row)
        self.check(saga, verb)
        transition = self._interpreter.note(saga, [verb], self._clock.now())
        transition.rest_until = None
        stored = self._journal.store(transition, context, before=row)
        await self._journal.write(unit, stored, epoch=row.epoch)
        return stored

    async def _found(self, unit: Unit, row: SagaRow, context: Context) -> _Found:
        """The stored saga, folded from its journal. Raises JournalMismatch."""
        kept = self.folds.find(row)
        if kept is not None:
            return _Found(row, kept.saga, with_baggage(context, kept.baggage), ())
        entries = await unit.journal(row.id)
        saga = self._interpreter.fold(row.id, entries)
        lost = cut_off(entries)
        asked = not lost and isinstance(entries[-1].event, _REQUESTS)
        return _Found(row, saga, with_baggage(context, baggage_of(entries)), lost, asked)

    def _asked(self, saga: Saga, request: OpenRequest) -> list[e.Event]:
        """The signal, unless it changes nothing of the saga; AnswerDeferred for a caller of 202."""
        signal, offer = request.signal, request.offer
        if offer is not None and offer.accepted.deferred:
            signal = e.AnswerDeferred(at=offer.accepted.at)
        match signal:
            case None:
                return []
            case e.CompensationRequested():
                return [] if asked_before(saga.under(self._plan), saga, signal) else [signal]
            case e.WebhookFound() | e.WebhookRefused():
                return [] if heard_before(saga.under(self._plan), saga, signal) else [signal]
            case e.AnswerDeferred():
                return [] if saga.ended or saga.deferred else [signal]
            case _:
                return [signal]

    async def _take_over(
        self,
        unit: Unit,
        request: OpenRequest,
        found: _Found,
        asked: list[e.Event],
    ) -> Stored:
        """Go on with a saga under the next epoch: what was in flight is in doubt from here on."""
        saga, context, lost = found.saga, found.context, found.lost
        now, held = self._clock.now(), saga.epoch
        plan = saga.under(self._plan)
        at = min([now, *(event.at for event in asked)])
        generation = self._store.identity.generation
        recovered = e.Recovered(
            at=at,
            epoch=held + 1,
            # The doubts of a restore are left to a release that knows the steps.
            generation=saga.generation if plan.misfit else generation,
            rested=at_rest(plan, saga) or found.asked,
            innocent=self._code.innocent(saga.id),
        )
        restored = events_after_restore(plan, saga, generation, at)
        for event in asked:  # a yes to what the restore turns back must not be said to count
            self.check(reduce(partial(evolve, plan), (recovered, *restored), saga), event)
        turned = any(isinstance(event, _CHANGES_THE_WAY) for event in asked)
        asked = [*restored, *asked]
        if not (saga.ended or turned):
            asked = [*asked, *self._parked_for_deaths(saga.id, at)]
        span = self.begin_span(request, saga, context.trace, lost)
        transition: AnyTransition
        if saga.recoveries or not turned:
            # The new epoch is durable before anything is run, so that a saga that takes the process
            # down with it is seen to do so (rule 15).
            transition = self._interpreter.note(saga, [recovered, *asked], now)
        else:
            act = self._interpreter.advance if self._fast_path is None else self._fast_path.turn
            transition = await act(unit, saga, context, [recovered, *asked], span)
        stored = self._journal.store(transition, context, before=found.row, span=span)
        await self._journal.write(unit, stored, epoch=held, mail=request.mail)
        return msgspec.structs.replace(stored, cut_off=lost)

    async def _deposit(
        self, unit: Unit, request: OpenRequest, found: _Found, asked: list[e.Event]
    ) -> Stored:
        """Write down what is asked, under the epoch of the last run: the next one acts on it."""
        row, saga, context = found.row, found.saga, found.context
        if not asked:
            return self._replay(request, row, context, saga)
        for event in asked:
            self.check(self._after_restore(saga), event)
        transition = self._interpreter.note(saga, asked, self._clock.now())
        if all(isinstance(event, e.AnswerDeferred) for event in asked):
            transition.rest_until = row.due_at  # it changes no action
        stored = self._journal.store(transition, context, before=row)
        await self._journal.write(unit, stored, epoch=saga.epoch, mail=request.mail)
        return stored

    def _after_restore(self, saga: Saga) -> Saga:
        """The saga as the next run will find it, where that is the first since a restore."""
        plan, now = saga.under(self._plan), self._clock.now()
        generation = self._store.identity.generation
        if plan.misfit or saga.generation >= generation:
            return saga
        recovered = e.Recovered(at=now, epoch=saga.epoch + 1, generation=generation)
        restored = events_after_restore(plan, saga, generation, now)
        return reduce(partial(evolve, plan), (recovered, *restored), saga)

    async def _leave_alone(
        self, unit: Unit, request: OpenRequest, found: _Found, asked: list[e.Event]
    ) -> Stored:
        """A newer release accepted it, and goes on with it; a request to compensate is kept."""
        row, saga, context = found.row, found.saga, found.context
        kept = [event for event in asked if isinstance(event, e.CompensationRequested)]
        if not kept:
            if request.offer is not None and not row.answered:
                raise LeftToNewer(f"{saga.under(self._plan).misfit}: it goes on there")
            return self._replay(request, row, context, saga)
        transition = self._interpreter.note(saga, kept, self._clock.now())
        stored = self._journal.store(transition, context, before=row)
        await self._journal.write(unit, stored, epoch=saga.epoch, mail=request.mail)
        transition.rest_until = None  # it is due, and not here
        return msgspec.structs.replace(stored, replayed=True)

    def _replay(self, request: OpenRequest, row: SagaRow, context: Context, saga: Saga) -> Stored:
        """Nothing is to be run: the saga answers from what is stored."""
        if request.signal is not None:
            self.check(saga, request.signal)
        plan = saga.under(self._plan)
        transition = Transition(plan=plan, saga=saga, events=[], outgoing=[], rest_until=None)
        return Stored(context=context, row=row, transition=transition, replayed=True)

    async def _begin(self, unit: Unit, request: OpenRequest) -> Stored | None:
        """A new saga: accept what is offered, or bury what was to be compensated."""
        offer, barred, signal = request.offer, request.barred, request.signal
        parked: list[e.Event] = []
        if offer is not None:
            self._admit(request)
            context, first = offer.first
            if context is offer.context:
                parked = self._parked_for_deaths(request.saga_id, first.at)
        elif isinstance(signal, e.CompensationRequested):
            if request.unseen is not Unseen.NEW:
                await self._keep_lost(unit, request, signal)
                return None
            self._admit(request)
            context = buried(request.trace)
            first = e.Tombstoned(
                at=signal.at,
                requested_by=signal.requested_by or "unknown",
                reason=signal.reason[:REASON_CHARS_MAX],
            )
        elif barred is not None:
            self._admit(request)
            context, first = buried(request.trace), barred
        else:
            return None
        return await self._begin_with(unit, request, context, [first, *parked])

    async def _begin_with(
        self, unit: Unit, request: OpenRequest, context: Context, events: list[e.Event]
    ) -> Stored:
        """The first events of a new saga and what follows from them, on the fast path if it may."""
        saga, fast_path = Saga(id=request.saga_id), self._fast_path
        if request.deposit and isinstance(events[0], e.Accepted):
            return await self._accept_only(unit, saga, context, events)
        span = self._observer.run(request.saga_id, self._plan.stage, context.trace, ())
        transition: AnyTransition
        if fast_path is not None and len(events) == 1:
            transition = await fast_path.begin(unit, saga, context, events[0], span)
        else:
            transition = await self._interpreter.advance(unit, saga, context, events, span)
        stored = self._journal.store(transition, context, before=None, span=span)
        await self._journal.write(unit, stored, epoch=None, mail=request.mail)
        return stored

    async def _accept_only(
        self, unit: Unit, saga: Saga, context: Context, events: Sequence[e.Event]
    ) -> Stored:
        """Write a new saga down: its first run is still to come."""
        transition = self._interpreter.note(saga, events, events[0].at)
        stored = self._journal.store(transition, context, before=None)
        await self._journal.write(unit, stored, epoch=None)
        return stored

    async def _keep_lost(
        self, unit: Unit, request: OpenRequest, signal: e.CompensationRequested
    ) -> None:
        """Keep the request for an operator: a tombstone would say that nothing stands.

        Nothing is kept of a saga that may have been dropped for its age: nobody adopts it, so that
        it would take a place for good, and no release says that nothing of it stands.
        Raises HeldElsewhere when another replica has adopted the saga meanwhile.
        """
        if await self._dropped.has_in(unit, request.saga_id):
            return
        lost = LostSaga(
            saga_id=request.saga_id,
            requested_by=signal.requested_by,
            reason=signal.reason,
            asked_at=signal.at,
            first_sent_at=request.first_sent_at,
        )
        if not await unit.keep_lost(lost):
            raise HeldElsewhere(f"saga {request.saga_id} was adopted by another replica")
        kept = await unit.lost_requests(lost.saga_id)
        if all(each.requested_by != lost.requested_by for each in kept):
            others = LostSaga(
                saga_id=UNKEPT, requested_by="others", reason=NO_ROOM, asked_at=signal.at
            )
            await unit.keep_lost(others)
            self._observer.dropped(DroppedKind.LOST_REQUEST, 1)

    def _parked_for_deaths(self, saga_id: str, at: float) -> list[e.Event]:
        """Park a saga whose code took process after process down, before it runs again (rule 35).

        A verb and a new request to compensate let it run: other code comes next, or mended code.
        """
        suspicion = self._code.suspicion(saga_id)
        if suspicion is None or suspicion.deaths < DEATHS_MAX:
            return []
        reason = (
            f"{suspicion.deaths} processes died while {suspicion.step} ran for it: mend that"
            " function, then retry"
        )
        return [e.Parked(at=at, cause=ParkCause.KILLS_PROCESS, reason=reason)]

    def taken_up(self, saga: Saga) -> Saga:
        """A parked saga as the run finds it that a verb begins: no other run has it in flight."""
        if not (saga.parked and is_in_flight(saga)):
            return saga
        at, plan = self._clock.now(), saga.under(self._plan)
        left = e.Recovered(at=at, epoch=saga.epoch + 1, generation=saga.generation, rested=True)
        return evolve(plan, saga, left)

    def begin_span(
        self,
        request: OpenRequest,
        saga: Saga,
        trace: TraceContext,
        lost: Sequence[CutOff] = (),
    ) -> Span:
        """A span below the stored context, linked to what it continues and to the request.

        It continues what was in flight when the process before was lost; where nothing was, the
        latest attempt of each step.
        """
        links = [each.span for each in lost]
        if not lost:
            links = [step.compensation_span or step.span for step in saga.steps.values()]
        asked = request.trace if request.offer is None else request.offer.context.trace
        if asked.traceparent != trace.traceparent:
            links.append(asked.traceparent)
        return self._observer.run(
            request.saga_id, saga.under(self._plan).stage, trace, [link for link in links if link]
        )

    def check(self, saga: Saga, event: e.Event) -> None:
        """Raise NotAllowed for a verb that does not fit the saga as it stands.

        NotYours for a request to compensate of a neighbour that the saga does not belong to, and
        OpenerUnknown where nobody knows whether it does.
        """
        if isinstance(event, e.CompensationRequested) and not belongs_to(
            saga.under(self._plan), saga, event.requester, event.requested_by
        ):
            if awaits_opener(saga):
                raise OpenerUnknown(saga.id)
            raise NotYours(
                f"saga {saga.id} was neither opened by {event.requested_by} nor handed on to it"
            )
        if isinstance(event, e.Verb):
            reason = refuse_verb(saga.under(self._plan), saga, event)
            if reason is not None:
                raise NotAllowed(reason)


def _answered_for_good(row: SagaRow, request: OpenRequest) -> bool:
    """True when the row alone answers: the saga is over, and the request changes nothing of it.

    Then a journal of another version of the stage does not matter.
    """
    if not row.answered or row.due_at is not None:
        return False
    signal = request.signal
    compensated = row.state is SagaState.COMPENSATED
    return (
        signal is None
        or isinstance(signal, e.AnswerDeferred)
        or (compensated and isinstance(signal, e.CompensationRequested))
    )
