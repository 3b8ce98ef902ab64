"""The body of an answer: as JSON, as a type of the author's, and nothing of a gateway's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from stage.authoring.http import NotJson, Response
from stage.testing import reply
from stage.wire.flood import EXPONENTS_OF_ANSWERS_MAX


class Charged(msgspec.Struct):
    id: str


@dataclass
class Paid:
    id: str


class Taken(TypedDict):
    id: str


class Booked(pydantic.BaseModel):
    id: str


KINDS: list[Any] = [Charged, Paid, Taken, Booked]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_read_as_a_type_that_a_payload_may_have(kind: Any) -> None:
    """Members that it does not name are left alone."""
    found = Response(reply(201, {"id": "c-1", "more": 1})).json(kind)
    assert "c-1" == (found["id"] if kind is Taken else found.id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [{"id": 7}, {"message": "card 4111"}, ["c-1"]])
def test_an_answer_of_another_type_is_believed_in_nothing(kind: Any, said: object) -> None:
    """The words name the type and the member, and quote no value."""
    with pytest.raises(
        NotJson, match=rf"answered 200 with JSON that is no {kind.__name__}: "
    ) as raised:
        Response(reply(200, said)).json(kind)
    assert "4111" not in str(raised.value)


@pytest.mark.parametrize("kind", [Any, *KINDS])
@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff"])
def test_a_page_is_no_answer(kind: Any, body: bytes) -> None:
    """For a type, too."""
    answer = msgspec.structs.replace(reply(200), body=body)
    with pytest.raises(NotJson):
        Response(answer).json(kind)


@pytest.mark.parametrize("kind", [Any, *KINDS])
@pytest.mark.parametrize("more, read", [(0, True), (1, False)])
def test_an_answer_that_takes_long_to_read_is_not_read(kind: Any, more: int, read: bool) -> None:
    """1 MiB of numbers such as 1e308 takes 2.4 s, in which no other saga goes on."""
    numbers = b",".join([b"1e308"] * (EXPONENTS_OF_ANSWERS_MAX + more))
    body = b'{"id":"c-1","numbers":[%s]}' % numbers
    answer = Response(msgspec.structs.replace(reply(200), body=body))
    if read:
        answer.json(kind)
        return
    with pytest.raises(NotJson, match="large exponent"):
        answer.json(kind)
