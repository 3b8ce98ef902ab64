"""Members that an answer or a saga does not have: the error says the mend, and quotes no data."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest

from stage.authoring.habits import NoMember
from stage.authoring.http import Response
from stage.authoring.payload import Codec
from stage.authoring.saga import Saga
from stage.core.errors import AuthorDefect
from stage.core.raised import raised
from stage.testing import reply
from tests.unit.authoring.views import view


class Order(msgspec.Struct):
    card: str


DATA = {"card": "4242"}
ANSWER: Any = Response(reply(201, DATA))
SAGA: Any = Saga(msgspec.structs.replace(view(), data=DATA), Codec(Order))


@pytest.mark.parametrize(
    "ask, mend",
    [
        (lambda: ANSWER.status_code, "an answer has no status_code: write answer.status"),
        (lambda: ANSWER.raise_for_status(), "raise Refused or Transient"),
        (lambda: ANSWER.receipt, "has no receipt: it has body, headers, json(), status, text()"),
        (lambda: SAGA.saga_id, "a saga has no saga_id: write saga.id"),
        (lambda: SAGA.inptu, "a saga has no inptu: it has attempt, budget, data, deadline, id, "),
    ],
)
def test_a_member_that_is_not_there_is_named_with_its_mend(ask: Any, mend: str) -> None:
    """An AttributeError within a call is a doubt: its text is all that an operator sees of it."""
    with pytest.raises(AttributeError) as failed:
        ask()
    assert isinstance(failed.value, AuthorDefect)
    words = raised(failed.value)
    assert words.startswith("NoMember: test_members.py:") and mend in words, words
    assert "4242" not in words


@pytest.mark.parametrize("thing", [ANSWER, SAGA])
def test_a_name_that_is_data_is_not_quoted(thing: Any) -> None:
    """The reason of an attempt stands in the journal (rule 38)."""
    with pytest.raises(NoMember, match="has no such member: it has ") as failed:
        getattr(thing, DATA["card"])
    assert "4242" not in raised(failed.value)


def test_a_thing_that_is_asked_for_its_members_is_as_before() -> None:
    """`hasattr`, a default, a copy and a pickle ask for members that are not there."""
    for thing in (ANSWER, SAGA):
        assert not hasattr(thing, "status_code")
        assert getattr(thing, "__len__", None) is None
    pickled = pickle.loads(pickle.dumps(ANSWER))  # noqa: S301 - our own bytes
    for again in (copy.copy(ANSWER), copy.deepcopy(ANSWER), pickled):
        assert (again.status, again.json()) == (201, DATA)
    assert copy.copy(SAGA).input == Order("4242")
