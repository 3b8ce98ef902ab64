"""The errors of the core: a log may hold the text of those alone that quote nobody."""

from __future__ import annotations

import pytest

from stage.core import errors
from stage.core.errors import StageError

QUOTING = {
    *("ConfigurationError", "StoreUnavailable", "CommitInDoubt"),
    *("JournalMismatch", "NewerJournal"),
}
"""They may quote a file, a driver, a row or the decoder of an entry."""
KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, StageError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_holds_the_text_of_an_error_that_quotes_nobody(kind: type[StageError]) -> None:
    """Neither a payload nor a foreign text reaches a log (rule 38)."""
    assert (kind.__name__ not in QUOTING) is kind.shown
