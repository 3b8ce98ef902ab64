"""The journal of a usual saga once more, as `decide` and `evolve` make it.

The fast path writes its journal without them. Here the interpreter is given what came from outside
(the results of steps, the requests of functions, instants, ids of spans) and has to make the same
entries from the first one on, as far as the saga went the usual way, and the same row at its end:
forward, and back where its step was refused or a neighbour asked for it after its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import Plan
from stage.engine.saga.context import Context
from stage.engine.saga.interpreter import Interpreter, Transition
from stage.engine.saga.journal import Journal
from stage.engine.saga.versions import Versions
from stage.ports.observer import Attempt, TraceContext
from stage.ports.stage import Answer, Conversation, Failed, Lost, Participant, RunView, Send, Turn
from stage.ports.store import SagaRow, Tx
from stage.ports.webhook import Said, WebhookRequest
from stage.telemetry.null import NullObserver, PassthroughSpan
from stage.wire.answers import render_ending

FROM_OUTSIDE = (
    e.AnswerDeferred
    | e.CompensationRequested
    | e.Webhook
    | e.Verb
    | e.Recovered
)  # fmt: skip
"""Entries that no rule makes, and that may come between those that the rules make of one."""


_UNDO = AttemptKind.COMPENSATE
_ENDS = {
    AttemptKind.EXECUTE: e.StepSucceeded | e.StepRefused | e.StepTransient,
    _UNDO: e.CompensationSucceeded | e.CompensationDelayed | e.CompensationRefused,
}
"""The ends of a transaction, and of one that undoes it."""


class Unusual(BaseException):
    """The journal leaves the fast path. A BaseException, so that no `except` of ours takes it."""


async def difference(
    participant: Participant, context: Context, events: Sequence[e.Event], row: SagaRow
) -> str:
    """How the usual part of a journal, and the row of a saga that is all usual, differ.

    Empty where they are the same. `participant` is the version that accepted the saga.
    """
    script = _Script(participant, events)
    observer = _Spans(script)
    interpreter = Interpreter(Versions(script), observer, script)
    if not isinstance(events[0], e.Accepted):
        return ""
    made: list[e.Event] = []
    done: Transition | None = None
    saga = Saga(id=row.id)
    run = PassthroughSpan(context.trace)
    while len(made) < len(events):
        given = _given(events[len(made) :], saga)
        if not given:
            return ""
        script.place = len(made) + len(given)
        output = msgspec.UNSET if done is None else done.output
        try:
            done = await interpreter.advance(script.unit, saga, context, given, run, output)
        except Unusual:
            ends = len(made) + len(given) == len(events)
            return f"the journal ends at {given[-1]}, and the rules go on" if ends else ""
        before, saga = len(made), done.saga
        made += done.events
        for place, (mine, theirs) in enumerate(zip(done.events, events[before:], strict=False)):
            if mine != theirs:
                return _mismatch(before + place + 1, mine, theirs)
    if len(made) > len(events):
        return f"the rules go on with {made[len(events)]}"
    assert done is not None
    journal = Journal(interpreter.versions, observer, render_ending)
    due = journal.row(done, context, running=bool(done.outgoing))
    return "" if due == row else f"the row is {row}, and the rules make {due}"


def _given(rest: Sequence[e.Event], saga: Saga) -> Sequence[e.Event]:
    """The events from outside that began the next unit; none where it was not usual."""
    match rest:
        case (e.Accepted() | e.StepSucceeded() | e.CompensationSucceeded(), *_):
            return rest[:1]
        case (e.StepRefused(may_stand=False), *_):
            return rest[:1]
        case (e.Recovered(), e.CompensationRequested(), *_) if saga.state is SagaState.COMPLETED:
            return rest[:2]
        case (e.CompensationRequested(), *_) if saga.state is SagaState.COMPLETED:
            return rest[:1]  # it came before its saga had left memory
    return ()


def _mismatch(place: int, mine: e.Event, theirs: e.Event) -> str:
    """How the entries there differ; empty where theirs is of something that came."""
    if isinstance(theirs, FROM_OUTSIDE):
        return ""
    return f"entry {place} is {theirs}, and the rules make {mine}"


class _Script:
    """Plays the part of everything outside the interpreter, as the journal has it."""

    supersedes: Participant | None = None
    indexed: Mapping[str, str] | None = None
    shows: Mapping[str, str] = MappingProxyType({})

    def __init__(self, participant: Participant, events: Sequence[e.Event]) -> None:
        self._participant = participant
        self._events = events
        self.place = 0
        """The number of the entry that is made next, from 0."""
        self.unit: Any = _Unit()

    @property
    def plan(self) -> Plan:
        """The plan of the version that accepted the saga."""
        return self._participant.plan

    # --- the clock ---

    def now(self) -> float:
        """The instant of the entry that comes next."""
        return self._events[min(self.place, len(self._events) - 1)].at

    async def sleep(self, seconds: float) -> None:
        """Nothing waits."""
        raise NotImplementedError

    # --- the participant ---

    def check(self, data: Mapping[str, Any]) -> None:
        """It was accepted."""

    def check_result(self, step: str, result: msgspec.Raw) -> None:
        """Nobody gives one."""

    async def run_transaction(
        self, tx: Tx, kind: AttemptKind, step: str, view: RunView
    ) -> msgspec.Raw:
        """It returned what the journal says."""
        for place, event in enumerate(self._events):
            if kind in _ENDS and isinstance(event, _ENDS[kind]) and event.step == step:
                match event:
                    case e.StepSucceeded():
                        self.place = place
                        return event.result
                    case e.CompensationSucceeded():
                        self.place = place
                        return msgspec.Raw(b"null")
                break
        raise LookupError(step)  # what `explain` says becomes of it

    def explain(self, error: Exception) -> Failed:
        """The journal goes on otherwise."""
        raise Unusual

    def converse(self, kind: AttemptKind, step: str, view: RunView) -> Conversation:
        """It sent what the journal says."""
        return _Conversation(self._started(kind, step).request)

    def shown(self, step: str, view: RunView) -> msgspec.Raw | None:
        """An approval never takes the fast path."""
        raise Unusual

    def hear(self, request: WebhookRequest) -> list[Said]:
        """Nobody says anything."""
        return []

    def output(self, view: RunView) -> msgspec.Raw | None:
        """The output of the author's function, which the journal does not hold."""
        return self._participant.output(view)

    def _started(self, kind: AttemptKind, step: str) -> e.StepStarted | e.CompensationStarted:
        """The intent of that attempt of the step: its first one."""
        for event in self._events:
            match event:
                case e.StepStarted() if kind is AttemptKind.EXECUTE and event.step == step:
                    return event
                case e.CompensationStarted() if kind is _UNDO and event.step == step:
                    return event
        raise Unusual

    def span_of(self, attempt: Attempt) -> str:
        """The id of its span."""
        if attempt.kind is AttemptKind.EXECUTE:  # a transaction has no intent
            for event in self._events:
                match event:
                    case e.StepStarted() | e.StepSucceeded() if event.step == attempt.step:
                        return event.span
        return self._started(attempt.kind, attempt.step).span


class _Unit:
    """A unit in which a function runs and nothing is written."""

    tx: Any = None

    async def attempt(self, work: Any) -> Any:
        """Run it."""
        return await work()


class _Spans(NullObserver):
    """Gives the span of each step the id that it had."""

    def __init__(self, script: _Script) -> None:
        self._script = script

    def attempt(self, attempt: Attempt) -> PassthroughSpan:
        """See `ports.observer.Observer`."""
        return _Known(attempt.parent, self._script.span_of(attempt))


class _Known(PassthroughSpan):
    __slots__ = ("span_id",)

    def __init__(self, context: TraceContext, span_id: str) -> None:
        super().__init__(context)
        self.span_id = span_id


class _Conversation:
    """A conversation of which one request is known."""

    def __init__(self, request: e.Request | None) -> None:
        self._request = request

    def begin(self) -> Turn:
        """See `ports.stage.Conversation`."""
        if self._request is None:
            raise Unusual
        return Send(request=self._request, ordinal=1)

    async def resume(self, answer: Answer | Lost) -> Turn:
        """Nothing is sent."""
        raise NotImplementedError

    async def proceed(self) -> Turn:
        """Nothing is sent."""
        raise NotImplementedError

    def close(self) -> None:
        """It holds nothing."""
