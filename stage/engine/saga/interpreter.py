"""The loop of one saga: journal what happened, then do what follows from it.

`advance` runs inside one unit of the store. It folds the new events, asks the machine what is to
be done, runs local transactions at once, and writes down the intent of everything that has to
leave the process. When the unit is durable the engine sends that (`Outgoing`), and comes back
with how it ended. Every engine shares this loop; it decides only when and where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

import msgspec
from msgspec import UNSET

from stage.core import events as e
from stage.core.bindings import binding_of
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.errors import JournalMismatch, StageError, StaleEpoch, StoreUnavailable
from stage.core.failure import FailureKind
from stage.core.ids import Direction, compensation_key, idempotency_key, step_of_key
from stage.core.machine import Impossible, decide, evolve
from stage.core.place import TELL_STEP
from stage.core.questions import past_pivot
from stage.core.raised import raised
from stage.core.saga import Saga
from stage.core.states import EXTERNAL_KINDS, ParkCause, SagaState
from stage.core.steps import FORWARD_PREFIX, Plan, StepKind
from stage.engine.saga.attempts import (
    as_repeat,
    end_event,
    links_of,
    stored_requests,
)
from stage.engine.saga.context import Context, Output, enriched, view_of
from stage.engine.saga.versions import Versions
from stage.engine.saga.words import Redact, as_they_are
from stage.ports.clock import Clock
from stage.ports.observer import Attempt, Observer, Span, TraceContext
from stage.ports.stage import (
    Conversation,
    Failed,
    Finished,
    Participant,
    RunView,
    Send,
    Turn,
    family_of,
)
from stage.ports.store import Entry, Unit
from stage.wire.text import sendable

DECISIONS_MAX = 10_000
"""Decisions in one unit; more means that the machine does not come to rest."""


class Outgoing(msgspec.Struct, kw_only=True):
    """An attempt to be sent, its intent already written. `turn` is where its function stands."""

    do: Do
    span: Span
    key: str
    conversation: Conversation | None = None
    turn: Turn | None = None
    body: bytes = b""
    stored: tuple[e.Request, ...] = ()
    """Its request, where the unit wrote down the intent: on the lane no folded saga has it."""
    prepared: bool = False
    """True once its function has handed out a request, in the event loop."""


class Transition(msgspec.Struct, kw_only=True):
    """Where the unit left the saga, the events it appended, and what is to be sent.

    `plan` is that which the saga runs under. `ended` are the spans of attempts that ended within
    the unit: it may still be undone or repeated, so they are ended once it is durable. `output` is
    what the stage adds, once that was asked for: downstream and the answer get the same.
    """

    plan: Plan
    saga: Saga
    events: list[e.Event]
    outgoing: list[Outgoing]
    rest_until: float | None
    ended: list[tuple[Span, e.Event]] = []
    output: Output = UNSET

    @property
    def terms(self) -> Saga:
        """See `Course`."""
        return self.saga

    def view(self, context: Context, *, key: str, attempt: int, now: float) -> RunView:
        """See `Course`."""
        stage = self.plan.stage
        return view_of(stage, self.saga, context, key=key, attempt=attempt, now=now)

    def add(self, event: e.Event) -> None:
        """See `Course`."""
        self.saga = evolve(self.plan, self.saga, event)
        if self.plan.renamed:
            event = as_journaled(self.plan, self.saga, event)
        self.events.append(event)


class Course(Protocol):
    """A saga within a unit: what it goes by, and what was done so far.

    That is a `Transition`, whose every event is folded, or a saga on the lane (`lane.Ridden`).
    """

    plan: Plan
    outgoing: list[Outgoing]
    ended: list[tuple[Span, e.Event]]
    output: Output

    @property
    def terms(self) -> Saga:
        """The saga as an attempt that begins now has to know it."""
        ...

    def view(self, context: Context, *, key: str, attempt: int, now: float) -> RunView:
        """The view that a function of the author gets now."""
        ...

    def add(self, event: e.Event) -> None:
        """Add an event."""
        ...


class Interpreter:
    """Advances the sagas of one stage."""

    def __init__(
        self,
        versions: Versions,
        observer: Observer,
        clock: Clock,
        redact: Redact = as_they_are,
    ) -> None:
        """`redact` makes the words of others fit to be kept as a reason."""
        self.versions = versions
        self.redact = redact
        self.plan = versions.newest.plan
        """That of the newest version; a saga may run under another one (`Saga.under`)."""
        self.bindings: dict[int, dict[str, e.Binding]] = {
            each.plan.version: {step.name: binding_of(step) for step in each.plan.steps}
            for each in family_of(versions.newest)
        }
        self._observer = observer
        self._clock = clock

    def fold(self, saga_id: str, entries: Sequence[Entry]) -> Saga:
        """The state of a saga from its journal. Raises JournalMismatch."""
        saga = self.versions.begin(saga_id, entries)
        plan = saga.under(self.plan)
        try:
            for entry in entries:
                saga = evolve(plan, saga, entry.event)
        except (Impossible, KeyError) as error:
            raise JournalMismatch(
                f"the journal of saga {saga_id} does not fit stage {self.plan.stage!r} as it is"
                f" declared now ({error}): deploy the version that wrote it, or forget the saga"
            ) from error
        return saga

    async def advance(
        self,
        unit: Unit,
        saga: Saga,
        context: Context,
        events: Sequence[e.Event],
        run: Span,
        output: Output = UNSET,
    ) -> Transition:
        """Journal the events, then act until nothing is left to do here.

        `run` is the span of the live saga, below which those of the attempts stand. `output` is
        that of the transitions before, where it is known.
        """
        plan = saga.under(self.plan)
        done = Transition(
            plan=plan, saga=saga, events=[], outgoing=[], rest_until=None, output=output
        )
        now = self._clock.now()
        for event in events:
            done.add(_at_its_entry(event, now))
        for _ in range(DECISIONS_MAX):
            for command in decide(plan, done.saga, now):
                match command:  # what happens most comes first
                    case Do():
                        now = await self.do(unit, done, context, command, now, run.context)
                    case Rest():
                        done.rest_until = command.until
                        return done
                    case Record(event=e.Completed() as completed):
                        done.add(self.complete(done, context, completed, run))
                    case Record():
                        done.add(command.event)
                    case _:
                        assert_never(command)
        last = ", ".join(e.name_of(event) for event in done.events[-3:])
        raise StageError(f"saga {saga.id} does not come to rest: {last}")

    def conclude(
        self,
        saga: Saga,
        context: Context,
        events: Sequence[e.Event],
        run: Span,
        output: Output = UNSET,
    ) -> Transition | None:
        """The end of a saga that completes with these answers of downstream; None if it does not.

        Nothing is sent or run for it: it has only to be written down.
        """
        plan = saga.under(self.plan)
        if len(saga.steps) < len(plan.steps) or not all(
            isinstance(event, e.StepSucceeded) and event.step.startswith(FORWARD_PREFIX)
            for event in events
        ):
            return None
        done = Transition(
            plan=plan, saga=saga, events=[], outgoing=[], rest_until=None, output=output
        )
        for event in events:
            done.add(event)
        match decide(plan, done.saga, self._clock.now()):
            case (Record(event=e.Completed() as completed),):
                done.add(self.complete(done, context, completed, run))
        return done if done.saga.state is SagaState.COMPLETED else None

    def note(self, saga: Saga, events: Sequence[e.Event], now: float) -> Transition:
        """Fold the events and act on none of them yet; the saga is due at once."""
        plan = saga.under(self.plan)
        done = Transition(plan=plan, saga=saga, events=[], outgoing=[], rest_until=now)
        for event in events:
            done.add(_at_its_entry(event, now))
        return done

    def complete(
        self, done: Course, context: Context, completed: e.Completed, run: Span
    ) -> e.Event:
        """Completed, unless the output fails, which the answer needs."""
        try:
            self._output(done, context, completed.at, run)
        except Exception as error:
            reason = sendable(f"the output raised {raised(error)}")
            if past_pivot(done.plan, done.terms):
                cause = ParkCause.OUTPUT_FAILED
                return e.Parked(at=completed.at, cause=cause, reason=reason)
            return e.TurnedBack(at=completed.at, reason=reason)
        return completed

    def _output(self, done: Course, context: Context, now: float, span: Span) -> msgspec.Raw | None:
        """The output of the stage, asked for once. Raises what the author's function raises."""
        if done.output is UNSET:
            with span.current():
                view = done.view(context, key="", attempt=1, now=now)
                done.output = self.versions.of(done.terms).output(view)
        return done.output

    async def do(
        self,
        unit: Unit,
        done: Course,
        context: Context,
        do: Do,
        now: float,
        trace: TraceContext,
    ) -> float:
        """Do it; the time afterwards, which only the functions of an author take."""
        if do.kind is AttemptKind.TELL:
            self._tell(done, do, now, trace)
            return now
        kind = done.plan.by_name[do.step].kind
        if kind is StepKind.APPROVAL:
            return self._ask(done, context, do, now)
        if kind is StepKind.TRANSACTION:
            return await self._transact(unit, done, context, do, now, trace)
        self._prepare(done, context, do, now, trace)
        return now

    async def _transact(
        self,
        unit: Unit,
        done: Course,
        context: Context,
        do: Do,
        now: float,
        trace: TraceContext,
    ) -> float:
        """Run a transaction or its compensation in this unit, and record how and when it ended."""
        span = self._span(done, do, trace)
        view = done.view(context, key=self._key(done, do), attempt=do.attempt, now=now)
        if do.kind is AttemptKind.COMPENSATE:
            started = e.CompensationStarted(
                at=now, step=do.step, attempt=do.attempt, span=span.span_id
            )
            done.add(started)
        participant = self.versions.of(done.terms)
        turn = await self._run_transaction(participant, unit, do, view, span)
        event: e.Event = end_event(do, turn, self._clock.now(), self.redact)
        if isinstance(event, e.StepSucceeded) and span.span_id:
            event = msgspec.structs.replace(event, span=span.span_id)
        event = self._binding(done.terms, event)
        done.add(event)
        done.ended.append((span, event))
        return event.at

    def _ask(self, done: Course, context: Context, do: Do, now: float) -> float:
        """Ask a person, or nobody where the author's function shows nothing."""
        view = done.view(context, key="", attempt=do.attempt, now=now)
        participant = self.versions.of(done.terms)
        event: e.Event
        try:
            shown = participant.shown(do.step, view)
        except StageError as error:  # so it will always be
            failed = Failed(kind=FailureKind.REFUSED, reason=f"{do.step}: {error}")
            event = end_event(do, failed, now, self.redact)
        except Exception as error:
            event = end_event(do, participant.explain(error), now, self.redact)
        else:
            if shown is None:
                event = e.StepSucceeded(at=now, step=do.step)
            else:
                event = e.ApprovalAsked(at=now, step=do.step, shown=shown)
        done.add(self._binding(done.terms, event))
        return now

    def _binding(self, saga: Saga, event: e.Event) -> e.Event:
        """The first event of a local step, with what it binds; any other as it is (rule 32)."""
        match event:
            case e.StepSucceeded() | e.StepRefused() | e.StepTransient() | e.ApprovalAsked():
                if event.step not in saga.steps:
                    bound = self.bindings[saga.version][event.step]
                    return msgspec.structs.replace(event, bound=bound)
        return event

    async def _run_transaction(
        self, participant: Participant, unit: Unit, do: Do, view: RunView, span: Span
    ) -> Finished | Failed:
        """How the author's function ended; what it wrote is undone where it failed."""
        try:
            with span.current():
                result = await unit.attempt(
                    lambda: participant.run_transaction(unit.tx, do.kind, do.step, view)
                )
        except (StoreUnavailable, StaleEpoch):
            raise
        except StageError as error:  # it escaped, or its SQL is not allowed: so it will always be
            return Failed(kind=FailureKind.REFUSED, reason=f"{do.step}: {error}")
        except Exception as error:
            return participant.explain(error)
        except BaseException as error:  # a function that exits ends its step, not the process
            return Failed(kind=FailureKind.REFUSED, reason=f"{do.step} raised {raised(error)}")
        return Finished(result=result)

    def _prepare(
        self, done: Course, context: Context, do: Do, now: float, trace: TraceContext
    ) -> None:
        """Write down the intent of a call, a probe, a forward or their compensation."""
        # Long because each kind of request is made where its intent is written.
        step = done.plan.by_name[do.step]
        span = self._span(done, do, trace)
        key = self._key(done, do)
        outgoing = Outgoing(do=do, span=span, key=key)
        request: e.Request | None = None
        if step.kind in EXTERNAL_KINDS:
            stored = stored_requests(done.terms, do)
            view = done.view(context, key=key, attempt=do.attempt, now=now)
            outgoing.conversation, outgoing.turn = self._begin(
                self.versions.of(done.terms), do, view, span, stored
            )
            if isinstance(outgoing.turn, Send) and not stored:
                request = outgoing.turn.request
                if do.kind is not AttemptKind.PROBE:
                    outgoing.stored = (request,)
        elif do.kind is AttemptKind.PROBE:
            outgoing.body = done.terms.steps[do.step].requests[0].body
        elif do.kind is AttemptKind.EXECUTE:
            stored = stored_requests(done.terms, do)
            if stored:
                outgoing.body = stored[0].body
            else:
                try:
                    output = self._output(done, context, now, span)
                    outgoing.body = enriched(done.plan.stage, done.terms, context, output)
                    request = e.Request(method="POST", path="/sagas", body=outgoing.body)
                except Exception as error:
                    outgoing.turn = _failed_output(error)
        bound: e.Binding | None = None
        if do.step not in done.terms.steps:
            bound = self.bindings[done.terms.version][do.step]
        done.add(self._started(do, key, span, request, now, bound))
        if isinstance(outgoing.turn, Finished | Failed):  # it ended without sending anything
            event = end_event(do, outgoing.turn, self._clock.now(), self.redact)
            done.add(event)
            done.ended.append((span, event))
        else:
            done.outgoing.append(outgoing)

    def _begin(
        self,
        participant: Participant,
        do: Do,
        view: RunView,
        span: Span,
        stored: tuple[e.Request, ...],
    ) -> tuple[Conversation | None, Turn]:
        """Begin a conversation; a result in the journal that cannot be read ends it at once."""
        try:
            with span.current():  # a conversation keeps the context in which it was made
                conversation = participant.converse(do.kind, do.step, view)
        except Exception as error:
            reason = f"{do.step} cannot be begun: {raised(error)}"
            return None, Failed(kind=FailureKind.REFUSED, reason=reason)
        turn = as_repeat(do, conversation.begin(), stored)
        if isinstance(turn, Failed):
            conversation.close()
        return conversation, turn

    def _started(
        self,
        do: Do,
        key: str,
        span: Span,
        request: e.Request | None,
        now: float,
        bound: e.Binding | None = None,
    ) -> e.Event:
        match do.kind:
            case AttemptKind.EXECUTE:
                return e.StepStarted(
                    at=now,
                    step=do.step,
                    attempt=do.attempt,
                    key=key,
                    span=span.span_id,
                    request=request,
                    bound=bound,
                )
            case AttemptKind.PROBE:
                return e.ProbeStarted(at=now, step=do.step, span=span.span_id)
            case AttemptKind.COMPENSATE:
                return e.CompensationStarted(
                    at=now,
                    step=do.step,
                    attempt=do.attempt,
                    key=key,
                    span=span.span_id,
                    request=request,
                )
            case AttemptKind.TELL:
                return e.TellStarted(at=now, attempt=do.attempt, span=span.span_id)
            case _:
                assert_never(do.kind)

    def _tell(self, done: Course, do: Do, now: float, trace: TraceContext) -> None:
        span = self._span(done, do, trace)
        done.add(self._started(do, "", span, None, now))
        done.outgoing.append(Outgoing(do=do, span=span, key=""))

    def converse(
        self, saga: Saga, context: Context, do: Do, key: str, now: float, span: Span
    ) -> Conversation:
        """A conversation with the author's function for that call, all of it under that span."""
        stage = saga.under(self.plan).stage
        view = view_of(stage, saga, context, key=key, attempt=do.attempt, now=now)
        with span.current():  # a conversation keeps the context in which it was made
            return self.versions.of(saga).converse(do.kind, do.step, view)

    def _key(self, done: Course, do: Do) -> str:
        """The key that the journal binds, or that the names make; that of an undo follows it."""
        saga = done.terms
        known = saga.steps.get(do.step)
        if known is None:
            return idempotency_key(saga.id, done.plan.stage, do.step, Direction.EXECUTE)
        key = known.key or idempotency_key(saga.id, done.plan.stage, do.step, Direction.EXECUTE)
        if do.kind is not AttemptKind.COMPENSATE:
            return key
        return compensation_key(key, known.compensation_keys)

    def _span(self, done: Course, do: Do, trace: TraceContext) -> Span:
        links: tuple[str, ...] = ()
        saga, name = done.terms, do.step
        if name:
            peer = done.plan.by_name[name].peer
            if (known := saga.steps.get(name)) is not None:
                links = links_of(known, do.kind)
        else:
            peer = saga.upstream
            links = (saga.tell_span,) if saga.tell_span else ()
        return self._observer.attempt(
            Attempt(
                saga_id=saga.id,
                stage=done.plan.stage,
                step=name or TELL_STEP,
                kind=do.kind,
                number=do.attempt,
                peer=peer,
                parent=trace,
                links=links,
            )
        )


_ENDS_A_WAIT = (e.WebhookFound, e.WebhookRefused, e.Approved, e.Rejected)


def _at_its_entry(event: e.Event, now: float) -> e.Event:
    """The event, at the instant of its entry where it ends a wait.

    It may have lain in the mail of a replica for an hour. The deadline stands still until then, so
    that the budget that was left is left from its entry on.
    """
    return msgspec.structs.replace(event, at=now) if isinstance(event, _ENDS_A_WAIT) else event


def _failed_output(error: Exception) -> Failed:
    """The end of a forward whose body cannot be made: the author's output raised."""
    return Failed(kind=FailureKind.REFUSED, reason=f"the output raised {raised(error)}")


def as_journaled(plan: Plan, saga: Saga, event: e.Event) -> e.Event:
    """A step keeps the name that it was journaled with, so that an older release can go on.

    That name stands in its key (rule 32).
    """
    today: str = getattr(event, "step", "")
    known = saga.steps.get(today)
    if known is None or not known.key:
        return event
    before = step_of_key(known.key, saga.id, plan.stage)
    return event if before == today else msgspec.structs.replace(event, step=before)
