"""The knowledge that a stage shares with a neighbour which lost the saga (rule 33)."""

from __future__ import annotations

import msgspec

from stage.core.questions import Standing, forward_of, hands_on_to, standing
from stage.core.requester import opener_hash
from stage.core.saga import Saga
from stage.core.states import Phase
from stage.core.steps import Plan
from stage.engine.saga.context import PAYLOAD_HASH_CHARS, Context
from stage.ports.engine import Snapshot
from stage.wire.envelope import encode_envelope, format_instant
from stage.wire.outcome import Outcome
from stage.wire.saga_outcome import outcome_of
from stage.wire.shared import ENVELOPE_BYTES_MAX, SharedSaga, Side

OF_THE_FORWARD = {
    Standing.STANDS: Outcome.EXECUTED,
    Standing.MAY_STAND: Outcome.UNKNOWN,
    Standing.UNKNOWN: Outcome.UNKNOWN,
    Standing.NOTHING: Outcome.COMPENSATED,
}
"""The outcome for a neighbour that the saga was handed to: what its answers said."""


def shared_with(
    neighbour: str, plan: Plan, snapshot: Snapshot, context: Context
) -> SharedSaga | None:
    """The saga for that neighbour, or None where it has no part in it.

    A saga that cannot be read by this version of the stage is shown to the upstream that opened
    it, with an unknown outcome; to whom else it was handed is not known.
    """
    saga, envelope = snapshot.saga, context.envelope
    if envelope is None:
        return _without_contents(neighbour, plan, snapshot, context.fingerprint)
    if envelope.upstream == neighbour:
        shown = outcome_of(saga.state, forgotten=saga.forgotten)
        outcome = shown if snapshot.readable else Outcome.UNKNOWN
        return _item(snapshot, Side.DOWNSTREAM, outcome, encode_envelope(envelope))
    name = forward_of(saga.under(plan), saga, neighbour)
    if not name:
        return None
    outcome = OF_THE_FORWARD[standing(saga, name)]
    if saga.steps[name].phase is Phase.COMPENSATION_FAILED:
        outcome = Outcome.UNKNOWN  # it answered that only a part of it stands
    return _item(snapshot, Side.UPSTREAM, outcome, _handed_on(saga, name))


def _without_contents(
    neighbour: str, plan: Plan, snapshot: Snapshot, fingerprint: str
) -> SharedSaga | None:
    """A saga that was closed or forgotten; None for a tombstone: nothing was ever done for it.

    Its opener is known by the hash of its name. A saga that was completed or compensated
    is so at every downstream. A saga that was given up may have been handed to each of them.
    """
    saga = snapshot.saga
    if not fingerprint:
        return None
    outcome = outcome_of(saga.state, forgotten=True)
    if fingerprint[PAYLOAD_HASH_CHARS:] == opener_hash(saga.id, neighbour):
        return _item(snapshot, Side.DOWNSTREAM, outcome, b"")
    if hands_on_to(saga.under(plan), neighbour):
        return _item(snapshot, Side.UPSTREAM, outcome, b"")
    return None


def _handed_on(saga: Saga, name: str) -> bytes:
    """The body that was sent, which is dropped once it certainly had no effect."""
    requests = saga.steps[name].requests
    return requests[0].body if requests else b""


def _item(snapshot: Snapshot, side: Side, outcome: Outcome, envelope: bytes) -> SharedSaga:
    fits = 0 < len(envelope) <= ENVELOPE_BYTES_MAX
    return SharedSaga(
        saga_id=snapshot.row.id,
        side=side,
        outcome=outcome,
        accepted_at=format_instant(snapshot.row.accepted_at),
        updated_at=format_instant(snapshot.row.updated_at),
        envelope=msgspec.json.decode(envelope) if fits else None,
    )
