"""The one way to write the journal of a saga, and the one report of what became durable.

Every transition goes through here: it is stored as a row and entries under the fence of the epoch
that its writer holds, and reported to the observer once its unit is durable.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from stage.core import events as e
from stage.core.place import NOWHERE, TELL_STEP, place_of
from stage.core.saga import Saga
from stage.core.states import ParkCause, SagaState, Tell
from stage.core.steps import Plan
from stage.engine.saga.acts import acts_in
from stage.engine.saga.attempts import end_span
from stage.engine.saga.context import Context, Output, bare_saga
from stage.engine.saga.cut_off import CutOff
from stage.engine.saga.ending import completed_ending, ending_of
from stage.engine.saga.fast_path import AnyTransition, FastTransition
from stage.engine.saga.interpreter import Transition
from stage.engine.saga.terms import terms_of
from stage.engine.saga.versions import Versions
from stage.ports.observer import Attempt, Observer, Span
from stage.ports.store import SagaRow, Unit
from stage.wire.ending import Render
from stage.wire.text import sendable

RUNNING_SECONDS = 60.0
"""How far ahead `due_at` of a running saga lies at least; a restart takes it over at once. It is a
multiple of this, so that most saves of a run leave it, and with it its index, as they are."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a unit once it is durable."""

    context: Context
    row: SagaRow
    transition: AnyTransition
    span: Span | None = None
    """The span that was begun in the unit, when it opened the saga."""
    cut_off: tuple[CutOff, ...] = ()
    """The attempts in flight when the process before was lost."""
    before: SagaRow | None = None
    """The row until then; None of a new saga, and of one that is parked as it is."""
    replayed: bool = False
    """True when the saga had ended before it was opened."""


