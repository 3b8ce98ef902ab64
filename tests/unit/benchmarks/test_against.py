"""The comparison with another checkout: medians of the ratios of one round each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.against import of_checkout, ratios
from benchmarks.contestants import Place
from benchmarks.throughput import Sample


def sample(contestant: str, number: int, rate: float, cpu: float, width: int = 32) -> Sample:
    """One sample of a round."""
    return Sample(
        contestant=contestant,
        connections=width,
        round=number,
        requests=100,
        rate=rate,
        p50=0.01,
        p99=0.02,
        cpu=cpu,
    )


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is twice as fast in one round changes no ratio of it."""
    samples = [
        sample("this", 0, 900.0, 1.1e-3),
        sample("other", 0, 1000.0, 1.0e-3),
        sample("this", 1, 1800.0, 0.55e-3),
        sample("other", 1, 2000.0, 0.5e-3),
        sample("this", 1, 1.0, 1.0, width=1),
        sample("other", 1, 1.0, 1.0, width=1),
    ]

    rate, cpu = ratios(samples, 32)

    assert pytest.approx(0.9) == rate
    assert pytest.approx(1.1) == cpu


OTHER = '''
"""What the comparison needs of another checkout."""
from types import SimpleNamespace as Place

def command(place, port):
    return ["python", "-m", "stage", "serve", "--once-an-option", str(place.folder), str(port)]

STAGE = Place(command=command)
'''


def test_the_other_checkout_is_imported_from_its_own_folder(tmp_path: Path) -> None:
    """Not from the working directory, which `python -m` would put first."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "contestants.py").write_text(OTHER, encoding="utf-8")
    other = of_checkout("other", tmp_path)
    place = Place(folder=tmp_path, neighbours="http://127.0.0.1:1")

    python, flag, *words = other.command(place, 1)

    assert ("python", "-P") == (python, flag)
    assert str(tmp_path) == other.environment["PYTHONPATH"]
    # Its own options: those of this checkout may be unknown there.
    assert ["-m", "stage", "serve", "--once-an-option", str(tmp_path), "1"] == words
