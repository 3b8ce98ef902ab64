"""Throughput and latency, side by side: every contestant at every width, round after round.

All contestants run at the same time, and only one is under load: what else the machine does falls
on all of them alike. What is compared are medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.contestants import (
    CEILING,
    HANDWRITTEN,
    HANDWRITTEN_ON_ONE_CPU,
    LOGGED,
    REFUSED,
    STAGE,
    STAGE_ON_ONE_CPU,
    TRACED,
    Contestant,
    Place,
    Running,
    running,
)
from benchmarks.load import Load, offer
from benchmarks.processes import cpu_seconds

CONTESTANTS = (
    CEILING,
    HANDWRITTEN,
    HANDWRITTEN_ON_ONE_CPU,
    STAGE,
    STAGE_ON_ONE_CPU,
    LOGGED,
    TRACED,
    REFUSED,
)
WARM_UP_SECONDS = 2.0
WIDE = 32
"""Connections at which throughput is compared."""
LONE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One contestant under load once. Times are in seconds, `cpu` is a saga's."""

    contestant: str
    connections: int
    round: int
    rate: float
    p50: float
    p99: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A ratio that FIGURES names, and whether it was reached."""

    name: str
    says: str
    value: float
    goal: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """True when the goal was reached."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def measure(
    wrk: str,
    neighbours: str,
    folder: Path,
    *,
    widths: Sequence[int],
    rounds: int,
    seconds: float,
    contestants: Sequence[Contestant] = CONTESTANTS,
) -> Iterator[Sample]:
    """Yield samples as they are made. Raises RuntimeError when a contestant answers wrongly."""
    with ExitStack() as stack:
        listening = {
            each: stack.enter_context(
                running(
                    each,
                    Place(folder=folder / each.name, neighbours=neighbours, collector=neighbours),
                )
            )
            for each in contestants
        }
        for each, service in listening.items():
            _load(wrk, each, service, connections=8, seconds=WARM_UP_SECONDS, run="warm")
        for number in range(rounds):
            for width in widths:
                for each, service in listening.items():
                    before = cpu_seconds(service.pid)
                    run = f"r{number}-{width}"
                    seen = _load(wrk, each, service, connections=width, seconds=seconds, run=run)
                    yield Sample(
                        contestant=each.name,
                        connections=width,
                        round=number,
                        rate=seen.rate,
                        p50=seen.p50,
                        p99=seen.p99,
                        cpu=(cpu_seconds(service.pid) - before) / seen.requests,
                    )


def _load(
    wrk: str, each: Contestant, service: Running, *, connections: int, seconds: float, run: str
) -> Load:
    seen = offer(wrk, service.url, connections=connections, seconds=seconds, run=run)
    wrong = seen.requests - seen.status_errors if each.refuses else seen.status_errors
    if wrong or seen.socket_errors or not seen.requests:
        raise RuntimeError(f"{each.name} answered {wrong} of {seen.requests} wrongly: {seen}")
    return seen


def medians(samples: Sequence[Sample]) -> dict[tuple[str, int], dict[str, float]]:
    """Per contestant and width: the median of every number, and the spread of the rate."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for key in dict.fromkeys((each.contestant, each.connections) for each in samples):
        mine = [each for each in samples if (each.contestant, each.connections) == key]
        rates = [each.rate for each in mine]
        found[key] = {
            "rate": median(rates),
            "rate_min": min(rates),
            "rate_max": max(rates),
            "p50": median(each.p50 for each in mine),
            "p99": median(each.p99 for each in mine),
            "cpu": median(each.cpu for each in mine),
        }
    return found


def figures(found: dict[tuple[str, int], dict[str, float]]) -> list[Figure]:
    """P1 to P4 and P7, from the medians."""

    def rate(name: str) -> float:
        return found[name, WIDE]["rate"]

    lone = found[STAGE.name, LONE]["p50"] / found[HANDWRITTEN.name, LONE]["p50"]
    return [
        Figure(name="P1", says=f"throughput against the hand-written handler, {WIDE} connections",
               value=rate(STAGE.name) / rate(HANDWRITTEN.name), goal=4.0),
        Figure(name="P2", says=f"throughput against the ceiling, {WIDE} connections",
               value=rate(STAGE.name) / rate(CEILING.name), goal=0.70),
        Figure(name="P3", says="latency of a lone saga against the hand-written handler",
               value=lone, goal=1.15, at_most=True),
        Figure(name="P4", says="throughput with every saga traced and exported, against without",
               value=rate(TRACED.name) / rate(STAGE.name), goal=0.75),
        Figure(name="P7", says="throughput of sagas that are compensated, against completed ones",
               value=rate(REFUSED.name) / rate(STAGE.name), goal=0.60),
    ]  # fmt: skip


def raw(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """Every sample, as JSON can hold it."""
    return [asdict(each) for each in samples]
