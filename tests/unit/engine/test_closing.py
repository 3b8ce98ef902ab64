"""The remains of a saga that a person closes, and the cases in which it may not be closed yet."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core.states import ParkCause, SagaState
from stage.core.unseen import first_id_at
from stage.engine.saga.closing import (
    DAY_SECONDS,
    answer_past_retention,
    closed,
    erased,
    erasure_act,
    is_given_up,
    purge_act,
    refuse_erasure,
    refuse_purge,
    row_may_go,
)
from stage.engine.saga.context import ANY_PAYLOAD
from stage.engine.saga.dropped import DROP_AGE_SECONDS_MIN
from stage.ports.store import Act, SagaRow
from stage.wire.answers import render_ending
from stage.wire.ending import Ending, EndingKind
from stage.wire.outcome import Outcome
from stage.wire.problem import ProblemType, decode_problem
from tests.unit.store.given import AT, row


def dated(at: float) -> str:
    """A UUIDv7 of that instant."""
    return f"{first_id_at(at)}000-8000-000000000001"


NOW = AT + 30 * DAY_SECONDS
OVER = replace(row(dated(AT), state=SagaState.COMPLETED), closed_at=AT + DAY_SECONDS)
"""Completed and closed, with an id that proves its age."""
UNDONE = replace(OVER, state=SagaState.COMPENSATED)
GIVEN_UP = replace(row("s-1", state=SagaState.ACTIVE), answer_status=410)
PARKED = replace(GIVEN_UP, parked="in doubt", parked_cause=ParkCause.IN_DOUBT)
FAILED = replace(
    GIVEN_UP, state=SagaState.FAILED_TO_COMPENSATE, answer_status=500, parked="effects stand"
)


@pytest.mark.parametrize(
    "change, given_up",
    [
        ({}, True),
        ({"answer_status": None}, False),
        ({"due_at": 9.0}, False),
        ({"parked": "x"}, False),
    ],
)
def test_a_saga_is_given_up_once_it_is_answered_and_nothing_is_due_of_it(
    change: dict[str, Any], given_up: bool
) -> None:
    """A parked saga is not: its journal says how to go on."""
    assert given_up is is_given_up(replace(GIVEN_UP, **change))


@pytest.mark.parametrize(
    "saga, why",
    [
        (OVER, ""),
        (UNDONE, ""),
        (replace(OVER, closed_at=None), ""),
        (GIVEN_UP, ""),
        (replace(FAILED, parked="", answer_status=410), ""),
        (replace(FAILED, closed_at=AT, parked=""), ""),
        (replace(FAILED, closed_at=AT), "it waits for a person: effects stand"),
        (FAILED, "resolve it once they are undone by hand"),
        (PARKED, "it is parked"),
        (
            replace(PARKED, parked_cause=ParkCause.UPSTREAM_AWAY),
            "to go on: bring upstream back, then retry, or forget it. Then erase it",
        ),
        (replace(GIVEN_UP, due_at=9.0), "it is unfinished"),
        (replace(OVER, closed_at=None, due_at=9.0), "it is unfinished"),
    ],
)
def test_an_erasure_waits_for_what_its_journal_is_still_needed_for(saga: SagaRow, why: str) -> None:
    """The reason says how to end it."""
    refused = refuse_erasure(saga)
    assert why in refused
    assert bool(why) is bool(refused)


def test_a_closed_saga_keeps_its_answer_and_no_run_of_it_can_write() -> None:
    """Rule 17: its epoch grows. The instant at which it was closed first stays."""
    first = closed(GIVEN_UP, NOW)
    assert replace(GIVEN_UP, epoch=2, envelope=b"", closed_at=NOW) == first
    assert AT + DAY_SECONDS == closed(OVER, NOW).closed_at


def test_an_erased_saga_keeps_its_id_its_outcome_and_its_opener() -> None:
    """A payload of few possible values can be guessed from its hash, and so that goes."""
    refusal = render_ending(
        Ending(
            saga_id="s-1", kind=EndingKind.FAILED, outcome=Outcome.NOT_EXECUTED, reason="Kim Minsu"
        )
    )
    before = replace(
        GIVEN_UP, fingerprint="f" * 64 + "opener", answer_status=409, answer_body=refusal.body
    )
    after = erased(before, NOW)
    assert (ANY_PAYLOAD + "opener", "", b"") == (
        after.fingerprint,
        after.tracestate,
        after.envelope,
    )
    assert (2, NOW) == (after.epoch, after.closed_at)
    assert b"Kim" not in after.answer_body
    problem = decode_problem(after.answer_body)
    assert problem is not None
    assert (409, Outcome.NOT_EXECUTED, "s-1") == (problem.status, problem.outcome, problem.saga_id)


def test_an_erased_saga_that_was_executed_still_says_so() -> None:
    """Its duplicates get 200 without the data."""
    body = erased(
        replace(OVER, answer_body=b'{"data":{"payment":{"card":"4111"}}}'), NOW
    ).answer_body
    assert b"executed" in body and b"4111" not in body


def test_an_erased_saga_that_never_had_an_answer_gets_none() -> None:
    after = erased(replace(GIVEN_UP, answer_status=None, answer_body=b""), NOW)
    assert (None, b"") == (after.answer_status, after.answer_body)


@pytest.mark.parametrize(
    "saga, why",
    [
        (OVER, ""),
        (UNDONE, ""),
        (FAILED, "only sagas that ended well are purged"),
        (replace(OVER, due_at=9.0), "only sagas that ended well are purged"),
        (replace(OVER, parked="x"), "only sagas that ended well are purged"),
        (replace(OVER, state=SagaState.ACTIVE), "only sagas that ended well are purged"),
        (replace(OVER, closed_at=None), "wait until it is closed"),
        (replace(OVER, id="o-1"), ""),
        (replace(OVER, id="o-1", answer_body=b""), "its answer is dropped already"),
        (replace(OVER, id=dated(NOW - DROP_AGE_SECONDS_MIN), closed_at=NOW), ""),
        (
            replace(OVER, id=dated(NOW - DROP_AGE_SECONDS_MIN + 1.0), closed_at=NOW),
            "younger than 7 days",
        ),
    ],
)
def test_a_purge_waits_until_nothing_of_the_saga_can_be_asked_for(saga: SagaRow, why: str) -> None:
    """Rule 21 and decision 0080: a repeat of it must be known by its id alone."""
    refused = refuse_purge(saga, NOW)
    assert why in refused
    assert bool(why) is bool(refused)


def test_a_row_goes_only_where_its_id_proves_that_a_repeat_comes_too_late() -> None:
    assert row_may_go(OVER)
    assert not row_may_go(replace(OVER, closed_at=None))
    assert not row_may_go(replace(OVER, id="o-1"))
    assert not row_may_go(replace(OVER, id=dated(NOW), closed_at=AT))


@pytest.mark.parametrize(
    "change, before, after",
    [
        ({}, "completed, answered 200", "dropped"),
        ({"id": "o-1"}, "completed, answered 200", "its answer is dropped"),
        ({"answer_status": None}, "completed, never answered", "dropped"),
    ],
)
def test_the_audit_keeps_what_a_purge_left_and_how_the_saga_stood(
    change: dict[str, Any], before: str, after: str
) -> None:
    """Nothing else is left of it."""
    saga = replace(OVER, **change)
    assert purge_act(saga, "kim", "ticket 7", NOW) == Act(
        at=NOW,
        actor="kim",
        act="purged",
        target=saga.id,
        reason="ticket 7",
        before=before,
        after=after,
    )


def test_the_audit_keeps_an_erasure_with_both_states() -> None:
    after = erased(PARKED, NOW)
    assert erasure_act(
        PARKED, replace(after, parked="", parked_cause=None), "kim", "law", NOW
    ) == Act(
        at=NOW,
        actor="kim",
        act="erased",
        target="s-1",
        reason="law",
        before="active, parked: in_doubt",
        after="active",
    )


def test_a_dropped_answer_is_replaced_by_the_outcome() -> None:
    """A compensated saga keeps its code; an executed one does not say yes again."""
    undone = answer_past_retention(replace(UNDONE, answer_status=409))
    stands = answer_past_retention(OVER)
    assert (409, 410) == (undone.status, stands.status)
    for answer, outcome in ((undone, Outcome.COMPENSATED), (stands, Outcome.EXECUTED)):
        problem = decode_problem(answer.body)
        assert problem is not None
        assert (ProblemType.PAST_RETENTION, outcome) == (problem.type, problem.outcome)
        assert (OVER.id, "a" * 32) == (problem.saga_id, problem.trace_id)
    untraced = decode_problem(answer_past_retention(replace(OVER, traceparent="")).body)
    assert untraced is not None and untraced.trace_id is None
