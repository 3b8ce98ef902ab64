"""Rows of the database as values."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core.errors import NewerJournal
from stage.core.states import SagaState
from stage.store import rows
from stage.store.codec import PLAIN, PlainCodec
from tests.unit.store.given import row

STATE, CAUSE = 1, 15
"""Their places among the parameters; `closed_at` comes before the cause in a row that is read."""


class Shouting(PlainCodec):
    """A codec whose answers can be told from what they hold."""

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        return body.upper()


@pytest.mark.parametrize("column", [STATE, CAUSE])
def test_a_word_of_a_newer_release_is_an_error_that_says_whose_saga_it_is(column: int) -> None:
    """Such a saga is left to that release, as one with an event that this one does not know."""
    written = list(rows.parameters(row("s-1"), PLAIN))
    written[column] = "hibernating"
    read = (*written[:15], None, *written[15:])
    with pytest.raises(NewerJournal, match=r"saga s-1 says 'hibernating'.* goes on with the saga"):
        rows.saga_row(read, PLAIN)


def test_a_row_comes_back_as_it_was() -> None:
    """Each column at its place."""
    written = rows.parameters(row("s-1"), PLAIN)
    assert row("s-1") == rows.saga_row((*written[:15], None, *written[15:]), PLAIN)


def test_only_the_columns_that_differ_are_saved_and_those_with_contents_are_encoded() -> None:
    """`closed_at` is none of a save: only the one who closes a saga writes it."""
    before = row("s-1")
    after = replace(
        before,
        state=SagaState.COMPLETED,
        length=before.length + 2,
        answer_body=b"done",
        closed_at=1.0,
    )
    columns, values = rows.changes(after, before, Shouting())
    found = dict(zip(columns, values, strict=False))
    assert {"state": "completed", "length": after.length, "answer_body": b"DONE"} == found
    assert str is type(found["state"])
    assert "s-1" == values[-1]


def test_of_a_row_that_stayed_the_same_nothing_is_saved() -> None:
    """The caller then saves all of it, for its fence alone."""
    assert ((), ["s-1"]) == rows.changes(row("s-1"), row("s-1"), PLAIN)
