"""The table of the callers of a chain."""

from __future__ import annotations

from benchmarks.orchestrators import MEASURED, TITLES, Sample, table


def samples(number: int, *, slower: float) -> list[Sample]:
    """A round in which a plain chain takes 10 ms, and every other caller so many times that."""
    return [
        Sample(
            caller=caller,
            round=number,
            alone_ms=10.0 if caller == "plain" else 10.0 * slower,
            rate=100.0 if caller == "plain" else 100.0 / slower,
        )
        for caller in TITLES
    ]


def test_every_caller_has_a_line() -> None:
    """In the order of the titles, the plain chain first, against which the others are held."""
    assert MEASURED.keys() == TITLES.keys()
    lines = table(samples(0, slower=4.0)).splitlines()
    assert 2 + len(TITLES) == len(lines)
    assert "| a plain chain | 10 ms | 100.0 |  |" == lines[2]


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """Each round against the plain chain of the same minutes."""
    found = [
        each
        for number, slower in enumerate((2.0, 5.0, 90.0))
        for each in samples(number, slower=slower)
    ]
    assert all(
        "5.0 times the time, 1/5.0 of the rate" in line for line in table(found).splitlines()[3:]
    )
