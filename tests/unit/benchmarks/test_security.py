"""The ratios that `benchmarks.security` prints."""

from __future__ import annotations

from benchmarks.contestants import STAGE
from benchmarks.security import TLS, ratios
from benchmarks.throughput import Sample


def sample(name: str, number: int, rate: float, cpu: float) -> Sample:
    return Sample(contestant=name, connections=32, round=number, rate=rate, p50=0, p99=0, cpu=cpu)


def test_ratios_are_taken_round_by_round() -> None:
    """A round in which the machine was slow slows both, and the median leaves out the odd one."""
    rounds = [(100.0, 80.0, 1.5), (10.0, 8.0, 1.5), (100.0, 10.0, 9.0)]
    samples = []
    for number, (usual, slower, times) in enumerate(rounds):
        samples.append(sample(STAGE.name, number, usual, 0.001))
        samples.append(sample(TLS, number, slower, 0.001 * times))

    assert (0.8, 1.5) == ratios(samples, TLS, 32)
