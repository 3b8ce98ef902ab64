"""The ending of a saga that is over, as its neighbours get it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage import Saga as AuthorSaga
from stage import Stage, Tx
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, SagaState
from stage.demo.payment import payment
from stage.engine.saga import ending as endings
from stage.engine.saga.context import Context
from stage.engine.saga.ending import completed_ending, ending_of, why_unreadable
from stage.ports.observer import TraceContext
from stage.ports.stage import Participant
from stage.wire.ending import Ending, EndingKind
from stage.wire.envelope import Envelope
from stage.wire.outcome import Outcome

TRACED = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
CONTEXT = Context(
    envelope=Envelope(saga_id="s-1", data={"order_id": "o-1", "amount": 1, "currency": "KRW"}),
    envelope_bytes=b"{}",
    fingerprint="",
    trace=TRACED,
)
CHARGED = msgspec.Raw(b'{"charge_id":"c-1"}')
SHIPPED = msgspec.Raw(b'{"shipping":{"parcel":7}}')
DONE = StepState(phase=Phase.SUCCEEDED, order=0, result=msgspec.Raw(b"null"))
FORWARD = "forward:shipping"
REFUNDED = replace(DONE, phase=Phase.COMPENSATED)
STUCK = StepState(phase=Phase.COMPENSATION_FAILED, order=1, result=CHARGED)
COMPLETED = Saga(
    id="s-1",
    state=SagaState.COMPLETED,
    steps={
        "reserve": DONE,
        "charge": replace(DONE, result=CHARGED),
        "record": DONE,
        FORWARD: replace(DONE, result=SHIPPED),
    },
)


@pytest.fixture
def participant() -> Participant:
    return payment.bind(("shipping",))


def ended(state: SagaState, **more: Any) -> Saga:
    return Saga(id="s-1", state=state, detail="no such card", **more)


def test_a_completed_saga_says_what_it_and_those_behind_it_added(participant: Participant) -> None:
    """Protocol 3.3: by the names of the stages, and nothing of what came from upstream."""
    expected = Ending(
        saga_id="s-1",
        kind=EndingKind.COMPLETED,
        outcome=Outcome.EXECUTED,
        data={"payment": {"charge_id": "c-1"}, "shipping": {"parcel": 7}},
        trace_id="a" * 32,
    )
    assert expected == ending_of(participant, COMPLETED, CONTEXT)
    results = {name: step.result for name, step in COMPLETED.steps.items()}
    assert expected == completed_ending(participant, "s-1", CONTEXT, results, CHARGED)


def test_an_output_that_is_known_is_not_asked_for_again(participant: Participant) -> None:
    """Downstream and upstream get the same, also where the function would give another by now."""
    other = msgspec.Raw(b'{"charge_id":"c-2"}')
    ending = ending_of(participant, COMPLETED, CONTEXT, other)
    assert {"charge_id": "c-2"} == ending.data["payment"]
    assert {"shipping": {"parcel": 7}} == ending_of(participant, COMPLETED, CONTEXT, None).data


def test_an_ending_without_a_trace_names_none(participant: Participant) -> None:
    untraced = replace(CONTEXT, trace=TraceContext())
    assert ending_of(participant, COMPLETED, untraced).trace_id is None
    assert completed_ending(participant, "s-1", untraced, {}, None).trace_id is None


@pytest.mark.parametrize("requested_by", ["", "order"])
@pytest.mark.parametrize("stood", [True, False])
def test_a_saga_that_went_back_says_whether_it_was_asked_and_whether_anything_had_stood(
    participant: Participant, requested_by: str, stood: bool
) -> None:
    """Protocol 3.3: 410 and 409, each with an outcome that upstream may believe."""
    steps = {"charge": REFUNDED} if stood else {"charge": StepState(phase=Phase.REFUSED, order=0)}
    saga = ended(SagaState.COMPENSATED, requested_by=requested_by, steps=steps)
    assert ending_of(participant, saga, CONTEXT) == Ending(
        saga_id="s-1",
        kind=EndingKind.COMPENSATED if requested_by else EndingKind.FAILED,
        outcome=Outcome.COMPENSATED if stood else Outcome.NOT_EXECUTED,
        reason="no such card",
        trace_id="a" * 32,
    )


def test_a_saga_that_could_not_be_undone_lists_what_stands_and_what_may(
    participant: Participant,
) -> None:
    """Rule 12: failed for good, and it hides nothing."""
    lost = StepState(phase=Phase.COMPENSATION_FAILED, order=2, doubted=True)
    saga = ended(SagaState.FAILED_TO_COMPENSATE, steps={"charge": STUCK, FORWARD: lost})
    found = ending_of(participant, saga, CONTEXT)
    assert (EndingKind.FAILED_TO_COMPENSATE, Outcome.UNKNOWN) == (found.kind, found.outcome)
    assert (("charge",), (FORWARD,)) == (found.stands, found.may_stand)
    certain = ended(SagaState.FAILED_TO_COMPENSATE, steps={"charge": STUCK})
    assert (("charge",), None) == (
        ending_of(participant, certain, CONTEXT).stands,
        ending_of(participant, certain, CONTEXT).may_stand,
    )


@pytest.mark.parametrize(
    "state", [SagaState.ACTIVE, SagaState.COMPENSATING, SagaState.FAILED_TO_COMPENSATE]
)
def test_a_forgotten_saga_lists_what_was_left_standing(
    participant: Participant, state: SagaState
) -> None:
    """Rule 14: nobody undoes it any more. A step without a compensation may stay as it is."""
    steps = {
        "reserve": REFUNDED,
        "charge": replace(DONE, result=CHARGED),
        "record": DONE,
        FORWARD: StepState(phase=Phase.IN_DOUBT, order=3, doubted=True),
    }
    found = ending_of(participant, ended(state, forgotten=True, steps=steps), CONTEXT)
    assert (EndingKind.FORGOTTEN, Outcome.UNKNOWN) == (found.kind, found.outcome)
    assert (("charge",), (FORWARD,)) == (found.stands, found.may_stand)
    nothing = ending_of(participant, ended(state, forgotten=True), CONTEXT)
    assert ((), None) == (nothing.stands, nothing.may_stand)


@pytest.mark.parametrize(
    "state, kind",
    [(SagaState.COMPLETED, EndingKind.COMPLETED), (SagaState.COMPENSATED, EndingKind.FAILED)],
)
def test_a_saga_that_ended_well_stays_so_when_it_is_forgotten(
    participant: Participant, state: SagaState, kind: EndingKind
) -> None:
    """Its neighbours had that answer before."""
    saga = replace(COMPLETED, state=state, forgotten=True)
    found = ending_of(participant, saga, CONTEXT)
    assert (kind, None, None) == (found.kind, found.stands, found.may_stand)


def test_a_stage_that_adds_nothing_says_so_with_no_member_of_its_name() -> None:
    """The answer of downstream is in it all the same."""
    stage: Stage[dict[str, Any], None] = Stage("counter", accepts=dict[str, Any])

    @stage.transaction(compensation=None, reason="nothing to give back")
    async def count(tx: Tx, saga: AuthorSaga[dict[str, Any]]) -> None:
        """Nothing to write."""

    saga = replace(COMPLETED, steps={"count": DONE, FORWARD: replace(DONE, result=SHIPPED)})
    found = ending_of(stage.bind(("shipping",)), saga, CONTEXT)
    assert {"shipping": {"parcel": 7}} == found.data
    unanswered = {FORWARD: replace(DONE, result=None)}
    assert {} == ending_of(stage.bind(), replace(saga, steps=unanswered), CONTEXT).data


def test_a_downstream_rewrites_no_data(participant: Participant) -> None:
    """Protocol 3.1: the first to write a member holds. Of two downstreams that is the first."""
    rewrites = {"amount": 9, "payment": {"charge_id": "forged"}, "shipping": {"parcel": 7}}
    other = {"shipping": {"parcel": 8}, "ledger": {"line": 1}}
    results = {
        "forward:warehouse": msgspec.Raw(msgspec.json.encode(other)),
        FORWARD: msgspec.Raw(msgspec.json.encode(rewrites)),
    }
    ours = {"shipping": {"parcel": 7}, "ledger": {"line": 1}}
    ending = completed_ending(participant, "s-1", CONTEXT, results, None)
    assert ours == ending.data
    ending = completed_ending(participant, "s-1", CONTEXT, results, CHARGED)
    assert {**ours, "payment": {"charge_id": "c-1"}} == ending.data


def of_size(name: str, size: int) -> msgspec.Raw:
    """The addition of a downstream: one member, with so many bytes of text."""
    texts = ["x" * 1_000] * (size // 1_000)
    return msgspec.Raw(msgspec.json.encode({name: texts}))


def test_downstreams_that_each_keep_to_the_limits_may_exceed_them_together() -> None:
    """Each answer has at most 1 MiB; no upstream could read that of a stage which adds them up."""
    one, other = of_size("shipping", 600_000), of_size("ledger", 600_000)
    assert not why_unreadable("payment", "s-1", CONTEXT.data, {FORWARD: one}, CHARGED)
    both = {FORWARD: one, "forward:ledger": other}
    assert "(Body too large)" in why_unreadable("payment", "s-1", CONTEXT.data, both, CHARGED)
    assert not why_unreadable(
        "payment", "s-1", CONTEXT.data, {"charge": one, "record": other}, None
    )


def test_an_echo_of_the_data_does_not_make_an_answer_too_large() -> None:
    """It is not handed on."""
    size = {"shipping": of_size("shipping", 600_000), "order_id": of_size("order_id", 600_000)}
    echo = msgspec.Raw(msgspec.json.encode(size))
    assert not why_unreadable("payment", "s-1", CONTEXT.data, {FORWARD: echo}, CHARGED)


@pytest.mark.parametrize("output", [None, CHARGED, msgspec.Raw(b'{"at":1.5,"many":[1,2,[3]]}')])
def test_an_answer_that_anybody_can_read_is_not_read_for_it(
    output: msgspec.Raw | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs each saga that completes."""
    monkeypatch.setattr(endings, "check_executed", None)
    assert not why_unreadable("payment", "s-1", CONTEXT.data, {FORWARD: SHIPPED}, output)
