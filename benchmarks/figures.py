"""The figures of speed: what is compared with what, and the goal that it is held to.

A figure is the median over the rounds of what two contestants did side by side in one round, so
that a machine that becomes faster or slower between two rounds changes none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contestants import (
    CEILING,
    CEILING_TRANSPORT,
    GROUPED,
    GROUPED_TRANSPORT,
    HANDWRITTEN,
    REFUSED,
    STAGE,
    TRACED,
    TWO_WORKERS,
    Contestant,
)
from benchmarks.throughput import LONE, WIDE, Sample, Steady


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that docs/figures.md names, and whether its goal was reached."""

    name: str
    says: str
    value: float
    goal: float | None
    """None for what is only compared."""
    at_most: bool = False
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """True when the goal was reached; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def rate(this: Sample, other: Sample) -> float:
    """How many times as many sagas a second."""
    return this.rate / other.rate


def cpu(this: Sample, other: Sample) -> float:
    """How many times the processor time of a saga."""
    return this.cpu / other.cpu


def latency(this: Sample, other: Sample) -> float:
    """How many times the time until half were answered."""
    return this.p50 / other.p50


def more_cpu(this: Sample, other: Sample) -> float:
    """How many microseconds of processor time a saga takes more."""
    return (this.cpu - other.cpu) * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two contestants, by name, and the goal that their comparison is held to."""

    name: str
    says: str
    this: str
    other: str
    compared: Callable[[Sample, Sample], float]
    goal: float | None
    at_most: bool = False
    connections: int = WIDE

    def of(self, samples: Sequence[Sample]) -> Figure | None:
        """The figure; None unless both were measured at that width."""
        values = of_rounds(samples, self.this, self.other, self.connections, self.compared)
        if not values:
            return None
        return Figure(
            name=self.name,
            says=self.says,
            value=median(values),
            goal=self.goal,
            at_most=self.at_most,
            unit="us" if self.compared is more_cpu else "",
        )


def of_rounds(
    samples: Sequence[Sample],
    this: str,
    other: str,
    width: int,
    compared: Callable[[Sample, Sample], float],
) -> list[float]:
    """That comparison in each round in which both were measured at that width."""
    by_round: dict[int, dict[str, Sample]] = {}
    for sample in samples:
        if sample.connections == width:
            by_round.setdefault(sample.round, {})[sample.contestant] = sample
    return [
        compared(found[this], found[other])
        for found in by_round.values()
        if this in found and other in found
    ]


ON_A_FILE = (
    Comparison(name="P1", says="throughput against the hand-written handler",
               this=STAGE.name, other=HANDWRITTEN.name, compared=rate, goal=3.0),
    Comparison(name="P1", says="throughput of two workers against the hand-written handler",
               this=TWO_WORKERS.name, other=HANDWRITTEN.name, compared=rate, goal=4.5),
    Comparison(name="P2", says="throughput against two HTTP calls without a database",
               this=STAGE.name, other=CEILING.name, compared=rate, goal=0.70),
    Comparison(name="P2", says="the same, the calls through the transport of the stage",
               this=STAGE.name, other=CEILING_TRANSPORT.name, compared=rate, goal=None),
    Comparison(name="P3", says="latency of a lone saga against the hand-written handler",
               this=STAGE.name, other=HANDWRITTEN.name, compared=latency, goal=1.15,
               at_most=True, connections=LONE),
    Comparison(name="P4", says="processor time more where every saga is traced and exported",
               this=TRACED.name, other=STAGE.name, compared=more_cpu, goal=90.0, at_most=True),
    Comparison(name="P4", says="throughput traced against untraced",
               this=TRACED.name, other=STAGE.name, compared=rate, goal=0.75),
    Comparison(name="P7", says="throughput of compensated sagas against completed ones",
               this=REFUSED.name, other=STAGE.name, compared=rate, goal=0.60),
    Comparison(name="P9", says="throughput of two workers against one",
               this=TWO_WORKERS.name, other=STAGE.name, compared=rate, goal=1.6),
    Comparison(name="P12", says="processor time more than the handler with group commit",
               this=STAGE.name, other=GROUPED.name, compared=more_cpu, goal=150.0, at_most=True),
    Comparison(name="P12", says="the same, the handler with the transport of the stage",
               this=STAGE.name, other=GROUPED_TRANSPORT.name, compared=more_cpu, goal=150.0,
               at_most=True),
    Comparison(name="P12", says="throughput against the handler with group commit",
               this=STAGE.name, other=GROUPED.name, compared=rate, goal=1.0),
)  # fmt: skip
TAIL_GOAL = 4.0


def figures(
    samples: Sequence[Sample],
    steady: Sequence[Steady],
    comparisons: Sequence[Comparison],
    tails: Sequence[Contestant],
) -> list[Figure]:
    """All that can be had of what was measured; P13 for those contestants."""
    compared = [figure for each in comparisons if (figure := each.of(samples)) is not None]
    return compared + [figure for each in tails if (figure := _tail(steady, each)) is not None]


def exported(served: int, sagas: int) -> Figure:
    """P4 holds for nothing less than every saga: those that a collector saw served."""
    return Figure(
        name="P4",
        says="sagas whose span was exported, of all that were begun",
        value=served / sagas,
        goal=1.0,
    )


def _tail(steady: Sequence[Steady], each: Contestant) -> Figure | None:
    """P13: p99 against p50 of the same run, at half of the peak."""
    values = [one.p99 / one.p50 for one in steady if one.contestant == each.name]
    if not values:
        return None
    return Figure(
        name="P13",
        says=f"p99 against p50 at half of the peak: {each.title}",
        value=median(values),
        goal=TAIL_GOAL,
        at_most=True,
    )
