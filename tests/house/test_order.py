"""The order of the tests: every test runs once, a file in one piece, and long files first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.order import SECONDS, order, shares
from tests.sizes import TIERS

ROWS = {"long": 60, "longer": 90, "middling": 20}


def test_every_file_of_the_table_is_there(root: Path) -> None:
    """A file that was renamed would run last, and a worker would wait for it alone."""
    assert SECONDS.keys() == TIERS.keys()
    assert [] == [file for rows in SECONDS.values() for file in rows if not (root / file).is_file()]


@pytest.mark.parametrize("workers", [2, 3])
def test_each_test_comes_once_and_a_file_stays_in_one_piece(workers: int) -> None:
    """Known files and unknown ones; the tests of one file keep their order."""
    file = "tests/acceptance/test_kills.py"
    files = ["a", "a", "b", file, file, file, "c"]

    places = order("test", files, workers)

    assert sorted(places) == [*range(len(files))]
    assert [3, 4, 5] == places[:3], "the longest comes first"
    assert places.index(0) + 1 == places.index(1)


def test_a_share_begins_with_what_takes_long() -> None:
    """Long files go where the least time is taken, short ones where the fewest tests are."""
    counts = {"a": 40, "long": 1, "middling": 2, "b": 30, "longer": 3, "c": 4}

    assert [["longer", "a"], ["long", "middling", "b", "c"]] == shares(ROWS, counts, 2)
