"""The loop of one saga: journal what happened, then do what follows from it.

`advance` runs inside one unit of the store. It folds the new events, asks the machine what is to
be done, runs local transactions at once, and writes down the intent of everything that has to
leave the process. When the unit is durable the engine sends that (`Outgoing`), and comes back
with how it ended. Every engine shares this loop; it decides only when and where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeVar, assert_never

import msgspec
from msgspec import UNSET

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.errors import (
    AuthorDefect,
    JournalMismatch,
    StageError,
    StaleEpoch,
    StoreUnavailable,
)
from stage.core.failure import FailureKind
from stage.core.ids import compensation_key, step_of_key
from stage.core.machine import InvalidTransition, decide, evolve
from stage.core.place import TELL_STEP
from stage.core.questions import past_pivot
from stage.core.raised import raised
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, SagaState
from stage.core.steps import FORWARD_PREFIX, Plan
from stage.engine.saga.attempts import (
    as_repeat,
    end_event,
    links_of,
    stored_requests,
)
from stage.engine.saga.context import (
    Context,
    Folded,
    Known,
    Output,
    enriched,
    keys_of,
    results_of,
    view_of,
)
from stage.engine.saga.ending import why_unreadable
from stage.engine.saga.instructions import Instruction, instructions_of
from stage.engine.saga.versions import Versions
from stage.engine.saga.words import Redact, as_they_are
from stage.ports.clock import Clock
from stage.ports.observer import Attempt, Observer, Span, TraceContext
from stage.ports.stage import (
    Conversation,
    Failed,
    Finished,
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
    """Its request, where the unit wrote down the intent: on the fast path no folded saga has it."""
    prepared: bool = False
    """True once a request of it is to leave, or may have left: set in the event loop."""
    answered: bool | None = None
    """Once it ended, whether the peer answered it: also one whose work is not done yet has."""


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

    @property
    def results(self) -> dict[str, msgspec.Raw]:
        """See `Course`."""
        return results_of(self.saga)

    @property
    def keys(self) -> dict[str, str]:
        """See `Course`."""
        return keys_of(self.saga)

    def add(self, event: e.Event) -> None:
        """See `Course`."""
        if type(event) is e.TellRefused and self.saga.upstream_knows:
            event = msgspec.structs.replace(event, upstream_knows=True)  # it may have asked since
        self.saga = evolve(self.plan, self.saga, event)
        if self.plan.renamed:
            event = as_journaled(self.plan, self.saga, event)
        self.events.append(event)


class Course(Known, Protocol):
    """A saga within a unit: the state that its attempts go by, and what was done so far.

    It is a `Transition`, whose every event is folded, or a `fast_path.FastTransition`.
    """

    plan: Plan
    outgoing: list[Outgoing]
    ended: list[tuple[Span, e.Event]]
    output: Output

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
        """The plan of the newest version; a saga may run under another one (`Saga.under`)."""
        self._instructions = {
            each.plan.version: instructions_of(each) for each in family_of(versions.newest)
        }
        self.newest = self._instructions[self.plan.version]
        """The instructions of the newest version."""
        self._observer = observer
        self._clock = clock

    def instruction(self, saga: Saga, do: Do) -> Instruction:
        """The instruction for that attempt of a step of the saga."""
        compiled = self._instructions.get(saga.version, self.newest)  # see Versions.of
        return compiled[do.kind][do.step].numbered(do)

    def fold(self, saga_id: str, entries: Sequence[Entry]) -> Saga:
        """The state of a saga from its journal. Raises JournalMismatch."""
        saga = self.versions.begin(saga_id, entries)
        plan = saga.under(self.plan)
        try:
            for entry in entries:
                saga = evolve(plan, saga, entry.event)
        except (InvalidTransition, KeyError) as error:
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
            done.add(at_its_entry(event, now))
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
            done.add(at_its_entry(event, now))
        return done

    def complete(
        self, done: Course, context: Context, completed: e.Completed, run: Span
    ) -> e.Event:
        """Completed, unless the output fails, or nobody could read the answer (decision 0103)."""
        try:
            output = self._output(done, context, completed.at, run)
        except Exception as error:
            reason = f"the output raised {raised(error)}"
        else:
            plan, data = done.plan, context.data
            reason = why_unreadable(plan.stage, done.terms.id, data, done.results, output)
        if not reason:
            return completed
        reason = sendable(reason)
        if past_pivot(done.plan, done.terms):
            return e.Parked(at=completed.at, cause=ParkCause.OUTPUT_FAILED, reason=reason)
        return e.TurnedBack(at=completed.at, reason=reason)

    def _output(self, done: Course, context: Context, now: float, span: Span) -> msgspec.Raw | None:
        """The output of the stage, asked for once. Raises what the author's function raises."""
        if done.output is UNSET:
            with span.current():
                view = view_of(done.plan.stage, done, context, key="", attempt=1, now=now)
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
        what = self.instruction(done.terms, do)
        if what.is_local:
            return (await self.transact(unit, done, context, what, now, trace)).at
        if what.is_approval:
            self._ask(done, context, what, now)
        else:
            self.prepare(done, context, what, now, trace)
        return now

    async def transact(
        self,
        unit: Unit,
        done: Course,
        context: Context,
        what: Instruction,
        now: float,
        trace: TraceContext,
    ) -> e.AttemptEnd:
        """Run a transaction or its compensation in this unit; how and when it ended."""
        do, terms = what.do, done.terms
        known = terms.steps.get(do.step)
        span = self._span(terms, what, known, trace)
        key = self._key(done, what)
        view = view_of(what.stage, done, context, key=key, attempt=do.attempt, now=now)
        if do.kind is AttemptKind.COMPENSATE:
            started = e.CompensationStarted(
                at=now, step=do.step, attempt=do.attempt, span=span.span_id
            )
            done.add(started)
        turn = await self._run_transaction(unit, what, view, span)
        event = end_event(do, turn, self._clock.now(), self.redact)
        if isinstance(event, e.StepSucceeded) and span.span_id:
            event = msgspec.structs.replace(event, span=span.span_id)
        if known is None:
            event = _bound(event, what)
        done.add(event)
        done.ended.append((span, event))
        return event

    def _ask(self, done: Course, context: Context, what: Instruction, now: float) -> None:
        """Ask a person, or nobody where the author's function shows nothing."""
        do, terms = what.do, done.terms
        view = view_of(what.stage, done, context, key="", attempt=do.attempt, now=now)
        event: e.Event
        try:
            shown = what.participant.shown(do.step, view)
        except StageError as error:  # so it will always be
            failed = Failed(kind=FailureKind.REFUSED, reason=f"{do.step}: {error}")
            event = end_event(do, failed, now, self.redact)
        except Exception as error:
            event = end_event(do, what.participant.explain(error), now, self.redact)
        else:
            if shown is None:
                event = e.StepSucceeded(at=now, step=do.step)
            else:
                event = e.ApprovalAsked(at=now, step=do.step, shown=shown)
        done.add(event if do.step in terms.steps else _bound(event, what))

    async def _run_transaction(
        self, unit: Unit, what: Instruction, view: RunView, span: Span
    ) -> Finished | Failed:
        """How the author's function ended; what it wrote is undone where it failed."""
        do, participant = what.do, what.participant
        run = partial(participant.run_transaction, unit.tx, do.kind, do.step, view)
        try:
            with span.current():
                return Finished(result=await unit.attempt(run))
        except (StoreUnavailable, StaleEpoch):
            raise
        except AuthorDefect as error:  # it is tried again, with the code of a later deploy too
            return participant.explain(error)
        except StageError as error:  # it escaped, or its SQL is not allowed: so it will always be
            return Failed(kind=FailureKind.REFUSED, reason=f"{do.step}: {error}")
        except Exception as error:
            return participant.explain(error)
        except BaseException as error:  # a function that exits ends its step, not the process
            return Failed(kind=FailureKind.REFUSED, reason=f"{do.step} raised {raised(error)}")

    def prepare(
        self, done: Course, context: Context, what: Instruction, now: float, trace: TraceContext
    ) -> None:
        """Write down the intent of a call, a probe, a forward or their compensation."""
        do, terms = what.do, done.terms
        known = terms.steps.get(do.step)
        stored = () if known is None else stored_requests(terms, do)
        span = self._span(terms, what, known, trace)
        outgoing = Outgoing(do=do, span=span, key=self._key(done, what))
        request: e.Request | None = None
        if what.is_external:
            request = self._prepare_call(done, context, what, outgoing, now, stored)
        elif do.kind is AttemptKind.EXECUTE:
            request = self._prepare_forward(done, context, outgoing, now, stored)
        elif do.kind is AttemptKind.PROBE and known is not None:
            outgoing.body = known.requests[0].body
        bound = what.binding if known is None else None
        done.add(_started(outgoing, request, now, bound))
        if isinstance(outgoing.turn, Finished | Failed):  # it ended without sending anything
            event = end_event(do, outgoing.turn, self._clock.now(), self.redact)
            done.add(event)
            done.ended.append((span, event))
        else:
            done.outgoing.append(outgoing)

    def _prepare_call(
        self,
        done: Course,
        context: Context,
        what: Instruction,
        outgoing: Outgoing,
        now: float,
        stored: tuple[e.Request, ...],
    ) -> e.Request | None:
        """Begin a conversation; the request that its intent has to hold."""
        do = what.do
        view = view_of(what.stage, done, context, key=outgoing.key, attempt=do.attempt, now=now)
        try:
            with outgoing.span.current():  # a conversation keeps the context in which it was made
                conversation = what.participant.converse(do.kind, do.step, view)
        except Exception as error:  # a result in the journal that cannot be read
            reason = f"{do.step} cannot be begun: {raised(error)}"
            outgoing.turn = Failed(kind=FailureKind.REFUSED, reason=reason)
            return None
        outgoing.conversation = conversation
        turn = conversation.begin()
        outgoing.turn = turn = as_repeat(do, turn, stored) if stored else turn
        if isinstance(turn, Failed):
            conversation.close()
        if stored or not isinstance(turn, Send):
            return None
        if do.kind is not AttemptKind.PROBE:
            outgoing.stored = (turn.request,)
        return turn.request

    def _prepare_forward(
        self,
        done: Course,
        context: Context,
        outgoing: Outgoing,
        now: float,
        stored: tuple[e.Request, ...],
    ) -> e.Request | None:
        """Make the body for downstream, or repeat it; the request that its intent has to hold."""
        if stored:
            outgoing.body = stored[0].body
            return None
        try:
            output = self._output(done, context, now, outgoing.span)
            outgoing.body = enriched(done.plan.stage, done.terms, context, output)
        except Exception as error:
            outgoing.turn = _failed_output(error)
            return None
        return e.Request(method="POST", path="/sagas", body=outgoing.body)

    def _tell(self, done: Course, do: Do, now: float, trace: TraceContext) -> None:
        saga = done.terms
        attempt = Attempt(
            saga_id=saga.id,
            stage=done.plan.stage,
            step=TELL_STEP,
            kind=do.kind,
            number=do.attempt,
            peer=saga.upstream,
            parent=trace,
            links=(saga.tell_span,) if saga.tell_span else (),
        )
        span = self._observer.attempt(attempt)
        done.add(e.TellStarted(at=now, attempt=do.attempt, span=span.span_id))
        done.outgoing.append(Outgoing(do=do, span=span, key=""))

    def converse(
        self, saga: Saga, context: Context, do: Do, key: str, now: float, span: Span
    ) -> Conversation:
        """A conversation with the author's function for that call, all of it under that span."""
        stage = saga.under(self.plan).stage
        view = view_of(stage, Folded(saga), context, key=key, attempt=do.attempt, now=now)
        with span.current():  # a conversation keeps the context in which it was made
            return self.versions.of(saga).converse(do.kind, do.step, view)

    def _key(self, done: Course, what: Instruction) -> str:
        """The key that the journal binds, or that the names make; that of an undo follows it."""
        saga = done.terms
        known = saga.steps.get(what.do.step)
        if known is None:
            return saga.id + what.key_end
        key = known.key or saga.id + what.key_end
        if what.do.kind is not AttemptKind.COMPENSATE:
            return key
        return compensation_key(key, known.compensation_keys)

    def _span(
        self, saga: Saga, what: Instruction, known: StepState | None, trace: TraceContext
    ) -> Span:
        do = what.do
        return self._observer.attempt(
            Attempt(
                saga_id=saga.id,
                stage=what.stage,
                step=do.step,
                kind=do.kind,
                number=do.attempt,
                peer=what.step.peer,
                parent=trace,
                links=() if known is None else links_of(known, do.kind),
            )
        )


