"""Problems: what is written, and the lenient reading of what neighbours write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import (
    TYPE_OF_STATUS,
    Problem,
    ProblemType,
    WireError,
    decode_problem,
    untrusted_answer,
)
from tests.unit.wire.strategies import bodies, objects, texts

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

problems = st.builds(
    Problem,
    type=texts,
    title=texts,
    status=st.integers(100, 599),
    detail=texts,
    outcome=st.sampled_from(Outcome),
    retryable=st.booleans(),
    saga_id=st.none() | texts,
    trace_id=st.none() | st.just(TRACE_ID),
    hint=st.none() | texts,
    stands=st.none() | st.lists(texts, max_size=3).map(tuple),
)


def test_outcome_and_retryable_are_always_written() -> None:
    """The members that decide are written even when they hold the default; unknown ids are not."""
    problem = Problem(title="No", status=409, outcome=Outcome.NOT_EXECUTED)

    assert {
        "type": "urn:saga-stage:problem:conflict",
        "title": "No",
        "status": 409,
        "outcome": "not_executed",
        "retryable": False,
    } == json.loads(problem.encode())


def test_a_wire_error_becomes_a_problem_with_ids() -> None:
    """The error knows the text, the edge knows the ids."""
    error = WireError(422, "Wrong", "amount is missing", hint="send it", type="/problems/wrong")

    assert Problem(
        type="/problems/wrong",
        title="Wrong",
        status=422,
        detail="amount is missing",
        outcome=Outcome.NOT_EXECUTED,
        retryable=False,
        saga_id="s-1",
        trace_id=TRACE_ID,
        hint="send it",
    ) == error.problem("s-1", TRACE_ID)
    assert "422 Wrong: amount is missing" == str(error)


@given(problems)
def test_a_problem_comes_back_as_it_was(problem: Problem) -> None:
    """Reading what was written loses nothing; an empty type is the blank one."""
    decoded = decode_problem(problem.encode())

    assert decoded is not None
    if problem.type != "about:blank":
        assert problem.type or "about:blank" == decoded.type
    assert problem.encode() == (decoded if problem.type else _with_empty_type(decoded)).encode()


def _with_empty_type(problem: Problem) -> Problem:
    import msgspec

    return msgspec.structs.replace(problem, type="")


def test_a_problem_can_be_sent_whatever_its_text() -> None:
    """A lone surrogate out of a foreign error is replaced, and the answer is not lost."""
    problem = Problem(
        title="No", status=500, detail="a\ud800b", outcome=Outcome.UNKNOWN, stands=("\udfff",)
    )

    decoded = decode_problem(problem.encode())

    assert decoded is not None
    assert ("a?b", ("?",)) == (decoded.detail, decoded.stands)


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"null", b'"x"', b"{}", b'{"error":"x"}', b'{"status":"409"}', b"\xff",
     b'{"outcome":[]}', b'{"title":1,"status":true,"detail":null,"outcome":"done"}', b"[" * 9_999],
)  # fmt: skip
def test_a_body_that_is_no_problem_is_none(body: bytes) -> None:
    """Not JSON, not an object, or none of the members that make a problem."""
    assert decode_problem(body) is None


@pytest.mark.parametrize("more, read", [(0, True), (1, False)])
def test_a_problem_that_takes_long_to_read_is_none(more: int, read: bool) -> None:
    """1 MiB of such numbers takes 2.4 s, in which no other saga goes on."""
    numbers = b",".join([b"1e308"] * (DEFAULT_LIMITS.exponents_max + more))
    body = b'{"title":"Busy","numbers":[%s]}' % numbers
    assert read is (decode_problem(body) is not None)


def test_a_foreign_problem_is_read_as_far_as_it_goes() -> None:
    """Unknown members and wrong types are ignored, and a foreign outcome is unknown."""
    body = {
        "title": "Nope", "status": 9, "outcome": "done", "retryable": "yes", "trace_id": "x",
        "saga_id": 7, "stands": ["a", 1, "b"], "instance": "/x", "hint": {},
    }  # fmt: skip

    assert Problem(
        title="Nope", status=0, outcome=Outcome.UNKNOWN, stands=("a", "b")
    ) == decode_problem(json.dumps(body).encode())


def test_a_problem_is_cut_to_its_limits() -> None:
    """Text of a neighbour does not fill our journal; a huge body is not read at all."""
    body = json.dumps(
        {"title": "t" * 999, "detail": "d" * 9_999, "stands": ["s" * 9_999] * 99}
    ).encode()

    decoded = decode_problem(body)

    assert decoded is not None
    assert (256, 1_000, 64) == (len(decoded.title), len(decoded.detail), len(decoded.stands or ()))
    assert {1_000} == {len(item) for item in decoded.stands or ()}
    assert decode_problem(body, Limits(body_bytes_max=100)) is None


@given(bodies | objects.map(lambda value: json.dumps(value).encode()))
def test_reading_a_problem_never_raises(body: bytes) -> None:
    """The error of an error helps nobody."""
    decode_problem(body)


@given(
    st.dictionaries(st.sampled_from(Problem.__struct_fields__), objects | texts | st.lists(texts))
)
def test_members_of_any_type_never_raise(value: dict[str, Any]) -> None:
    """Nor do the right names with the wrong types."""
    decode_problem(json.dumps(value).encode())


@pytest.mark.parametrize("status", sorted(TYPE_OF_STATUS))
def test_a_problem_without_a_type_is_sent_with_that_of_its_code(status: int) -> None:
    """No problem of ours leaves as `about:blank`: a caller can tell the cases apart."""
    read = decode_problem(Problem(title="No", status=status, outcome=Outcome.UNKNOWN).encode())

    assert read is not None
    assert TYPE_OF_STATUS[status].value == read.type


def test_every_type_is_a_urn_of_ours_and_documented() -> None:
    """One row a case, and each in section 3.3."""
    page = (Path(__file__).parents[3] / "docs" / "neighbour.md").read_text(encoding="utf-8")

    for kind in ProblemType:
        assert kind.value.startswith("urn:saga-stage:problem:")
        assert f"`{kind.value.removeprefix('urn:saga-stage:problem:')}`" in page


@pytest.mark.parametrize(
    "status, kept", [(99, 0), (100, 100), (599, 599), (600, 0), (0, 0), ("409", 0), (True, 0)]
)
def test_a_status_that_is_no_code_is_left_out(status: object, kept: int) -> None:
    """The code of the answer itself holds."""
    body = json.dumps({"title": "No", "status": status}).encode()
    decoded = decode_problem(body)

    assert decoded is not None
    assert kept == decoded.status


@pytest.mark.parametrize("name", ["type", "title", "status", "detail", "outcome"])
def test_one_member_makes_a_problem(name: str) -> None:
    value = {"status": 409, "outcome": "executed"}.get(name, "x")
    decoded = decode_problem(json.dumps({name: value}).encode())

    assert decoded is not None
    assert value == getattr(decoded, name)


def test_the_text_of_a_neighbour_is_cut() -> None:
    """It goes into journals, logs and pages."""
    long = "x" * 5_000
    members = {
        **dict.fromkeys(("type", "title", "detail", "hint", "saga_id"), long),
        "stands": [long] * 100,
        "may_stand": [long],
    }
    decoded = decode_problem(json.dumps(members).encode())

    assert decoded is not None
    assert (256, 256, 1_000, 1_000, 128) == tuple(
        len(text or "")
        for text in (decoded.type, decoded.title, decoded.detail, decoded.hint, decoded.saga_id)
    )
    assert (64, {1_000}) == (
        len(decoded.stands or ()),
        {len(each) for each in decoded.stands or ()},
    )
    assert [1_000] == [len(each) for each in decoded.may_stand or ()]


def test_a_problem_over_the_limit_of_bodies_is_none() -> None:
    body = b'{"title":"No"}'
    assert decode_problem(body, Limits(body_bytes_max=len(body))) is not None
    assert decode_problem(body, Limits(body_bytes_max=len(body) - 1)) is None


@pytest.mark.parametrize("retryable", [True, False, None, 1, "true"])
def test_only_a_plain_yes_is_retryable(retryable: object) -> None:
    decoded = decode_problem(json.dumps({"title": "No", "retryable": retryable}).encode())

    assert decoded is not None
    assert (retryable is True) is decoded.retryable


def test_all_that_stands_or_may_stand_is_left() -> None:
    problem = Problem(title="No", status=500, outcome=Outcome.UNKNOWN)
    assert () == problem.left
    both = msgspec.structs.replace(problem, stands=("a",), may_stand=("b", "c"))
    assert ("a", "b", "c") == both.left


def test_a_wire_error_says_by_default_that_nothing_happened() -> None:
    """And that the same bytes will never be accepted. It says all that it was given."""
    plain = WireError(400, "No", "why")
    assert (Outcome.NOT_EXECUTED, False, "about:blank", None) == (
        plain.outcome, plain.retryable, plain.type, plain.hint,
    )  # fmt: skip
    said = WireError(
        503, "Later", "why", "wait", outcome=Outcome.UNKNOWN, retryable=True, type="urn:x"
    )
    assert (503, "Later", "why", "wait", Outcome.UNKNOWN, True, "urn:x") == (
        said.status, said.title, said.detail, said.hint, said.outcome, said.retryable, said.type,
    )  # fmt: skip


def test_an_answer_that_is_not_understood_leaves_the_doubt() -> None:
    """The neighbour may have done it, and is asked again (rule 27)."""
    error = untrusted_answer("it is a login page")
    assert (502, Outcome.UNKNOWN, True) == (error.status, error.outcome, error.retryable)
    assert "it is a login page" in error.detail