class Journal:
    """Writes the journals of one stage."""

    def __init__(self, versions: Versions, observer: Observer, render: Render) -> None:
        self._versions = versions
        self._plan = versions.newest.plan
        self._indexed = versions.newest.indexed
        self._observer = observer
        self._render = render

    def store(
        self,
        transition: AnyTransition,
        context: Context,
        *,
        before: SagaRow | None,
        in_flight: bool = False,
        span: Span | None = None,
    ) -> Stored:
        """A transition with the row it leads to.

        `before` is the row until then, None of a new saga. `in_flight`: attempts before the
        transition have not ended. `span` was begun in this unit.
        """
        if isinstance(transition, FastTransition):
            row = self._row_on_fast_path(transition, context, before)
        else:
            running = in_flight or bool(transition.outgoing)
            row = self.row(transition, context, running=running, before=before)
        return Stored(context=context, row=row, transition=transition, span=span, before=before)

    def park(self, row: SagaRow, cause: ParkCause, reason: str, now: float) -> Stored:
        """A stored saga parked as it is: its journal may be unreadable."""
        reason = sendable(reason)
        parked = replace(
            row,
            parked=reason,
            parked_cause=cause,
            due_at=None,
            length=row.length + 1,
            updated_at=now,
        )
        return Stored(
            context=Context(
                envelope=None,
                envelope_bytes=row.envelope,
                fingerprint=row.fingerprint,
                trace=row.trace,
            ),
            row=parked,
            transition=Transition(
                plan=self._plan,
                saga=bare_saga(parked),
                events=[e.Parked(at=now, cause=cause, reason=reason)],
                outgoing=[],
                rest_until=None,
            ),
        )

    async def write(
        self, unit: Unit, stored: Stored, *, epoch: int | None, mail: Sequence[int] = ()
    ) -> None:
        """Write it in this unit under the epoch that the caller holds; None for a new saga.

        `mail` is what the transition took in. Raises StaleEpoch when the saga was taken over.
        """
        row, events = stored.row, stored.transition.events
        if epoch is None:
            await unit.insert(row, events, terms_of(stored.context, self._indexed))
        else:
            await unit.save(row, events, epoch=epoch, before=stored.before)
            # The acts of a person are kept where no end of retention reaches them.
            await _keep_acts(unit, stored, row)
            if stored.transition.terms.forgotten:
                await unit.drop_terms(row.id)
        if mail:
            await unit.received(mail)

    async def write_closed(self, unit: Unit, stored: Stored) -> Stored:
        """Write the row of a closed saga, whose journal stays empty: its events are reported."""
        before = stored.before
        assert before is not None
        row = replace(stored.row, length=before.length)
        await unit.save(row, (), epoch=before.epoch, before=before)
        await _keep_acts(unit, stored, row)
        return replace(stored, row=row)

    def report(self, stored: Stored) -> None:
        """Report what has become durable: ended attempts, lost ones, and every event."""
        transition, trace = stored.transition, stored.context.trace
        saga_id, accepted_at = stored.row.id, stored.row.accepted_at
        stage, happened = transition.plan.stage, self._observer.happened
        for span, event in transition.ended:
            end_span(span, event)
        for lost in stored.cut_off:
            self._report_cut_off(stored, lost)
        for event in transition.events:
            happened(saga_id, stage, event, trace, accepted_at)

    def _report_cut_off(self, stored: Stored, lost: CutOff) -> None:
        """Report an attempt that its own process could not report: it is gone."""
        saga, plan = stored.transition.saga, stored.transition.plan
        attempt = Attempt(
            saga_id=saga.id,
            stage=plan.stage,
            step=lost.step or TELL_STEP,
            kind=lost.kind,
            number=lost.attempt,
            peer=_peer(plan, lost.step) if lost.step else saga.upstream,
            parent=stored.context.trace,
            links=lost.links,
        )
        self._observer.cut_off(
            attempt,
            span_id=lost.span,
            began=lost.began,
            ended=stored.transition.events[0].at,
        )

    def row(
        self,
        transition: Transition,
        context: Context,
        *,
        running: bool,
        before: SagaRow | None = None,
    ) -> SagaRow:
        """The row of a saga after a transition. `running` says that attempts are in flight."""
        saga = transition.saga
        if saga.forgotten and saga.state is SagaState.COMPLETED and before and before.answered:
            # Its payload is gone, or goes now: the answer cannot be made again (decision 0028).
            status, body = before.answer_status, before.answer_body
        else:
            status, body = self._answer(saga, context, transition.output)
        place = place_of(transition.plan, saga)
        return SagaRow(
            id=saga.id,
            state=saga.state,
            epoch=saga.epoch,
            length=saga.length,
            accepted_at=saga.accepted_at,
            updated_at=saga.updated_at,
            fingerprint=context.fingerprint,
            version=saga.version,
            step=place.step,
            peer=place.peer,
            parked=saga.parked,
            parked_cause=saga.parked_cause,
            due_at=_due_at(saga, transition.rest_until, running),
            deadline=saga.deadline,
            envelope=b"" if saga.forgotten else context.envelope_bytes,
            traceparent=context.trace.traceparent,
            tracestate=context.trace.tracestate,
            answer_status=status,
            answer_body=body,
            closed_at=None if before is None else before.closed_at,
        )

    def _row_on_fast_path(
        self, fast: FastTransition, context: Context, before: SagaRow | None
    ) -> SagaRow:
        """The row that `row` makes of the folded saga: it runs, or it has come to its end."""
        events, state = fast.events, fast.state
        if before is None:
            before = _row_before_the_first(fast.terms, context)
        length, updated_at = before.length + len(events), events[-1].at
        if state is SagaState.ACTIVE:
            due_at = _running_until(updated_at)
            return replace(before, length=length, updated_at=updated_at, due_at=due_at)
        if state is not SagaState.COMPLETED:
            return self._row_on_the_way_back(fast, context, before)
        output = None if fast.output is UNSET else fast.output
        newest = self._versions.newest
        ending = completed_ending(newest, before.id, context, fast.results, output)
        answer = self._render(ending)
        return replace(
            before,
            state=SagaState.COMPLETED,
            length=length,
            updated_at=updated_at,
            due_at=None,
            answer_status=answer.status,
            answer_body=answer.body,
        )

    def _row_on_the_way_back(
        self, fast: FastTransition, context: Context, before: SagaRow
    ) -> SagaRow:
        """The row of a saga that turned round; it may have been over before, or have waited."""
        state, terms, updated_at = fast.state, fast.terms, fast.events[-1].at
        over = state is SagaState.COMPENSATED
        # Its answer is settled where it turns, but for the state.
        status, body = self._answer(replace(terms, state=state), context) if over else (None, b"")
        return replace(
            before,
            state=state,
            epoch=terms.epoch,
            length=before.length + len(fast.events),
            updated_at=updated_at,
            step=NOWHERE.step,
            peer=NOWHERE.peer,
            parked="",
            parked_cause=None,
            due_at=None if over else _running_until(updated_at),
            deadline=terms.deadline,
            answer_status=status,
            answer_body=body,
        )

    def _answer(
        self, saga: Saga, context: Context, output: Output = UNSET
    ) -> tuple[int | None, bytes]:
        if not (saga.ended or saga.forgotten):
            return None, b""
        answer = self._render(ending_of(self._versions.of(saga), saga, context, output))
        return answer.status, answer.body


async def _keep_acts(unit: Unit, stored: Stored, row: SagaRow) -> None:
    """Keep what a person did, and the keys under which it was ordered."""
    for act, key in acts_in(stored.transition.events, stored.before, row):
        await unit.keep_act(act)
        if key is not None:
            await unit.keep_act_key(key, act.at)


def _row_before_the_first(terms: Saga, context: Context) -> SagaRow:
    """The row of a new saga on the fast path before its first unit, which has no entry."""
    return SagaRow(
        id=terms.id,
        state=SagaState.ACTIVE,
        epoch=terms.epoch,
        length=0,
        accepted_at=terms.accepted_at,
        updated_at=terms.updated_at,
        fingerprint=context.fingerprint,
        version=terms.version,
        deadline=terms.deadline,
        envelope=context.envelope_bytes,
        traceparent=context.trace.traceparent,
        tracestate=context.trace.tracestate,
    )


def _peer(plan: Plan, step: str) -> str:
    """The peer of a step by its journaled name."""
    return plan.step(plan.renamed.get(step, step)).peer


def _due_at(saga: Saga, rest_until: float | None, running: bool) -> float | None:
    if saga.forgotten:
        return None
    if saga.ended and saga.tell not in (Tell.DUE, Tell.IN_FLIGHT):
        return None
    if saga.parked and not saga.ended and not running:
        return None
    return _running_until(saga.updated_at) if running or rest_until is None else rest_until


def _running_until(updated_at: float) -> float:
    return (updated_at // RUNNING_SECONDS + 2) * RUNNING_SECONDS
