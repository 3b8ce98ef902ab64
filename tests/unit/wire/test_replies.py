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
    names_saga,
)
from tests.unit.wire.refusals import refusal_of
from tests.unit.wire.strategies import bodies, objects, saga_ids

OWN_WORDS = {
    ReplyKind.EXECUTED: {(200, "executed")},
    ReplyKind.ACCEPTED: {(202, "in_progress")},
    ReplyKind.REFUSED: {(409, "compensated"), (409, "not_executed")},
    ReplyKind.REJECTED: {(code, "not_executed") for code in (400, 413, 415, 422)},
    ReplyKind.GONE: {(410, "compensated"), (410, "not_executed")},
    ReplyKind.NOT_NOW: {(503, "not_executed"), (429, "not_executed")},
    ReplyKind.NOT_ALLOWED: {(401, "not_executed"), (403, "not_executed")},
    ReplyKind.TOO_LATE: {(504, "not_executed")},
}
"""The table of the protocol (3.3): what is believed."""
NOES = {400, 409, 410, 413, 415, 422}
NOT_OWN_WORDS = [
    b"",
    b"<html>",
    b"[]",
    b"{}",
    b'"compensated"',
    b'{"outcome":null}',
    b'{"outcome":["not_executed"]}',
    b'{"outcome":"done"}',
    *(
        json.dumps({"saga_id": "another", "outcome": outcome}).encode()
        for outcome in ("executed", "compensated", "not_executed")
    ),
    b'{"saga_id":null,"outcome":"not_executed"}',
    b'{"outcome":"executed","outcome":"not_executed"}',
]


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("named", [True, False])
def test_every_code_with_an_outcome_has_one_meaning(outcome: Outcome, named: bool) -> None:
    """Code and outcome have to agree; a no that contradicts itself is in doubt (protocol 3.3)."""
    body = json.dumps({"outcome": outcome, **({"saga_id": "s"} if named else {})}).encode()
    expected = {pair: kind for kind, pairs in OWN_WORDS.items() for pair in pairs}
    if not named:  # it refuses a request, and no saga (decision 0093)
        expected = {p: kind for p, kind in expected.items() if kind is not ReplyKind.REJECTED}

    for code in range(1_000):
        otherwise = ReplyKind.IN_DOUBT if code in NOES else ReplyKind.UNKNOWN
        assert expected.get((code, outcome), otherwise) is kind_of_reply(code, body, "s")


@pytest.mark.parametrize("body", NOT_OWN_WORDS)
def test_without_the_word_of_the_neighbour_nothing_is_believed(body: bytes) -> None:
    """A gateway says every code: the noes are in doubt, the rest is unknown (protocol 3.3)."""
    for code in range(1_000):
        expected = ReplyKind.IN_DOUBT if code in NOES else ReplyKind.UNKNOWN
        assert expected is kind_of_reply(code, body, "s")


@pytest.mark.parametrize("outcome", Outcome)
def test_every_code_of_compensate_with_an_outcome_has_one_meaning(outcome: Outcome) -> None:
    """The list of the protocol (3.4): what says neither done nor cannot is asked again."""
    body = json.dumps({"saga_id": "s", "outcome": outcome}).encode()
    final = {
        (200, "compensated"): CompensateReplyKind.COMPENSATED,
        (200, "not_executed"): CompensateReplyKind.COMPENSATED,
        (202, "in_progress"): CompensateReplyKind.ACCEPTED,
        (409, "executed"): CompensateReplyKind.CANNOT,
        (409, "unknown"): CompensateReplyKind.CANNOT,
        (410, "compensated"): CompensateReplyKind.COMPENSATED,
        (410, "not_executed"): CompensateReplyKind.COMPENSATED,
        (410, "unknown"): CompensateReplyKind.COMPENSATED,
    }
    again = {
        CompensateReplyKind.NOT_NOW,
        CompensateReplyKind.AWAY,
        CompensateReplyKind.NOT_UNDERSTOOD,
    }

    for code in range(1_000):
        kind = kind_of_compensate_reply(code, body, "s")
        assert final[code, outcome] is kind if (code, outcome) in final else kind in again


@pytest.mark.parametrize("body", NOT_OWN_WORDS)
def test_compensate_is_asked_again_until_the_neighbour_itself_answers(body: bytes) -> None:
    """A gateway may be away for long; whatever else answers is not understood (protocol 3.4)."""
    away = {401, 403, 408, 425, 429, *range(500, 1_000)}
    for code in range(1_000):
        expected = CompensateReplyKind.AWAY if code in away else CompensateReplyKind.NOT_UNDERSTOOD
        assert expected is kind_of_compensate_reply(code, body, "s")


