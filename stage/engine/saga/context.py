"""The context of a saga beside its journal: the envelope and the trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UnsetType
from msgspec.structs import replace

from stage.core.events import Accepted
from stage.core.requester import opener_hash
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.ports.codec import Codec
from stage.ports.observer import TraceContext
from stage.ports.stage import Participant, RunView
from stage.ports.store import Entry, SagaRow
from stage.wire.envelope import (
    Envelope,
    TrailEntry,
    encode_envelope,
    format_instant,
    payload_hash,
)

PAYLOAD_HASH_CHARS = 64
ANY_PAYLOAD = "0" * PAYLOAD_HASH_CHARS
"""In place of the hash of a payload that was erased."""

Output = msgspec.Raw | None | UnsetType
"""The output of the stage; UNSET while it is not known."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The unchanging part of a saga. `envelope` is None for a tombstone.

    `fingerprint` is that of the request that opened the saga, see `fingerprint_of`.
    """

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


def buried(trace: TraceContext) -> Context:
    """The context of a tombstone: nothing ever came with it, or nothing of it is kept."""
    return Context(envelope=None, envelope_bytes=b"", fingerprint="", trace=trace)


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


def fingerprint_of(envelope: Envelope) -> str:
    """The payload hash of a request, followed by a short hash of the neighbour that sent it.

    Both are kept when everything else of the request is dropped, so that the saga still belongs to
    that neighbour. A neighbour without a name leaves no hash.
    """
    return payload_hash(envelope) + opener_hash(envelope.saga_id, envelope.upstream)


def same_opener(known: str, asked: str) -> bool:
    """Whether both requests came from one neighbour, as far as the first one tells."""
    opener = known[PAYLOAD_HASH_CHARS:]
    return not opener or opener == asked[PAYLOAD_HASH_CHARS:]


def same_payload(known: str, asked: str) -> bool:
    """Whether both requests have one payload. True where nothing is kept of the first payload."""
    kept = known[:PAYLOAD_HASH_CHARS]
    return kept in ("", ANY_PAYLOAD) or kept == asked[:PAYLOAD_HASH_CHARS]


def any_payload(known: str) -> str:
    """The fingerprint without its payload hash: the opener alone."""
    return ANY_PAYLOAD + known[PAYLOAD_HASH_CHARS:] if known else ""


def baggage_of(entries: Sequence[Entry]) -> str:
    """The baggage that a saga was accepted with; empty without any."""
    first = entries[0].event if entries else None
    return first.baggage if isinstance(first, Accepted) else ""


def with_baggage(context: Context, baggage: str) -> Context:
    """The context with the baggage that the saga was accepted with."""
    if not baggage:
        return context
    return replace(context, trace=replace(context.trace, baggage=baggage))


def bare_saga(row: SagaRow) -> Saga:
    """A saga without its journal, which was dropped or cannot be read: what its row has."""
    closed = row.closed_at is not None
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
        version=row.version,
        opener=row.fingerprint[PAYLOAD_HASH_CHARS:],
        was_completed=row.state is SagaState.COMPLETED,
        forgotten=closed and row.state not in _CLOSED_BY_TIME and not row.parked,
        stands=(row.step,) if closed and row.parked else (),
    )


_CLOSED_BY_TIME = (SagaState.COMPLETED, SagaState.COMPENSATED)
"""The states in which a saga is closed in the end. In any other one a person gave it up, or has to
where it is parked (decision 0101)."""


class Known(Protocol):
    """A saga as far as a function of the author may know it."""

    @property
    def terms(self) -> Saga:
        """The saga as an attempt that begins now has to know it."""
        ...

    @property
    def results(self) -> dict[str, msgspec.Raw]:
        """The results that the function may know, by the names of their steps."""
        ...

    @property
    def keys(self) -> dict[str, str]:
        """The keys that its journal binds, by the names of their steps."""
        ...


class Folded(msgspec.Struct, frozen=True):
    """A saga that is folded whole, as a function of the author may know it."""

    terms: Saga

    @property
    def results(self) -> dict[str, msgspec.Raw]:
        """See `Known`."""
        return results_of(self.terms)

    @property
    def keys(self) -> dict[str, str]:
        """See `Known`."""
        return keys_of(self.terms)


def results_of(saga: Saga) -> dict[str, msgspec.Raw]:
    """The results of its steps, by their names."""
    return {name: step.result for name, step in saga.steps.items() if step.result is not None}


def keys_of(saga: Saga) -> dict[str, str]:
    """The keys of its steps that its journal binds, by their names."""
    return {name: step.key for name, step in saga.steps.items() if step.key}


def view_of(
    stage: str, known: Known, context: Context, *, key: str, attempt: int, now: float
) -> RunView:
    """The view that a function of the author gets of its saga.

    `key` is the idempotency key of the step, empty where there is none; `now` is in seconds since
    the epoch.
    """
    saga = known.terms
    return RunView(
        id=saga.id,
        stage=stage,
        data=context.envelope.data if context.envelope is not None else {},
        trail=context.trail,
        results=known.results,
        keys=known.keys,
        deadline=saga.deadline,
        budget=None if saga.deadline is None else max(0.0, saga.deadline - now),
        key=key,
        attempt=attempt,
        now=now,
    )


def enriched(stage: str, saga: Saga, context: Context, output: msgspec.Raw | None) -> bytes:
    """The envelope for downstream: the data with our output, the trail with our name."""
    envelope = context.envelope
    assert envelope is not None  # a tombstone never goes forward
    data = dict(envelope.data)
    if output is not None:
        data[stage] = msgspec.json.decode(output)
    passed = TrailEntry(stage=stage, at=format_instant(saga.accepted_at))
    return encode_envelope(
        Envelope(
            saga_id=saga.id,
            data=data,
            protocol=envelope.protocol,
            deadline=saga.deadline,
            trail=(*envelope.trail, passed),
        )
    )


def output_of(
    participant: Participant, saga: Saga, context: Context, now: float
) -> msgspec.Raw | None:
    """The output of the stage. Raises what the author's function raises."""
    return participant.output(
        view_of(participant.plan.stage, Folded(saga), context, key="", attempt=1, now=now)
    )
