"""`GET /sagas?since=`: the page of a neighbour is believed only when it answers the question."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.shared import (
    SHARED_PAGE_MAX,
    SharedPage,
    SharedSaga,
    Side,
    cursor_of,
    decode_shared,
    parse_cursor,
)
from stage.wire.views import encode_view

AT = "2026-11-23T02:29:58.120Z"
SAGA = SharedSaga(
    saga_id="s-1",
    side=Side.UPSTREAM,
    outcome=Outcome.EXECUTED,
    accepted_at=AT,
    updated_at=AT,
    envelope={"saga_id": "s-1", "data": {"amount": 1}},
)
PAGE = SharedPage(stage="order", shared_with="payment", sagas=[SAGA], next="1.5/s-1")


def test_a_page_comes_back_as_it_was() -> None:
    """With the envelope, read as strictly as one that arrives."""
    page = decode_shared(encode_view(PAGE), "payment")

    assert PAGE == page
    sent = page.sagas[0].sent
    assert sent is not None and {"amount": 1} == sent.data


@pytest.mark.parametrize(
    "wrong",
    [
        {"shared_with": "other"},
        {"sagas": [replace(SAGA, saga_id="s 1")]},
        {"sagas": [replace(SAGA, envelope={"saga_id": "s-2", "data": {}})]},
        {"sagas": [replace(SAGA, envelope={"saga_id": "s-1"})]},
        {"sagas": [SAGA] * (SHARED_PAGE_MAX + 1)},
    ],
)
def test_a_page_that_is_not_the_answer_is_not_believed(wrong: dict[str, Any]) -> None:
    """Another asker's list, an id that is none, the envelope of another saga, too many."""
    with pytest.raises(WireError):
        decode_shared(encode_view(replace(PAGE, **wrong)), "payment")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"sagas":[]}', b'{"sagas":[],"next":null}']
)
def test_a_login_page_and_a_plain_list_are_not_believed(body: bytes) -> None:
    """A stage that does not know `since` answers with all sagas."""
    with pytest.raises(WireError):
        decode_shared(body, "payment")


def test_an_envelope_may_be_left_out() -> None:
    """One that is too large for a page."""
    page = decode_shared(
        encode_view(replace(PAGE, sagas=[replace(SAGA, envelope=None)])), "payment"
    )

    assert page.sagas[0].sent is None


def test_a_cursor_comes_back_as_it_was() -> None:
    """To the last digit of the instant: the next page begins right behind it."""
    assert (1795401000.123457, "a/b~") == parse_cursor(cursor_of(1795401000.123457, "a/b~"))


@pytest.mark.parametrize("text", ["", "x", "1e400/x", "nan/x", "-1/x", "1.5", "/x"])
def test_a_text_that_is_no_cursor_is_refused(text: str) -> None:
    """With a reason, and never an instant that is none."""
    with pytest.raises(ValueError, match="after"):
        parse_cursor(text)
