"""Throughput, latency and processor time, side by side: every contestant, round after round.

All contestants run at the same time, and only one is under load: what else the machine does falls
on all of them alike. Medians over the rounds are compared.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.contestants import (
    CEILING,
    CEILING_TRANSPORT,
    GROUPED,
    GROUPED_TRANSPORT,
    HANDWRITTEN,
    HANDWRITTEN_ON_ONE_CPU,
    LOGGED,
    REFUSED,
    STAGE,
    STAGE_ON_ONE_CPU,
    TRACED,
    TWO_WORKERS,
    Contestant,
    Place,
    Running,
    replicas_running,
)
from benchmarks.load import Load, offer_to_all
from benchmarks.open_loop import ANSWER_SECONDS_MAX, Answered, offer_at_rate, percentile
from benchmarks.processes import tree_cpu_seconds

CONTESTANTS = (
    CEILING,
    CEILING_TRANSPORT,
    HANDWRITTEN,
    HANDWRITTEN_ON_ONE_CPU,
    GROUPED,
    GROUPED_TRANSPORT,
    STAGE,
    STAGE_ON_ONE_CPU,
    TWO_WORKERS,
    LOGGED,
    TRACED,
    REFUSED,
)
WARM_UP_SECONDS = 2.0
WARM_UP_CONNECTIONS = 8
WIDE = 32
"""Connections at which throughput is compared."""
LONE = 1
SHARE_OF_PEAK = 0.5
ATTEMPTS_MAX = 3
EXECUTED, REFUSAL = 200, 409
SHED = (429, 503)

Listening = Mapping[Contestant, tuple[Running, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One contestant under a closed loop once. Times are in seconds, `cpu` is a saga's."""

    contestant: str
    connections: int
    round: int
    requests: int
    rate: float
    p50: float
    p99: float
    cpu: float
    """Of all its processes."""
    server_cpu: float = 0.0
    """Processor time a saga of the database server; 0 on a file, which has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """One contestant under a fixed rate once, as open_loop offers it."""

    contestant: str
    round: int
    requests: int
    """The requests that were not shed."""
    offered: float
    """Sagas a second: half of its peak."""
    p50: float
    p99: float
    cpu: float


class AnsweredWrongly(RuntimeError):
    """A contestant gave other answers than it should, so that its numbers say nothing."""


@contextmanager
def all_running(
    contestants: Sequence[Contestant], folder: Path, neighbours: str, collector: str
) -> Iterator[Listening]:
    """All of them, each in a folder of its name; one after the other they end."""
    with ExitStack() as stack:
        yield {
            each: stack.enter_context(
                replicas_running(
                    each,
                    Place(folder=folder / each.name, neighbours=neighbours, collector=collector),
                )
            )
            for each in contestants
        }


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
    """Yield samples as they are made. Raises AnsweredWrongly."""
    with all_running(contestants, folder, neighbours, neighbours) as listening:
        warm_up(wrk, listening)
        yield from closed_loop(wrk, listening, widths=widths, rounds=rounds, seconds=seconds)


def warm_up(wrk: str, listening: Listening) -> None:
    """Load each for a moment. Nothing is judged: some answer their first saga after seconds."""
    for services in listening.values():
        urls = [service.url for service in services]
        offer_to_all(
            wrk, urls, connections=WARM_UP_CONNECTIONS, seconds=WARM_UP_SECONDS, run="warm"
        )


def closed_loop(
    wrk: str,
    listening: Listening,
    *,
    widths: Sequence[int],
    rounds: int,
    seconds: float,
    server_pid: int | None = None,
) -> Iterator[Sample]:
    """Each at each width in turn, as many connections as wide; `server_pid` is the database's.

    A load that was answered wrongly is made again, twice at most: a machine that has other work
    makes a stage late, which then sheds sagas, and a run of an hour is not to end with that.
    """
    # Long because a sample has members of each of the loops around it.
    for number in range(rounds):
        for width in widths:
            for each, services in listening.items():
                for attempt in range(ATTEMPTS_MAX):
                    run = f"r{number}-{width}-{attempt}"
                    before = _spent(services), _server_spent(server_pid)
                    try:
                        seen = _load(
                            wrk, each, services, connections=width, seconds=seconds, run=run
                        )
                    except AnsweredWrongly as error:
                        if attempt + 1 == ATTEMPTS_MAX:
                            raise
                        print(f"made again: {error}", file=sys.stderr)
                    else:
                        yield Sample(
                            contestant=each.name,
                            connections=width,
                            round=number,
                            requests=seen.requests,
                            rate=seen.rate,
                            p50=seen.p50,
                            p99=seen.p99,
                            cpu=(_spent(services) - before[0]) / seen.requests,
                            server_cpu=(_server_spent(server_pid) - before[1]) / seen.requests,
                        )
                        break


def open_loop(
    listening: Listening, samples: Sequence[Sample], *, rounds: int, seconds: float
) -> Iterator[Steady]:
    """Each in turn at half of its own peak, which is the median at its best width."""
    peaks = peak_rates(samples)
    for number in range(rounds):
        for each, services in listening.items():
            before = _spent(services)
            rate = peaks[each.name] * SHARE_OF_PEAK
            urls = [service.url for service in services]
            seen = offer_at_rate(urls, rate=rate, seconds=seconds, run=f"o{number}")
            latencies = latencies_of(each, seen)
            answered = sum(latency < ANSWER_SECONDS_MAX for latency in latencies)
            yield Steady(
                contestant=each.name,
                round=number,
                requests=answered,
                offered=rate,
                p50=percentile(latencies, 50),
                p99=percentile(latencies, 99),
                cpu=(_spent(services) - before) / max(1, answered),
            )


def latencies_of(each: Contestant, answers: Sequence[Answered]) -> list[float]:
    """In seconds. Raises AnsweredWrongly.

    A request that was shed counts as long as the longest wait, so that shedding betters no tail. A
    machine that has other work may have become slower than half of what it was.
    """
    expected = REFUSAL if each.refuses else EXECUTED
    wrong = Counter(one.status for one in answers if one.status not in (expected, *SHED))
    if wrong:
        raise AnsweredWrongly(f"{each.name} answered {len(answers)} with {dict(wrong)} among them")
    return [one.latency if one.status == expected else ANSWER_SECONDS_MAX for one in answers]


def peak_rates(samples: Sequence[Sample]) -> dict[str, float]:
    """The highest of the medians of each contestant, over the widths."""
    peaks: dict[str, float] = {}
    for (name, _), numbers in medians(samples).items():
        peaks[name] = max(peaks.get(name, 0.0), numbers["rate"])
    return peaks


def _spent(services: Sequence[Running]) -> float:
    return sum(tree_cpu_seconds(service.pid) for service in services)


def _server_spent(pid: int | None) -> float:
    return 0.0 if pid is None else tree_cpu_seconds(pid)


def _load(
    wrk: str,
    each: Contestant,
    services: Sequence[Running],
    *,
    connections: int,
    seconds: float,
    run: str,
) -> Load:
    urls = [service.url for service in services]
    seen = offer_to_all(wrk, urls, connections=connections, seconds=seconds, run=run)
    wrong = seen.requests - seen.status_errors if each.refuses else seen.status_errors
    if wrong or seen.socket_errors or not seen.requests:
        raise AnsweredWrongly(f"{each.name} answered {wrong} of {seen.requests} wrongly: {seen}")
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
            "server_cpu": median(each.server_cpu for each in mine),
        }
    return found


def raw(samples: Sequence[Sample | Steady]) -> list[dict[str, object]]:
    """Every sample, as JSON can hold it."""
    return [asdict(each) for each in samples]
