"""The table of the callers of a chain."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.orchestrators import EVIDENCE, MEASURED, TITLES, Sample, table

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"


def samples(number: int, *, slower: float) -> list[Sample]:
    """A round in which a plain chain takes 10 ms, and every other caller so many times that."""
    return [
        Sample(
            caller=caller,
            round=number,
            alone_ms=10.0 * times,
            rate=100.0 / times,
            half_ms=20.0 * times,
            nearly_all_ms=30.0 * times,
        )
        for caller in TITLES
        for times in (1.0 if caller == "plain" else slower,)
    ]


def test_every_caller_has_a_line() -> None:
    """In the order of the titles, the plain chain first, against which the others are held."""
    assert MEASURED.keys() == TITLES.keys()
    lines = table(samples(0, slower=4.0)).splitlines()
    assert 2 + len(TITLES) == len(lines)
    against = "0.25 times the time, 4 times the rate"
    assert f"| a plain chain | 10 ms | 20 ms, 30 ms | 100.0 |  | {against} |" == lines[2]
    against = "4 times the time, 0.25 times the rate"
    assert lines[-1].endswith(f"| 40 ms | 80 ms, 120 ms | 25.0 | {against} |  |")


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """Each round against the plain chain of the same minutes, and against the documented work."""
    found = [
        each
        for number, slower in enumerate((2.0, 5.0, 90.0))
        for each in samples(number, slower=slower)
    ]
    lines = table(found).splitlines()[3:]
    assert all("5 times the time, 0.2 times the rate" in line for line in lines)
    assert all("1 times the time, 1 times the rate" in line for line in lines[:-1])


def test_the_page_has_the_table_of_the_file() -> None:
    """After a run `python -m benchmarks.orchestrators --from FILE` prints it for the page."""
    found = msgspec.json.decode((EVIDENCE / "callers.json").read_bytes())
    assert table([Sample(**each) for each in found["samples"]]) in PAGE.read_text("utf-8")