@given(saga_ids, objects)
def test_an_addition_comes_back(saga_id: str, data: dict[str, Any]) -> None:
    """A stage is understood by a stage."""
    assert data == decode_executed(encode_executed(saga_id, data), saga_id)


def test_an_answer_is_written_in_one_way() -> None:
    """The members in the order of the protocol, data sorted."""
    assert (b'{"saga_id":"s","outcome":"executed","data":{"a":1,"b":2}}') == encode_executed(
        "s", {"b": 2, "a": 1}
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"outcome":"executed"}',
        b'{"outcome":"executed","data":{}}',
        b'{"saga_id":"s","outcome":"executed"}',
    ],
)
def test_a_simple_neighbour_may_say_little(body: bytes) -> None:
    """The id may be left out, and data when nothing is added; the outcome may not."""
    assert {} == decode_executed(body, "s")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"[]",
        b"{}",
        b'{"data":{}}',
        b'{"saga_id":"s","data":{}}',
        b'{"outcome":"executed","data":[]}',
        b'{"outcome":"executed","data":null}',
        b'{"saga_id":"t","outcome":"executed","data":{}}',
        b'{"saga_id":null,"outcome":"executed","data":{}}',
        b'{"outcome":"compensated","data":{}}',
        b'{"outcome":1,"data":{}}',
        b'{"outcome":"executed","data":{},"extra":1}',
        b'{"outcome":"executed","data":{},"data":{}}',
        b'{"outcome":"executed","data":{"a":NaN}}',
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
    assert request.outcome is None


def test_the_asker_may_say_that_nothing_stands_there() -> None:
    """Then it is not asked in turn (protocol 3.4)."""
    body = encode_compensate("shipping", "late", Outcome.COMPENSATED)

    assert Outcome.COMPENSATED is decode_compensate(body).outcome


@pytest.mark.parametrize("body", [b"", b"{}", b'{"requested_by":"","reason":""}'])
def test_a_request_to_compensate_may_be_empty(body: bytes) -> None:
    """A caller without a name is unknown."""
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
        (b'{"outcome":null}', 422),
        (b'{"outcome":"not_executed"}', 422),
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
        *((status, b'{"outcome":"not_executed"}', "gone") for status in (405, 501)),
        *((status, b'{"outcome":"unknown"}', "gone") for status in (405, 501)),
        *((status, b'{"outcome":"executed"}', "unknown") for status in (405, 501)),
        *((status, body, "unknown") for status in (405, 501) for body in (b"", b"<html>")),
        (200, b'{"saga_id":"s-2","outcome":"executed"}', "unknown"),
        (200, b'{"outcome":["executed"]}', "unknown"),
        (200, b'{"outcome":"done"}', "unknown"),
        (200, b"{}", "unknown"),
        (200, b'["executed"]', "unknown"),
        (200, b"<html>", "unknown"),
        (200, b"", "unknown"),
        (404, b"<html>", "unknown"),
        (404, b'{"outcome":"not_executed","status":404}', "unknown"),
        (404, b'{"outcome":"executed"}', "unknown"),
        *((status, b"", "unknown") for status in (203, 301, 401, 403, 408, 425, 429, 500, 503)),
        (500, b'{"outcome":"not_executed"}', "unknown"),
    ],
)
def test_the_answer_to_a_look_up_is_read(status: int, body: bytes, kind: str) -> None:
    """A no is only the neighbour's own word on the saga: a gateway says 404 and 403 as well."""
    assert kind == kind_of_saga_view(status, body, "s-1")


@pytest.mark.parametrize(
    "body, names",
    [
        (b'{"saga_id":"s"}', True),
        (b'{"saga_id":"t"}', False),
        (b"{}", False),
        (b"<html>", False),
        (b"", False),
    ],
)
def test_an_answer_names_a_saga_or_is_about_none(body: bytes, names: bool) -> None:
    """A page of a gateway is about no saga."""
    assert names is names_saga(body, "s")


@pytest.mark.parametrize("sent", [None, 1_700_000_000.123])
def test_the_asker_may_say_when_the_saga_was_first_sent(sent: float | None) -> None:
    """It shows a stage with an older database that it must have seen the saga (protocol 3.4)."""
    request = decode_compensate(encode_compensate("order", "late", first_sent_at=sent))
    assert CompensateRequest(requested_by="order", reason="late", first_sent_at=sent) == request
