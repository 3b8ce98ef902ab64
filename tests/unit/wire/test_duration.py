"""Durations in words: the console and the command line write the same."""

from __future__ import annotations

import pytest

from stage.wire.duration import duration


@pytest.mark.parametrize(
    "seconds, words",
    [
        *((-5.0, "0 s"), (0.4, "0 s"), (40.0, "40 s"), (60.0, "1 min"), (90.0, "1.5 min")),
        *((3_600.0, "1 h"), (9_000.0, "2.5 h"), (86_400.0, "1 d"), (4 * 86_400.0, "4 d")),
    ],
)
def test_a_duration_is_written_in_its_largest_unit(seconds: float, words: str) -> None:
    assert words == duration(seconds)
