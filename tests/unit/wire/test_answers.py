"""The answer of a saga that has ended: code, type and outcome agree, and it is never repeated."""

from __future__ import annotations

import json

import pytest

from stage.wire.answers import render_ending, render_past_retention, without_contents
from stage.wire.ending import Ending, EndingKind
from stage.wire.outcome import Outcome
from stage.wire.problem import ProblemType
from stage.wire.replies import ReplyKind, kind_of_reply

TRACE_ID = "0123456789abcdef" * 2


def ending_of(kind: EndingKind, outcome: Outcome, reason: str = "card declined") -> Ending:
    """An ending with a value in every member."""
    return Ending(
        saga_id="s-1",
        kind=kind,
        outcome=outcome,
        reason=reason,
        stands=("charge",),
        may_stand=("forward:shipping",),
        data={"payment": {"charge_id": "c-1"}},
        trace_id=TRACE_ID,
    )


def test_a_completed_saga_is_answered_with_what_was_added() -> None:
    """200 in the neighbour's own word, and the additions by stage."""
    answer = render_ending(ending_of(EndingKind.COMPLETED, Outcome.EXECUTED))

    assert 200 == answer.status
    assert {
        "saga_id": "s-1",
        "outcome": "executed",
        "data": {"payment": {"charge_id": "c-1"}},
    } == json.loads(answer.body)


@pytest.mark.parametrize(
    "kind, outcome, status, type_, meaning",
    [
        (EndingKind.FAILED, Outcome.COMPENSATED, 409, ProblemType.FAILED, ReplyKind.REFUSED),
        (
            EndingKind.COMPENSATED,
            Outcome.COMPENSATED,
            410,
            ProblemType.COMPENSATED,
            ReplyKind.GONE,
        ),
        (EndingKind.FORGOTTEN, Outcome.UNKNOWN, 410, ProblemType.FORGOTTEN, ReplyKind.IN_DOUBT),
        (
            EndingKind.FAILED_TO_COMPENSATE,
            Outcome.UNKNOWN,
            500,
            ProblemType.FAILED_TO_COMPENSATE,
            ReplyKind.UNKNOWN,
        ),
    ],
)
def test_any_other_end_is_a_problem(
    kind: EndingKind, outcome: Outcome, status: int, type_: ProblemType, meaning: ReplyKind
) -> None:
    """Every member of the ending is in it; the caller reads it as the protocol says (3.3)."""
    answer = render_ending(ending_of(kind, outcome))
    said = json.loads(answer.body)

    assert status == answer.status
    assert {
        "type": type_.value,
        "title": said["title"],
        "status": status,
        "detail": "card declined",
        "outcome": outcome.value,
        "retryable": False,
        "saga_id": "s-1",
        "trace_id": TRACE_ID,
        "hint": said["hint"],
        "stands": ["charge"],
        "may_stand": ["forward:shipping"],
    } == said
    assert meaning is kind_of_reply(answer.status, answer.body, "s-1")
    assert "compensate yourself" in said["hint"]


def test_only_a_saga_of_which_nothing_stands_is_said_to_leave_nothing() -> None:
    """After a person took it over, or where it could not be undone, the hint says no such thing."""
    leaves = {
        kind: "nothing of this saga stands" in json.loads(answer.body)["hint"]
        for kind in EndingKind
        if kind is not EndingKind.COMPLETED
        for answer in [render_ending(ending_of(kind, Outcome.UNKNOWN))]
    }
    assert {
        EndingKind.FAILED: True,
        EndingKind.COMPENSATED: True,
        EndingKind.FORGOTTEN: False,
        EndingKind.FAILED_TO_COMPENSATE: False,
    } == leaves


def test_an_end_without_a_reason_has_its_title_for_one() -> None:
    said = json.loads(render_ending(ending_of(EndingKind.FAILED, Outcome.COMPENSATED, "")).body)
    assert "Saga failed" == said["title"] == said["detail"]


@pytest.mark.parametrize(
    "status, executed, code, outcome",
    [
        (409, False, 409, Outcome.COMPENSATED),
        (410, False, 410, Outcome.COMPENSATED),
        (200, True, 410, Outcome.EXECUTED),
    ],
)
def test_past_retention_a_compensated_saga_keeps_its_code(
    status: int, executed: bool, code: int, outcome: Outcome
) -> None:
    """A 200 without its data would let its sender go on without them."""
    answer = render_past_retention("s-1", status, executed=executed, trace_id=TRACE_ID)
    said = json.loads(answer.body)

    assert code == answer.status == said["status"]
    assert (ProblemType.PAST_RETENTION, "Past retention") == (said["type"], said["title"])
    assert (outcome.value, False) == (said["outcome"], said["retryable"])
    assert ("s-1", TRACE_ID) == (said["saga_id"], said["trace_id"])
    assert executed == ("never run anew" in said["hint"])
    assert executed == ("was executed" in said["detail"])


@pytest.mark.parametrize("kind", list(EndingKind))
def test_without_its_contents_an_answer_says_the_same(kind: EndingKind) -> None:
    """Code, type and outcome stay, and the steps that stand; data and foreign words go."""
    answer = render_ending(ending_of(kind, Outcome.COMPENSATED))
    before = json.loads(answer.body)
    after = json.loads(without_contents("s-1", answer.status, answer.body))

    expected = before | (
        {"data": {}} if kind is EndingKind.COMPLETED else {"detail": before["title"]}
    )
    assert expected == after


def test_an_answer_that_is_gone_or_no_problem_has_nothing_to_keep() -> None:
    assert b"" == without_contents("s-1", 200, b"")
    assert b"" == without_contents("s-1", 409, b"<html>")
