"""The fast path: a saga that goes as it should runs along a line that was compiled at start.

    accepted ─► transaction ─► ... ─► intent │ succeeded ─► transaction ─► ... ─► intent │ ...
                        one unit             │                one unit                  │

    refused, or asked to compensate ─► undo ─► ... ─► intent │ undone ─► undo ─► ... ─► intent │ ...

The next move of a usual saga is known when the stage starts: after each step that succeeded comes
the next step of the plan. So nothing is folded and nothing is decided on the fast path: the plan is
compiled into segments, "local transactions, then one thing that leaves", and a unit writes the
events of one segment. They are the events that `decide` and `evolve` would have made, entry for
entry: the simulation replays each journal of the fast path through them. No rule stands here, and
the interpreter does each act. A saga leaves the fast path, with its events so far, at anything
unusual: a transaction that fails, a call that ends before it sends, a deadline that is over, any
event but the end that is awaited. The interpreter folds these events, and goes on in the same unit.

A usual saga may turn round, because its step was refused or because a neighbour asked for it after
everything was done. Then it is folded once and the rules are asked once: they say what is undone,
in which order, and that it may begin. Each undo that succeeds at its first attempt leaves that
answer as it was, so that nothing is folded or decided between undos either.

The saga itself is folded when somebody asks for it, and nobody ever asks for most sagas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import msgspec
from msgspec import UNSET

from stage.core import events as e
from stage.core.commands import AttemptKind, Record
from stage.core.machine import decide, evolve
from stage.core.order import waves, way_back
from stage.core.questions import needs_compensation
from stage.core.saga import Saga
from stage.core.states import Phase, SagaState, Tell
from stage.core.steps import FORWARD_PREFIX, Plan, Step, StepKind
from stage.engine.saga.context import Context, Output, keys_of, results_of
from stage.engine.saga.instructions import Instruction
from stage.engine.saga.interpreter import Interpreter, Outgoing, Transition, at_its_entry
from stage.ports.clock import Clock
from stage.ports.observer import Span
from stage.ports.stage import Foreign
from stage.ports.store import Unit


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Local transactions, then one thing that leaves: none behind the last ones."""

    transactions: tuple[Step, ...]
    leaving: Step | None


def segments_of(plan: Plan) -> tuple[Segment, ...]:
    """The plan as segments; empty for a plan whose sagas do not take the fast path.

    A pivot moves the deadline, steps that run at the same time end in any order, and an approval
    waits.
    """
    if any(step.kind is StepKind.APPROVAL for step in plan.steps):
        return ()
    if plan.misfit or plan.pivot is not None or any(len(wave) > 1 for wave in waves(plan)):
        return ()
    found: list[Segment] = []
    transactions: list[Step] = []
    for (step,) in waves(plan):
        if step.kind is StepKind.TRANSACTION:
            transactions.append(step)
        else:
            found.append(Segment(transactions=tuple(transactions), leaving=step))
            transactions = []
    return (*found, Segment(transactions=tuple(transactions), leaving=None))


def undos_of(plan: Plan, turned: Saga) -> tuple[Step, ...] | None:
    """The steps that are undone, in this order; None of a saga that leaves the usual way.

    Each has to have succeeded without a doubt, or to have been refused, and none to have been
    undone before.
    """
    for known in turned.steps.values():
        settled = known.phase is Phase.SUCCEEDED or known.phase is Phase.REFUSED
        if not settled or known.doubted or known.compensation_attempts:
            return None
    return tuple(
        step
        for wave in way_back(plan, turned)
        for step in wave
        if (at := turned.steps.get(step.name)) is not None and needs_compensation(step, at)
    )


Awaited = e.StepSucceeded | e.StepRefused | e.CompensationSucceeded
"""The ends of an attempt with which a saga may stay on the fast path."""


_ENDS: Mapping[type[e.Event], SagaState] = {
    e.Completed: SagaState.COMPLETED,
    e.Compensated: SagaState.COMPENSATED,
}


class CompiledSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment as the fast path runs it: the instructions of its steps."""

    transactions: tuple[Instruction, ...]
    leaving: Instruction | None


def compiled_segments(
    plan: Plan, compiled: Mapping[str, Instruction]
) -> tuple[CompiledSegment, ...]:
    """The segments of the plan, compiled."""
    return tuple(
        CompiledSegment(
            transactions=tuple(compiled[step.name] for step in segment.transactions),
            leaving=None if segment.leaving is None else compiled[segment.leaving.name],
        )
        for segment in segments_of(plan)
    )


class FastTransition(msgspec.Struct, kw_only=True):
    """Where a unit left a saga on the fast path: a `Transition` whose saga is not folded yet.

    `terms` is the saga as its first event left it, or as it turned round. Its attempts go by these
    terms, because nothing that they have to know changes on the way. `since` are the events after
    `terms` and before this unit, `events` those of the unit, of which `terms` has the first
    `folded_events`. `results` and `keys` are of the steps that began, by their names.
    """

    plan: Plan
    terms: Saga
    segment: int = 0
    """The number of the segment that comes next, on the way forward."""
    undos: tuple[Step, ...] = ()
    """The steps that are still to be undone, on the way back."""
    since: tuple[e.Event, ...] = ()
    events: list[e.Event]
    folded_events: int = 0
    results: dict[str, msgspec.Raw] = {}
    keys: dict[str, str] = {}
    outgoing: list[Outgoing] = []
    rest_until: float | None = None
    ended: list[tuple[Span, e.Event]] = []
    output: Output = UNSET
    folded: Saga | None = None

    @property
    def saga(self) -> Saga:
        """The state of the saga, folded when it is first asked for, in any thread."""
        folded = self.folded
        if folded is None:
            folded = self.terms
            for event in (*self.since, *self.events[self.folded_events :]):
                folded = evolve(self.plan, folded, event)
            self.folded = folded
        return folded

    @property
    def state(self) -> SagaState:
        """Whether it goes forward or back, or has come to that end."""
        return _ENDS.get(type(self.events[-1]), self.terms.state)

    def awaits(self, event: e.Event) -> TypeGuard[Awaited]:
        """Whether the event ends the attempt under way, so that the saga may stay on the path."""
        if not isinstance(event, Awaited) or event.step != self.outgoing[0].do.step:
            return False  # a webhook of another step is nothing usual
        return not (isinstance(event, e.StepRefused) and event.may_stand)  # nor is a doubt

    def after(self, event: e.StepSucceeded | e.CompensationSucceeded) -> FastTransition:
        """The transition with the answer that it awaited, and nothing done about it yet."""
        results, keys, now = self.results, self.keys, self.events
        if self.folded_events:
            now = now[self.folded_events :]
        if isinstance(event, e.StepSucceeded):
            results = {**results, event.step: event.result}
            keys = {**keys, event.step: self.outgoing[0].key}
        return FastTransition(
            plan=self.plan,
            terms=self.terms,
            segment=self.segment,
            undos=self.undos,
            since=(*self.since, *now),
            events=[event],
            results=results,
            keys=keys,
            output=self.output,
        )

    def add(self, event: e.Event) -> None:
        """See `interpreter.Course`."""
        self.events.append(event)


AnyTransition = Transition | FastTransition


class FastPath:
    """Runs the sagas of the newest version of a stage; hands unusual ones to the Interpreter."""

    def __init__(self, interpreter: Interpreter, clock: Clock) -> None:
        self._interpreter = interpreter
        self._plan = interpreter.plan
        self._clock = clock
        self._undos = interpreter.newest[AttemptKind.COMPENSATE]
        self._segments = compiled_segments(self._plan, interpreter.newest[AttemptKind.EXECUTE])

    async def begin(
        self, unit: Unit, saga: Saga, context: Context, first: e.Event, run: Span
    ) -> AnyTransition:
        """The first unit of a new saga: `first` and what follows from it."""
        if not (self._segments and isinstance(first, e.Accepted)):
            return await self._interpreter.advance(unit, saga, context, [first], run)
        terms = evolve(self._plan, saga, first)
        fast = FastTransition(plan=self._plan, terms=terms, events=[first], folded_events=1)
        return await self._run_segment(unit, saga, fast, context, run)

    async def go_on(
        self, unit: Unit, before: FastTransition, context: Context, event: Awaited, run: Span
    ) -> AnyTransition:
        """A further unit: the answer that the saga awaited, and what follows from it."""
        match event:
            case e.StepSucceeded():
                return await self._run_segment(unit, before, before.after(event), context, run)
            case e.CompensationSucceeded():
                return await self._run_undos(unit, before, before.after(event), context, run)
            case e.StepRefused():
                return await self.turn(unit, before.saga, context, [event], run, before.output)

    def conclude(
        self, before: FastTransition, context: Context, event: Awaited, run: Span
    ) -> FastTransition | None:
        """The end of a saga that completes with this answer of downstream; None if it does not.

        See Interpreter.conclude.
        """
        if not isinstance(event, e.StepSucceeded):
            return None
        last = self._segments[before.segment]
        if last.leaving or last.transactions or not event.step.startswith(FORWARD_PREFIX):
            return None
        fast = before.after(event)
        return fast if self._complete(fast, context, event.at, run) else None

    async def turn(
        self,
        unit: Unit,
        saga: Saga,
        context: Context,
        events: Sequence[e.Event],
        run: Span,
        output: Output = UNSET,
    ) -> AnyTransition:
        """A unit whose events may turn the saga round, and what follows from them.

        Here the saga is folded and the rules are asked, once. It goes on as any other does, where
        they say anything but to begin with the first undo of a usual saga.
        """
        now = self._clock.now()
        if self._segments and saga.plan is None and not self._plan.renamed:
            turned = self._turned(saga, events, now)
            if turned is not None:
                return await self._run_undos(unit, saga, turned, context, run, now)
        return await self._interpreter.advance(unit, saga, context, events, run, output)

    def _turned(self, saga: Saga, events: Sequence[e.Event], now: float) -> FastTransition | None:
        """The saga on the fast path as these events turned it round; None where it is not usual."""
        plan, made = self._plan, [at_its_entry(event, now) for event in events]
        for event in made:
            saga = evolve(plan, saga, event)
        commands = decide(plan, saga, now)
        match commands:
            case (Record(event=e.TurnedBack() as back),):
                made.append(back)
                saga = evolve(plan, saga, back)
                commands = decide(plan, saga, now)
        undos = undos_of(plan, saga)
        if saga.state is not SagaState.COMPENSATING or undos is None:
            return None
        first = self._undos[undos[0].name].do if undos else Record(event=e.Compensated(at=now))
        if commands != (first,):
            return None
        return FastTransition(
            plan=plan,
            terms=saga,
            undos=undos,
            events=made,
            folded_events=len(made),
            results=results_of(saga),
            keys=keys_of(saga),
        )

    async def _run_undos(
        self,
        unit: Unit,
        before: Saga | FastTransition,
        fast: FastTransition,
        context: Context,
        run: Span,
        now: float | None = None,
    ) -> AnyTransition:
        """Undo the steps that are left, as far as this unit can. `now` is when the unit began."""
        if now is None:
            now = self._clock.now()
        interpreter, trace = self._interpreter, run.context
        while fast.undos:
            step, *later = fast.undos
            fast.undos = tuple(later)
            what = self._undos[step.name]
            if what.is_local:
                end = await interpreter.transact(unit, fast, context, what, now, trace)
                now = end.at
            else:
                interpreter.prepare(fast, context, what, now, trace)
                if fast.outgoing:
                    return fast
            if not isinstance(fast.events[-1], e.CompensationSucceeded):
                return await self._leave(unit, before, fast, context, run)
        over = e.Compensated(at=now)
        if evolve(fast.plan, fast.terms, over).tell is not Tell.NO:
            return await self._leave(unit, before, fast, context, run)
        fast.add(over)
        return fast

    async def _run_segment(
        self,
        unit: Unit,
        before: Saga | FastTransition,
        fast: FastTransition,
        context: Context,
        run: Span,
    ) -> AnyTransition:
        """Run the next segment. `before` is what was durable before this unit."""
        segment, interpreter, trace = self._segments[fast.segment], self._interpreter, run.context
        fast.segment += 1
        now, deadline = self._clock.now(), fast.terms.deadline
        latest = math.inf if deadline is None else deadline
        for what in segment.transactions:
            if now >= latest:
                return await self._leave(unit, before, fast, context, run)
            end = await interpreter.transact(unit, fast, context, what, now, trace)
            if not isinstance(end, e.StepSucceeded):
                return await self._leave(unit, before, fast, context, run)
            fast.results = {**fast.results, end.step: end.result}
            now = end.at
        if segment.leaving is None:
            usual = self._complete(fast, context, now, run)
        elif now >= latest:
            usual = False
        else:
            interpreter.prepare(fast, context, segment.leaving, now, trace)
            # A function that needs the event loop is given its view there, of the folded saga.
            usual = bool(fast.outgoing) and not isinstance(fast.outgoing[0].turn, Foreign)
        return fast if usual else await self._leave(unit, before, fast, context, run)

    async def _leave(
        self,
        unit: Unit,
        before: Saga | FastTransition,
        fast: FastTransition,
        context: Context,
        run: Span,
    ) -> Transition:
        """Fold what happened, and go on as any other saga does, in the same unit."""
        if fast.outgoing:
            return Transition(
                plan=fast.plan,
                saga=fast.saga,
                events=fast.events,
                outgoing=fast.outgoing,
                rest_until=None,
                ended=fast.ended,
                output=fast.output,
            )
        saga = before.saga if isinstance(before, FastTransition) else before
        left = await self._interpreter.advance(unit, saga, context, fast.events, run, fast.output)
        left.ended = [*fast.ended, *left.ended]
        return left

    def _complete(self, fast: FastTransition, context: Context, now: float, run: Span) -> bool:
        """Write down that it is done; False when the output fails, which the answer needs."""
        event = self._interpreter.complete(fast, context, e.Completed(at=now), run)
        if not isinstance(event, e.Completed):
            return False  # what follows from that is decided elsewhere, which asks again
        fast.add(event)
        return True
