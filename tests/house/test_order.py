"""The order of the tests: every test runs once, a file in one piece, and long ones first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.order import IN_TURN, SECONDS, order, pieces, shares
from tests.sizes import TIERS

ROWS = {"long": 60, "longer": 90, "middling": 20}


def test_every_row_is_there(root: Path) -> None:
    """A test that was renamed would run last, and a worker would wait for it alone."""
    rows = {row for seconds in SECONDS.values() for row in seconds}
    rows |= {row for pieces in IN_TURN.values() for row in pieces}

    assert SECONDS.keys() == TIERS.keys() >= IN_TURN.keys()
    assert [] == [row for row in rows if not _stands(root, row)]


def _stands(root: Path, row: str) -> bool:
    file, _, function = row.partition("::")
    if not function and (root / file).is_dir():
        return True
    return (root / file).is_file() and f"def {function}(" in f"def ({(root / file).read_text()}"


@pytest.mark.parametrize("workers", [2, 3])
def test_each_test_comes_once_and_a_file_stays_in_one_piece(workers: int) -> None:
    """Known files and unknown ones; the tests of one file keep their order."""
    file = "tests/acceptance/test_kills.py"
    tests = ["a::1", "a::2[x]", "b::1", f"{file}::1", f"{file}::2", f"{file}::3", "c::1"]

    places = order("test", tests, workers)

    assert sorted(places) == [*range(len(tests))]
    assert [3, 4, 5] == places[:3], "the longest comes first"
    assert places.index(0) + 1 == places.index(1)


def test_a_test_with_a_row_of_its_own_is_shared_by_its_parameters() -> None:
    """Each of them is a piece, so that several workers share them; the file stays in one."""
    tests = ["a::other", "a::long[0]", "a::long[1-[x]]", "a::another", "b::1"]

    found = pieces({"a::long": 80, "a": 5}, tests)

    assert {"a": [0, 3], "a::long[0]": [1], "a::long[1-[x]]": [2], "b": [4]} == found


def test_a_folder_with_a_row_of_its_own_stays_in_one_piece() -> None:
    """Its files share what they read; those of a folder below it do not."""
    tests = ["a/x.py::1", "b/x.py::1", "a/b/x.py::1", "a/y.py::1[a/b]"]

    found = pieces({"a": 5}, tests)

    assert {"a": [0, 3], "b/x.py": [1], "a/b/x.py": [2]} == found


def test_kits_that_offer_a_rate_come_in_turn() -> None:
    """Of two kits that offer a rate at once each would starve the other."""
    counts = {"long": 1, "longer": 1, "middling": 1, "a": 1}

    dealt = shares(ROWS, counts, 2, ("middling", "long", "not here"))

    assert [["middling", "long"], ["longer", "a"]] == dealt


def test_a_share_begins_with_what_takes_long() -> None:
    """Long files go where the least time is taken, short ones where the fewest tests are."""
    counts = {"a": 40, "long": 1, "middling": 2, "b": 30, "longer": 3, "c": 4}

    assert [["longer", "a"], ["long", "middling", "b", "c"]] == shares(ROWS, counts, 2)
