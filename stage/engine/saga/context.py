"""What a run knows of its saga beside the journal: the envelope, the trace, and its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from stage.core.events import Accepted
from stage.core.questions import anything_stood
from stage.core.saga import Saga
from stage.core.states import SagaState, Tell
from stage.core.steps import FORWARD_PREFIX
from stage.ports.codec import Codec
from stage.ports.observer import TraceContext
from stage.ports.stage import Participant, RunView
from stage.ports.store import Entry, SagaRow
from stage.wire.envelope import (
    Envelope,
    TrailEntry,
    encode_envelope,
    format_instant,
)
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem
from stage.wire.replies import encode_executed

Output = msgspec.Raw | None | UnsetType
"""What the stage adds to the data, where that is known already."""

RUN_LEASE_SECONDS = 60.0
"""How far ahead `due_at` of a saga in a run lies; a restart takes it over at once."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The unchanging part of a saga. `envelope` is None for a tombstone."""

    envelope: Envelope | None
    envelope_bytes: bytes
    fingerprint: str
    trace: TraceContext
    trail: tuple[str, ...] = ()
    """The names of the stages passed."""

    @property
    def data(self) -> Mapping[str, Any]:
        """The context's data as it was accepted."""
        return self.envelope.data if self.envelope is not None else {}


def context_of(row: SagaRow, codec: Codec) -> Context:
    """The context of a stored saga."""
    trace = row.trace
    if not row.envelope:
        return Context(envelope=None, envelope_bytes=b"", fingerprint=row.fingerprint, trace=trace)
    return context_with(
        codec.decode_envelope(row.id, row.envelope), row.envelope, row.fingerprint, trace
    )


def context_with(
    envelope: Envelope, envelope_bytes: bytes, fingerprint: str, trace: TraceContext
) -> Context:
    """The context of a saga that came in that envelope."""
    return Context(
        envelope=envelope,
        envelope_bytes=envelope_bytes,
        fingerprint=fingerprint,
        trace=trace,
        trail=tuple([entry.stage for entry in envelope.trail]),
    )


def with_baggage(context: Context, entries: Sequence[Entry]) -> Context:
    """The context with the baggage that the saga was accepted with."""
    first = entries[0].event if entries else None
    if not isinstance(first, Accepted) or not first.baggage:
        return context
    return replace(context, trace=replace(context.trace, baggage=first.baggage))


def bare_saga(row: SagaRow) -> Saga:
    """What is known of a saga without its journal: it was dropped, or cannot be read."""
    return Saga(
        id=row.id,
        state=row.state,
        epoch=row.epoch,
        length=row.length,
        accepted_at=row.accepted_at,
        updated_at=row.updated_at,
        deadline=row.deadline,
        parked=row.parked,
        parked_cause=row.parked_cause,
        was_completed=row.state is SagaState.COMPLETED,
    )


def view_of(
    stage: str, saga: Saga, context: Context, *, key: str, attempt: int, now: float
) -> RunView:
    """What a function of the author may know."""
    return RunView(
        id=saga.id,
        stage=stage,
        data=context.data,
        trail=context.trail,
        results={name: step.result for name, step in saga.steps.items() if step.result is not None},
        deadline=saga.deadline,
        budget=None if saga.deadline is None else max(0.0, saga.deadline - now),
        key=key,
        attempt=attempt,
        now=now,
    )


def row_of(
    participant: Participant,
    saga: Saga,
    context: Context,
    *,
    rest_until: float | None,
    running: bool,
    output: Output = UNSET,
) -> SagaRow:
    """The saga's row. `running` says that attempts are in flight; `output` may be known."""
    over = saga.ended or saga.forgotten
    status, body = answer_of(participant, saga, context, output) if over else (None, b"")
    return SagaRow(
        id=saga.id,
        state=saga.state,
        epoch=saga.epoch,
        length=saga.length,
        accepted_at=saga.accepted_at,
        updated_at=saga.updated_at,
        fingerprint=context.fingerprint,
        parked=saga.parked,
        parked_cause=saga.parked_cause,
        due_at=_due_at(saga, rest_until, running),
        deadline=saga.deadline,
        envelope=b"" if saga.forgotten else context.envelope_bytes,
        traceparent=context.trace.traceparent,
        tracestate=context.trace.tracestate,
        answer_status=status,
        answer_body=body,
    )


