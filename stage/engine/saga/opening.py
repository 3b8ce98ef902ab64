"""The first unit of a run: accept a saga, bury one, or take one over under a new epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from stage.core import events as e
from stage.core.errors import JournalMismatch
from stage.core.machine import asked_before, evolve
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.verbs import refuse_verb
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.saga.context import Context, bare_saga, context_of, row_of, with_baggage
from stage.engine.saga.cut_off import CutOff, cut_off
from stage.engine.saga.interpreter import Interpreter, Transition
from stage.ports.clock import Clock
from stage.ports.codec import Codec
from stage.ports.engine import NotAllowed
from stage.ports.observer import Observer, Span, TraceContext
from stage.ports.store import SagaRow, Unit
from stage.wire.problem import WireError

UNDONE = frozenset({SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE})


class StoredTransition(msgspec.Struct, kw_only=True):
    """What a unit leaves behind once it is durable."""

    context: Context
    row: SagaRow
    transition: Transition
    span: Span | None = None
    cut_off: tuple[CutOff, ...] = ()
    """What was in flight when the run before was lost."""


class Opening:
    """Opens runs; each method runs within a unit of the store."""

    def __init__(
        self,
        interpreter: Interpreter,
        codec: Codec,
        observer: Observer,
        clock: Clock,
        admit: Callable[[LiveSaga], None],
    ) -> None:
        """`admit` raises Busy when a saga never seen is not to be taken on."""
        self._interpreter = interpreter
        self._participant = interpreter.participant
        self._plan = interpreter.plan
        self._codec = codec
        self._observer = observer
        self._clock = clock
        self._admit = admit

    async def first(
        self, unit: Unit, run: LiveSaga, trace: TraceContext
    ) -> StoredTransition | None:
        """The first unit of a run: accept, bury, or load and claim with a new epoch."""
        row = await unit.load(run.saga_id)
        if row is None:
            return await self._begin(unit, run, trace)
        context = context_of(row, self._codec)
        self._observer.bind(run.saga_id, context.trace)  # for the functions of this unit
        if row.closed_at is not None:
            return self._look_only(run, row, context, bare_saga(row))
        entries = await unit.journal(run.saga_id)
        try:
            saga = self._interpreter.fold(run.saga_id, entries)
        except JournalMismatch:
            if not _answered_for_good(row, run):
                raise
            return self._look_only(run, row, context, bare_saga(row))
        context = with_baggage(context, entries)
        now = self._clock.now()
        claim: list[e.Event] = []
        if isinstance(run.signal, e.CompensationRequested):
            if not asked_before(self._plan, saga, run.signal):
                claim.append(run.signal)
        elif run.signal is not None:
            claim.append(run.signal)
        if not claim and (saga.ended or saga.parked) and row.due_at is None:
            return self._look_only(run, row, context, saga)
        at = min([now, *(event.at for event in claim)])
        taken_over = e.Recovered(at=at, epoch=row.epoch + 1)
        for verb in claim:
            self.check(evolve(self._plan, saga, taken_over), verb)
        lost = cut_off(entries)
        span = self.begin_span(run, saga, context.trace, asked=trace, lost=lost)
        if saga.recoveries or not claim:
            # The claim is durable before anything is run, so that a saga which takes the process
            # down with it is seen to do so (rule 15).
            transition = self._interpreter.note(saga, [taken_over, *claim], now)
        else:
            claim.insert(0, taken_over)
            transition = await self._interpreter.advance(unit, saga, context, claim, span)
        fresh = self.row(run, transition, context)
        await unit.save(fresh, transition.events, epoch=row.epoch)
        return StoredTransition(
            context=context, row=fresh, transition=transition, span=span, cut_off=lost
        )

    def _look_only(
        self, run: LiveSaga, row: SagaRow, context: Context, saga: Saga
    ) -> StoredTransition:
        """Nothing is to be run: the saga answers from what is stored."""
        if isinstance(run.signal, e.Verb):
            self.check(saga, run.signal)
        run.replayed = True
        transition = Transition(saga=saga, events=[], outgoing=[], rest_until=None)
        return StoredTransition(context=context, row=row, transition=transition)

    async def _begin(
        self, unit: Unit, run: LiveSaga, trace: TraceContext
    ) -> StoredTransition | None:
        """A saga never seen: accept what is offered, or bury what was to be compensated."""
        saga = Saga(id=run.saga_id)
        first: e.Event
        if run.offer is not None:
            context, first = run.offer
            # Only of a saga never seen may it be said that nothing was executed.
            if first.deadline is not None and first.deadline <= first.at:
                raise WireError(
                    504,
                    "Deadline over",
                    f"the deadline of saga {run.saga_id} was over on arrival",
                    hint="compensate yourself; nothing was executed here",
                )
            self._admit(run)  # last: what is refused for another reason takes no place
        elif isinstance(run.signal, e.CompensationRequested):
            context = Context(envelope=None, envelope_bytes=b"", fingerprint="", trace=trace)
            first = e.Tombstoned(
                at=run.signal.at,
                requested_by=run.signal.requested_by or "unknown",
                reason=run.signal.reason,
            )
        else:
            return None
        span = self.begin_span(run, saga, context.trace)
        transition = await self._interpreter.advance(unit, saga, context, [first], span)
        row = self.row(run, transition, context)
        await unit.insert(row, transition.events)
        return StoredTransition(context=context, row=row, transition=transition, span=span)

    def begin_span(
        self,
        run: LiveSaga,
        saga: Saga,
        trace: TraceContext,
        asked: TraceContext | None = None,
        lost: Sequence[CutOff] = (),
    ) -> Span:
        """A span below the stored context, linked to what it continues and to who asked for it.

        It continues what was in flight when the run before was lost; where nothing was, the
        latest attempt of each step.
        """
        links = [each.span for each in lost]
        if not lost:
            links = [step.compensation_span or step.span for step in saga.steps.values()]
        if run.offer is not None:
            asked = run.offer[0].trace
        if asked is not None and asked.traceparent != trace.traceparent:
            links.append(asked.traceparent)
        return self._observer.run(
            run.saga_id, self._plan.stage, trace, [link for link in links if link]
        )

    def check(self, saga: Saga, event: e.Event) -> None:
        """Raise NotAllowed for a verb that does not fit the saga as it stands."""
        if isinstance(event, e.Verb):
            reason = refuse_verb(self._plan, saga, event)
            if reason is not None:
                raise NotAllowed(reason)

    def row(self, run: LiveSaga, transition: Transition, context: Context) -> SagaRow:
        return row_of(
            self._participant,
            transition.saga,
            context,
            rest_until=transition.rest_until,
            running=bool(transition.outgoing) or run.in_flight > 0,
            output=transition.output,
        )


def _answered_for_good(row: SagaRow, run: LiveSaga) -> bool:
    """True when the row alone answers: the saga is over, and what is asked changes nothing of it.

    Then a journal of another version of the stage does not matter.
    """
    if row.answer_status is None or row.due_at is not None:
        return False
    undone = row.state is SagaState.COMPENSATED
    asked_to_undo = isinstance(run.signal, e.CompensationRequested)
    return run.signal is None or (undone and asked_to_undo)
