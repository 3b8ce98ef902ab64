"""Rows of the database as values."""

from __future__ import annotations

import pytest

from stage.core.errors import NewerJournal
from stage.store import rows
from stage.store.codec import PLAIN
from tests.unit.store.given import row

STATE, CAUSE = 1, 15
"""Their places among the parameters; `closed_at` comes before the cause in a row that is read."""


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
