"""Many worlds, one after the other: what struck, how sagas ended, and what did not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec.structs import replace

from stage.core.events import name_of
from stage.simulation.facts import Violation
from stage.simulation.world import Result, Scenario, simulate_world

FILES_EVERY = 50
"""Every so many seeds the stores of a world are SQLite files."""
FAILURES_MAX = 20
"""Failing worlds that are kept; the others are counted."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A world in which something did not hold: the seed replays it."""

    seed: int
    chain: str
    violation: Violation
    history: tuple[str, ...]


class Summary(msgspec.Struct, kw_only=True):
    """The results of a range of seeds."""

    seeds: int = 0
    sagas: int = 0
    in_files: int = 0
    """Worlds whose stores were SQLite files."""
    virtual_seconds: float = 0.0
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    """How often each kind of fault struck."""
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    """How often each kind of event was journaled."""
    states: Counter[str] = msgspec.field(default_factory=Counter)
    """How sagas ended, by stage and saga; `parked` beside the state."""
    verdicts: Counter[str] = msgspec.field(default_factory=Counter)
    """The beliefs of clients in the end."""
    chains: Counter[str] = msgspec.field(default_factory=Counter)
    webhooks: Counter[str] = msgspec.field(default_factory=Counter)
    """How many webhooks were believed, and how many refused."""
    violations: int = 0
    failures: list[Failure] = []

    def add(self, result: Result) -> None:
        """Count one world."""
        self.seeds += 1
        self.sagas += result.sagas
        self.virtual_seconds += result.seconds
        self.faults.update(result.struck)
        self.states.update(result.states)
        self.verdicts.update(result.verdicts)
        self.webhooks.update(result.webhooks)
        self.chains[result.chain] += 1
        self.outcomes.update(
            name_of(line.what) for line in result.transcript.lines if not isinstance(line.what, str)
        )
        self.violations += len(result.violations)
        if result.violations and len(self.failures) < FAILURES_MAX:
            self.failures.append(failure_of(result))

    def merge(self, other: Summary) -> None:
        """Take over the counts of another range."""
        self.seeds += other.seeds
        self.sagas += other.sagas
        self.in_files += other.in_files
        self.virtual_seconds += other.virtual_seconds
        self.faults.update(other.faults)
        self.outcomes.update(other.outcomes)
        self.states.update(other.states)
        self.verdicts.update(other.verdicts)
        self.chains.update(other.chains)
        self.webhooks.update(other.webhooks)
        self.violations += other.violations
        self.failures = [*self.failures, *other.failures][:FAILURES_MAX]


def failure_of(result: Result) -> Failure:
    """The first violation of a world, with the history of its saga."""
    first = result.violations[0]
    saga = first.saga or next((line.saga for line in result.transcript.lines if line.saga), "")
    return Failure(
        seed=result.seed,
        chain=result.chain,
        violation=first,
        history=tuple(result.transcript.history(saga)),
    )


def simulate_many(
    seeds: Iterable[int],
    scenario: Scenario,
    *,
    files_every: int = FILES_EVERY,
    each: Callable[[Result], None] = lambda result: None,
) -> Summary:
    """Simulate one world a seed; every so many have their stores in SQLite files (0: none)."""
    summary = Summary()
    for seed in seeds:
        if files_every and seed % files_every == files_every - 1:
            summary.in_files += 1
            result = simulate_in_files(seed, scenario)
        else:
            result = simulate_world(seed, scenario)
        summary.add(result)
        each(result)
    return summary


def simulate_in_files(seed: int, scenario: Scenario) -> Result:
    """One world whose stores are SQLite files, which are gone afterwards."""
    with TemporaryDirectory(prefix="stage-simulation-") as folder:
        return simulate_world(seed, replace(scenario, folder=Path(folder)))