def _due_at(saga: Saga, rest_until: float | None, running: bool) -> float | None:
    if saga.forgotten:
        return None
    if saga.ended and saga.tell not in (Tell.DUE, Tell.IN_FLIGHT):
        return None
    if saga.parked and not saga.ended and not running:
        return None
    if running or rest_until is None:
        return saga.updated_at + RUN_LEASE_SECONDS
    return rest_until


def enriched(participant: Participant, saga: Saga, context: Context, now: float) -> bytes:
    """The envelope for downstream: the data with our output, the trail with our name."""
    envelope = context.envelope
    assert envelope is not None  # a tombstone never goes forward
    name = participant.plan.stage
    output = output_of(participant, saga, context, now)
    data = dict(envelope.data)
    if output is not None:
        data[name] = msgspec.json.decode(output)
    passed = TrailEntry(stage=name, at=format_instant(saga.accepted_at))
    return encode_envelope(
        Envelope(
            saga_id=saga.id,
            data=data,
            protocol=envelope.protocol,
            deadline=saga.deadline,
            trail=(*envelope.trail, passed),
        )
    )


def answer_of(
    participant: Participant, saga: Saga, context: Context, output: Output = UNSET
) -> tuple[int, bytes]:
    """The answer to `POST /sagas` of a saga that has ended: code and bytes (protocol 3.3)."""
    if saga.state is SagaState.COMPLETED and not saga.forgotten:
        if output is UNSET:
            output = output_of(participant, saga, context, saga.updated_at)
        return 200, encode_executed(saga.id, _added(participant, saga, output))
    stands: tuple[str, ...] | None = None
    hint = "compensate yourself; nothing of this saga stands here or downstream"
    if saga.forgotten:
        status, title, outcome = 410, "Saga was forgotten", Outcome.UNKNOWN
        stands = tuple(
            name
            for name, step in saga.steps.items()
            if step.may_stand and participant.plan.step(name).compensatable
        )
        hint = "compensate yourself; an operator here has taken over what may stand"
    elif saga.state is SagaState.FAILED_TO_COMPENSATE:
        status, title, outcome = 500, "Saga failed and could not be undone", Outcome.UNKNOWN
        stands = saga.stands
        hint = "ask to compensate and compensate yourself; an operator here has to settle the rest"
    else:
        status, title = (410, "Saga was compensated") if saga.requested_by else (409, "Saga failed")
        outcome = Outcome.COMPENSATED if anything_stood(saga) else Outcome.NOT_EXECUTED
    problem = Problem(
        status=status,
        title=title,
        detail=saga.reason or title,
        outcome=outcome,
        retryable=False,
        saga_id=saga.id,
        trace_id=context.trace.trace_id or None,
        hint=hint,
        stands=stands,
    )
    return status, problem.encode()


def output_of(
    participant: Participant, saga: Saga, context: Context, now: float
) -> msgspec.Raw | None:
    """What the stage adds to the data. Raises what the author's function raises."""
    return participant.output(
        view_of(participant.plan.stage, saga, context, key="", attempt=1, now=now)
    )


def _added(participant: Participant, saga: Saga, output: msgspec.Raw | None) -> dict[str, Any]:
    added: dict[str, Any] = {}
    for name, step in saga.steps.items():
        if name.startswith(FORWARD_PREFIX) and step.result is not None:
            added.update(msgspec.json.decode(step.result))
    if output is not None:
        added[participant.plan.stage] = msgspec.json.decode(output)
    return added
