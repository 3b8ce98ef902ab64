"""The knowledge that a stage shares with a neighbour which lost the saga (rule 33)."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.requester import opener_hash
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, SagaState
from stage.demo.payment import payment
from stage.engine.saga import shared
from stage.engine.saga.context import Context, buried, context_with, fingerprint_of
from stage.engine.saga.shared import shared_with
from stage.ports.engine import Snapshot
from stage.ports.observer import TraceContext
from stage.store.codec import PLAIN
from stage.wire.envelope import Envelope, TrailEntry, format_instant
from stage.wire.outcome import Outcome
from stage.wire.shared import SharedSaga, Side
from tests.unit.store.given import row

PLAN = payment.bind(("shipping", "mail")).plan
FORWARD = "forward:shipping"
ORDER = Envelope(
    saga_id="s-1", data={"amount": 1}, trail=(TrailEntry(stage="order", at="2026-11-23T02:29:58Z"),)
)
CONTEXT = context_with(ORDER, PLAIN.encode_envelope(ORDER), fingerprint_of(ORDER), TraceContext())
HANDED_ON = b'{"saga_id":"s-1","data":{"amount":1,"payment":{}}}'
SENT = StepState(
    phase=Phase.SUCCEEDED,
    order=3,
    result=msgspec.Raw(b"{}"),
    requests=(e.Request(method="POST", path="/sagas", body=HANDED_ON),),
)
ROW = row("s-1")


def seen(state: SagaState = SagaState.ACTIVE, forward: StepState | None = None) -> Snapshot:
    """The saga as this stage sees it, with that state of the forward to shipping."""
    steps = {} if forward is None else {FORWARD: forward}
    return Snapshot(row=replace(ROW, state=state), saga=Saga(id="s-1", state=state, steps=steps))


def outcome(neighbour: str, snapshot: Snapshot, context: Context = CONTEXT) -> Outcome | None:
    """The outcome that the neighbour finds; None where the saga is not on its list."""
    found = shared_with(neighbour, PLAN, snapshot, context)
    return None if found is None else found.outcome


@pytest.mark.parametrize(
    "state, expected",
    [
        (SagaState.ACTIVE, Outcome.IN_PROGRESS),
        (SagaState.COMPENSATING, Outcome.IN_PROGRESS),
        (SagaState.COMPLETED, Outcome.EXECUTED),
        (SagaState.COMPENSATED, Outcome.COMPENSATED),
        (SagaState.FAILED_TO_COMPENSATE, Outcome.UNKNOWN),
    ],
)
def test_the_upstream_that_opened_it_finds_how_it_stands_here(
    state: SagaState, expected: Outcome
) -> None:
    """With the envelope that it sent, and as unknown where the journal cannot be read."""
    found = shared_with("order", PLAN, seen(state), CONTEXT)
    assert found == SharedSaga(
        saga_id="s-1",
        side=Side.DOWNSTREAM,
        outcome=expected,
        accepted_at=format_instant(ROW.accepted_at),
        updated_at=format_instant(ROW.updated_at),
        envelope=msgspec.json.decode(CONTEXT.envelope_bytes),
    )
    assert Outcome.UNKNOWN is outcome("order", replace(seen(state), readable=False))


@pytest.mark.parametrize(
    "forward, expected",
    [
        (SENT, Outcome.EXECUTED),
        (replace(SENT, phase=Phase.STARTED, result=None), Outcome.UNKNOWN),
        (replace(SENT, phase=Phase.COMPENSATED), Outcome.COMPENSATED),
        (replace(SENT, phase=Phase.REFUSED, result=None), Outcome.COMPENSATED),
        (replace(SENT, phase=Phase.COMPENSATION_FAILED), Outcome.UNKNOWN),
    ],
)
def test_a_downstream_finds_what_its_own_answers_said(
    forward: StepState, expected: Outcome
) -> None:
    """With the envelope that was handed on to it; a part that stands there is not known here."""
    found = shared_with("shipping", PLAN, seen(SagaState.COMPLETED, forward), CONTEXT)
    assert found is not None
    assert (Side.UPSTREAM, expected) == (found.side, found.outcome)
    assert msgspec.json.decode(HANDED_ON) == found.envelope


def test_a_body_that_was_dropped_is_left_out() -> None:
    """The saga is on the list all the same."""
    found = shared_with("shipping", PLAN, seen(forward=replace(SENT, requests=())), CONTEXT)
    assert found is not None and found.envelope is None


def test_an_envelope_too_large_for_a_page_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit it is still in."""
    monkeypatch.setattr(shared, "ENVELOPE_BYTES_MAX", len(HANDED_ON))
    found = shared_with("shipping", PLAN, seen(forward=SENT), CONTEXT)
    assert found is not None and found.envelope is not None
    monkeypatch.setattr(shared, "ENVELOPE_BYTES_MAX", len(HANDED_ON) - 1)
    found = shared_with("shipping", PLAN, seen(forward=SENT), CONTEXT)
    assert found is not None and found.envelope is None


@pytest.mark.parametrize("neighbour", ["mail", "stranger"])
def test_a_neighbour_that_had_no_part_in_it_does_not_find_it(neighbour: str) -> None:
    """Rule 38: the list says nothing that the neighbour has not seen before."""
    assert outcome(neighbour, seen(forward=SENT)) is None


CLOSED = replace(buried(TraceContext()), fingerprint=CONTEXT.fingerprint)


@pytest.mark.parametrize("name", ["shipping", "parcels"])
def test_a_downstream_that_was_renamed_finds_its_sagas_under_either_name(name: str) -> None:
    """A backup of before its rename knows the former one alone; so does a simple neighbour."""
    plan = replace(PLAN, peers_renamed={"parcels": "shipping"})
    assert shared_with(name, plan, seen(forward=SENT), CONTEXT) is not None
    assert shared_with(name, plan, seen(SagaState.COMPLETED), CLOSED) is not None
    assert shared_with("mule", plan, seen(forward=SENT), CONTEXT) is None


@pytest.mark.parametrize("neighbour, side", [("order", Side.DOWNSTREAM), ("mail", Side.UPSTREAM)])
@pytest.mark.parametrize(
    "state, expected",
    [
        (SagaState.COMPLETED, Outcome.EXECUTED),
        (SagaState.COMPENSATED, Outcome.COMPENSATED),
        (SagaState.ACTIVE, Outcome.UNKNOWN),
        (SagaState.COMPENSATING, Outcome.UNKNOWN),
        (SagaState.FAILED_TO_COMPENSATE, Outcome.UNKNOWN),
    ],
)
def test_a_closed_saga_is_found_by_its_opener_and_by_every_downstream(
    neighbour: str, side: Side, state: SagaState, expected: Outcome
) -> None:
    """Nothing says any more which of them had it; a saga that was given up may stand anywhere."""
    found = shared_with(neighbour, PLAN, seen(state), CLOSED)
    assert found is not None
    assert (side, expected, None) == (found.side, found.outcome, found.envelope)


def test_a_closed_saga_is_not_found_by_another_upstream() -> None:
    """The hash of the opener's name is kept, and the name of nobody."""
    assert CLOSED.fingerprint.endswith(opener_hash("s-1", "order"))
    assert outcome("shop", seen(SagaState.COMPLETED), CLOSED) is None


def test_a_tombstone_is_on_no_list() -> None:
    """Nothing was ever done for it."""
    tombstone = seen(SagaState.COMPENSATED)
    for neighbour in ("order", "shipping"):
        assert outcome(neighbour, tombstone, buried(TraceContext())) is None
