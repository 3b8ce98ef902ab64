"""Replies: what a code means, and whether a neighbour's 200 can be trusted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.replies import (
    CompensateReplyKind,
    CompensateRequest,
    ReplyKind,
    decode_compensate,
    decode_executed,
    encode_compensate,
    encode_executed,
    kind_of_compensate_reply,
    kind_of_reply,
    kind_of_saga_view,
)
from tests.unit.wire.refusals import refusal_of
from tests.unit.wire.strategies import bodies, objects, saga_ids


def test_every_code_has_one_meaning() -> None:
    """The table of the protocol (3.3), and unknown for all the rest."""
    table = {
        ReplyKind.EXECUTED: {200},
        ReplyKind.ACCEPTED: {202},
        ReplyKind.REFUSED: {409},
        ReplyKind.REJECTED: {400, 401, 403, 413, 415, 422},
        ReplyKind.GONE: {410},
        ReplyKind.NOT_NOW: {503, 429},
        ReplyKind.TOO_LATE: {504},
    }
    expected = {code: kind for kind, codes in table.items() for code in codes}

    for code in range(1_000):
        assert expected.get(code, ReplyKind.UNKNOWN) is kind_of_reply(code)


def test_every_code_of_compensate_has_one_meaning() -> None:
    """The list of the protocol (3.4), and unknown for all the rest: it is asked again."""
    expected = {
        200: CompensateReplyKind.COMPENSATED,
        410: CompensateReplyKind.COMPENSATED,
        202: CompensateReplyKind.ACCEPTED,
        409: CompensateReplyKind.CANNOT,
        503: CompensateReplyKind.NOT_NOW,
        429: CompensateReplyKind.NOT_NOW,
    }

    for code in range(1_000):
        assert expected.get(code, CompensateReplyKind.UNKNOWN) is kind_of_compensate_reply(code)


@given(saga_ids, objects)
def test_what_was_added_comes_back(saga_id: str, data: dict[str, Any]) -> None:
    """A stage is understood by a stage."""
    assert data == decode_executed(encode_executed(saga_id, data), saga_id)


def test_an_answer_is_written_in_one_way() -> None:
    """The members in the order of the protocol, data sorted."""
    assert (b'{"saga_id":"s","outcome":"executed","data":{"a":1,"b":2}}') == encode_executed(
        "s", {"b": 2, "a": 1}
    )


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"data":{}}', b'{"saga_id":"s","data":{}}', b'{"outcome":"executed","data":{}}'],
)
def test_a_simple_neighbour_may_say_little(body: bytes) -> None:
    """The id and the outcome may be left out, and all of it when nothing is added."""
    assert {} == decode_executed(body, "s")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"[]",
        b'{"data":[]}',
        b'{"data":null}',
        b'{"saga_id":"s"}',
        b'{"outcome":"executed"}',
        b'{"saga_id":"t","data":{}}',
        b'{"saga_id":null,"data":{}}',
        b'{"outcome":"compensated","data":{}}',
        b'{"outcome":1,"data":{}}',
        b'{"data":{},"extra":1}',
        b'{"data":{},"data":{}}',
        b'{"data":{"a":NaN}}',
    ],
)
def test_an_answer_that_cannot_be_trusted_is_unknown(body: bytes) -> None:
    """The neighbour may have done it: the error never says not executed."""
    with pytest.raises(WireError) as caught:
        decode_executed(body, "s")

    assert (502, Outcome.UNKNOWN) == (caught.value.status, caught.value.outcome)


@given(bodies)
def test_any_answer_is_read_or_a_wire_error(body: bytes) -> None:
    """Nothing but WireError is raised, and it says unknown."""
    refusal = refusal_of(lambda body: decode_executed(body, "s"), body)

    assert refusal is None or Outcome.UNKNOWN is refusal.outcome


@given(st.text(max_size=2_000), st.text(max_size=2_000))
def test_a_request_to_compensate_is_always_understood(requested_by: str, reason: str) -> None:
    """Text of any length and kind is cut and mended: it never stops a compensation."""
    request = decode_compensate(encode_compensate(requested_by, reason))

    assert (
        requested_by[:128].encode(errors="replace").decode() or "unknown"
    ) == request.requested_by
    assert reason[:1_000].encode(errors="replace").decode() == request.reason


@pytest.mark.parametrize("body", [b"", b"{}", b'{"requested_by":"","reason":""}'])
def test_a_request_to_compensate_may_be_empty(body: bytes) -> None:
    """Who asks without a name is unknown."""
    assert CompensateRequest(requested_by="unknown", reason="") == decode_compensate(body)


@pytest.mark.parametrize(
    "body, status",
    [
        (b" ", 400),
        (b"x", 400),
        (b'{"reason":"a","reason":"b"}', 400),
        (b"[]", 422),
        (b'{"why":"x"}', 422),
        (b'{"reason":null}', 422),
        (b'{"reason":7}', 422),
        (b'{"requested_by":["x"]}', 422),
        (json.dumps({"reason": "x" * 1_001}).encode(), 422),
        (json.dumps({"requested_by": "x" * 129}).encode(), 422),
    ],
)
def test_a_wrong_request_to_compensate_is_refused(body: bytes, status: int) -> None:
    """Unknown members, wrong types and text over its limit."""
    with pytest.raises(WireError) as caught:
        decode_compensate(body)

    assert status == caught.value.status


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (200, b'{"saga_id":"s-1","outcome":"executed","state":"completed"}', "executed"),
        (200, b'{"outcome":"executed"}', "executed"),
        (200, b'{"outcome":"in_progress"}', "accepted"),
        (200, b'{"outcome":"not_executed"}', "gone"),
        (200, b'{"outcome":"compensated"}', "gone"),
        (200, b'{"outcome":"unknown"}', "gone"),
        (404, b'{"saga_id":"s-1","outcome":"not_executed","status":404}', "gone"),
        (405, b"", "gone"),
        (501, b"", "gone"),
        (200, b'{"saga_id":"s-2","outcome":"executed"}', "unknown"),
        (200, b'{"outcome":["executed"]}', "unknown"),
        (200, b'{"outcome":"done"}', "unknown"),
        (200, b"{}", "unknown"),
        (200, b'["executed"]', "unknown"),
        (200, b"<html>", "unknown"),
        (200, b"", "unknown"),
        (404, b"<html>", "unknown"),
        (404, b'{"outcome":"executed"}', "unknown"),
        *((status, b"", "unknown") for status in (203, 301, 401, 403, 408, 425, 429, 500, 503)),
        (500, b'{"outcome":"not_executed"}', "unknown"),
    ],
)
def test_what_a_shown_saga_means(status: int, body: bytes, kind: str) -> None:
    """A no is only the neighbour's own word on the saga: a gateway says 404 and 403 as well."""
    assert kind == kind_of_saga_view(status, body, "s-1")