def _started(
    outgoing: Outgoing, request: e.Request | None, now: float, bound: e.Binding | None
) -> e.Event:
    """The intent of an attempt of a step."""
    do, span = outgoing.do, outgoing.span.span_id
    if do.kind is AttemptKind.PROBE:
        return e.ProbeStarted(at=now, step=do.step, span=span)
    if do.kind is AttemptKind.COMPENSATE:
        return e.CompensationStarted(
            at=now,
            step=do.step,
            attempt=do.attempt,
            key=outgoing.key,
            span=span,
            request=request,
        )
    return e.StepStarted(
        at=now,
        step=do.step,
        attempt=do.attempt,
        key=outgoing.key,
        span=span,
        request=request,
        bound=bound,
    )


_BINDS = (e.StepSucceeded, e.StepRefused, e.StepTransient, e.ApprovalAsked)
E = TypeVar("E", bound=e.Event)


def _bound(event: E, what: Instruction) -> E:
    """The first event of a local step, with what it binds (rule 32)."""
    if isinstance(event, _BINDS):
        return msgspec.structs.replace(event, bound=what.binding)
    return event


def at_its_entry(event: e.Event, now: float) -> e.Event:
    """The event, at the instant of its entry where it ends a wait.

    It may have lain in the mail of a replica for an hour. The deadline stands still until then, so
    that the budget that was left is left from its entry on.
    """
    return msgspec.structs.replace(event, at=now) if isinstance(event, e.WaitEnd) else event


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
