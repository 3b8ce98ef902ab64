"""The unchanging part of a saga: its envelope, its trace, and who sent which payload."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage import Saga as AuthorSaga
from stage import Stage
from stage.core import events as e
from stage.core.requester import opener_hash
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState
from stage.demo.payment import payment
from stage.engine.saga.context import (
    ANY_PAYLOAD,
    PAYLOAD_HASH_CHARS,
    Context,
    Folded,
    any_payload,
    baggage_of,
    bare_saga,
    buried,
    context_of,
    context_with,
    enriched,
    fingerprint_of,
    keys_of,
    output_of,
    results_of,
    same_opener,
    same_payload,
    view_of,
    with_baggage,
)
from stage.ports.observer import TraceContext
from stage.ports.store import Entry, SagaRow
from stage.store.codec import PLAIN
from stage.wire.envelope import Envelope, TrailEntry, decode_envelope, payload_hash

AT = 1_795_401_000.0
TRAIL = (
    TrailEntry(stage="shop", at="2026-11-23T02:29:57.120Z"),
    TrailEntry(stage="order", at="2026-11-23T02:29:58.120Z"),
)
ORDER = Envelope(saga_id="s-1", data={"amount": 100}, deadline=AT + 9.0, trail=TRAIL)
TRACE = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1")
CONTEXT = context_with(ORDER, PLAIN.encode_envelope(ORDER), fingerprint_of(ORDER), TRACE)
ROW = SagaRow(
    id="s-1",
    state=SagaState.ACTIVE,
    epoch=3,
    length=7,
    accepted_at=AT,
    updated_at=AT + 5.0,
    fingerprint=CONTEXT.fingerprint,
    version=2,
    parked="nobody knows",
    parked_cause=ParkCause.IN_DOUBT,
    deadline=AT + 9.0,
    envelope=CONTEXT.envelope_bytes,
    traceparent=TRACE.traceparent,
    tracestate=TRACE.tracestate,
)
CHARGED = msgspec.Raw(b'{"charge_id":"c-1"}')
SAGA = Saga(
    id="s-1",
    accepted_at=AT,
    updated_at=AT + 1.0,
    deadline=AT + 9.0,
    steps={
        "reserve": StepState(phase=Phase.SUCCEEDED, order=0, result=msgspec.Raw(b"null")),
        "charge": StepState(phase=Phase.SUCCEEDED, order=1, key="k", result=CHARGED),
        "record": StepState(phase=Phase.STARTED, order=2),
    },
)


def test_a_stored_saga_has_the_context_that_it_was_accepted_with() -> None:
    assert CONTEXT == context_of(ROW, PLAIN)
    assert ("shop", "order") == CONTEXT.trail
    assert {"amount": 100} == CONTEXT.data


def test_a_saga_without_an_envelope_keeps_its_fingerprint_and_its_trace() -> None:
    """A tombstone never had one, and that of a closed saga was dropped."""
    context = context_of(replace(ROW, envelope=b""), PLAIN)
    assert (None, b"", CONTEXT.fingerprint, TRACE) == (
        context.envelope, context.envelope_bytes, context.fingerprint, context.trace,
    )  # fmt: skip
    assert {} == context.data
    assert Context(envelope=None, envelope_bytes=b"", fingerprint="", trace=TRACE) == buried(TRACE)


def test_a_fingerprint_is_the_hash_of_the_payload_and_then_that_of_the_sender() -> None:
    known = fingerprint_of(ORDER)
    assert payload_hash(ORDER) + opener_hash("s-1", "order") == known
    nameless = fingerprint_of(replace(ORDER, trail=()))
    assert payload_hash(ORDER) == nameless and PAYLOAD_HASH_CHARS == len(nameless)


def test_a_saga_belongs_to_the_neighbour_that_sent_it_first() -> None:
    """Rule 11. A saga of a sender without a name belongs to every sender of its payload."""
    known = fingerprint_of(ORDER)
    stranger = fingerprint_of(replace(ORDER, trail=TRAIL[:1]))
    nameless = fingerprint_of(replace(ORDER, trail=()))
    assert same_opener(known, known)
    assert not same_opener(known, stranger)
    assert not same_opener(known, nameless)
    assert same_opener(nameless, stranger)


def test_another_payload_under_the_same_id_is_seen() -> None:
    """Whether it comes from the same sender or from another one."""
    known = fingerprint_of(ORDER)
    other = fingerprint_of(replace(ORDER, data={"amount": 101}))
    assert same_payload(known, fingerprint_of(replace(ORDER, trail=())))
    assert not same_payload(known, other)


def test_nothing_is_said_of_a_payload_that_is_not_kept() -> None:
    """A tombstone never had one, and an erased saga keeps its opener alone."""
    known = fingerprint_of(ORDER)
    forgotten = any_payload(known)
    assert ANY_PAYLOAD + opener_hash("s-1", "order") == forgotten
    assert same_payload(forgotten, fingerprint_of(replace(ORDER, data={"amount": 101})))
    assert same_payload("", known)
    assert not same_opener(forgotten, fingerprint_of(replace(ORDER, trail=TRAIL[:1])))
    assert "" == any_payload("")


def test_the_baggage_of_a_saga_is_that_of_its_first_entry() -> None:
    accepted = Entry(number=1, epoch=1, event=e.Accepted(at=AT, baggage="tenant=7"))
    buried_ = Entry(number=1, epoch=1, event=e.Tombstoned(at=AT))
    assert "tenant=7" == baggage_of([accepted, buried_])
    assert "" == baggage_of([buried_])
    assert "" == baggage_of([])
    assert replace(TRACE, baggage="tenant=7") == with_baggage(CONTEXT, "tenant=7").trace
    assert CONTEXT is with_baggage(CONTEXT, "")


def test_a_saga_whose_journal_is_not_read_is_what_its_row_says() -> None:
    """Its opener is known by a hash, so that it still belongs to it (rule 36)."""
    assert bare_saga(ROW) == Saga(
        id="s-1",
        state=SagaState.ACTIVE,
        epoch=3,
        length=7,
        accepted_at=AT,
        updated_at=AT + 5.0,
        deadline=AT + 9.0,
        parked="nobody knows",
        parked_cause=ParkCause.IN_DOUBT,
        version=2,
        opener=opener_hash("s-1", "order"),
    )


@pytest.mark.parametrize("state", SagaState)
@pytest.mark.parametrize("closed_at", [None, AT + 9.0])
def test_a_closed_saga_that_did_not_end_well_was_given_up(
    state: SagaState, closed_at: float | None
) -> None:
    """Rule 14: only a person closes it. Time closes a saga that ended well."""
    row = replace(ROW, state=state, closed_at=closed_at)
    saga = bare_saga(replace(row, parked="", parked_cause=None))
    ended_well = state in (SagaState.COMPLETED, SagaState.COMPENSATED)
    assert (closed_at is not None and not ended_well) is saga.forgotten
    assert (state is SagaState.COMPLETED) is saga.was_completed
    assert state is saga.state
    assert not bare_saga(row).forgotten, "a person is still to give it up (decision 0101)"


def test_a_closed_saga_that_waits_for_a_person_names_its_step() -> None:
    """Nothing else of it is kept: it landed when its journal was dropped."""
    row = replace(ROW, state=SagaState.FAILED_TO_COMPENSATE, step="charge")
    assert ("charge",) == bare_saga(replace(row, closed_at=AT)).stands
    assert () == bare_saga(row).stands
    assert () == bare_saga(replace(row, closed_at=AT, parked="", parked_cause=None)).stands


def test_a_function_sees_the_saga_its_results_and_the_time_that_is_left() -> None:
    view = view_of("payment", Folded(SAGA), CONTEXT, key="k", attempt=2, now=AT + 4.0)
    assert ("s-1", "payment", {"amount": 100}, ("shop", "order"), "k", 2) == (
        view.id, view.stage, view.data, view.trail, view.key, view.attempt,
    )  # fmt: skip
    assert {"reserve": msgspec.Raw(b"null"), "charge": CHARGED} == view.results == results_of(SAGA)
    assert {"charge": "k"} == view.keys == keys_of(SAGA)
    assert (AT + 9.0, 5.0, AT + 4.0) == (view.deadline, view.budget, view.now)


def test_no_time_is_left_behind_the_deadline_and_none_is_counted_without_one() -> None:
    late = view_of("payment", Folded(SAGA), CONTEXT, key="", attempt=1, now=AT + 99.0)
    free = view_of(
        "payment", Folded(replace(SAGA, deadline=None)), buried(TRACE), key="", attempt=1, now=AT
    )
    assert 0.0 == late.budget
    assert (None, None, {}, ()) == (free.deadline, free.budget, free.data, free.trail)


def test_downstream_gets_what_came_with_our_output_and_our_name() -> None:
    """Protocol 3.1: nothing that others wrote is changed, and the trail grows by one name."""
    body = enriched("payment", SAGA, CONTEXT, CHARGED)
    handed_on = decode_envelope(body)
    assert {"amount": 100, "payment": {"charge_id": "c-1"}} == handed_on.data
    assert ["shop", "order", "payment"] == [each.stage for each in handed_on.trail]
    assert ("s-1", AT + 9.0, "2026-11-23T02:30:00.000Z") == (
        handed_on.saga_id, handed_on.deadline, handed_on.trail[-1].at,
    )  # fmt: skip
    assert {"amount": 100} == CONTEXT.data, "the context itself is nobody's to change"


def test_a_stage_that_adds_nothing_hands_on_what_came() -> None:
    """And a deadline that stood still while a call was pending is the one of the saga by now."""
    body = enriched("payment", replace(SAGA, deadline=AT + 60.0), CONTEXT, None)
    handed_on = decode_envelope(body)
    assert {"amount": 100} == handed_on.data
    assert AT + 60.0 == handed_on.deadline


def test_the_output_is_made_of_the_results_of_the_saga() -> None:
    output = output_of(payment.bind(), SAGA, CONTEXT, AT + 2.0)
    assert output is not None
    assert {"charge_id": "c-1"} == msgspec.json.decode(output)


def test_an_output_is_never_repeated() -> None:
    """It has no key, and its attempt is the first one."""
    stage: Stage[dict[str, Any], list[Any]] = Stage("shop", accepts=dict[str, Any], adds=list[Any])

    @stage.output
    def added(saga: AuthorSaga[Any]) -> list[Any]:
        return [saga.key, saga.attempt, saga.budget]

    output = output_of(stage.bind(), replace(SAGA, steps={}), CONTEXT, AT + 2.0)
    assert output is not None
    assert ["", 1, 7.0] == msgspec.json.decode(output)
