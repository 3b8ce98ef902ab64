"""F1: simulated sagas under swarm faults; every invariant is held against the world's books."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from stage.simulation.faults import (
    CLOSED,
    DROPPED,
    EMPTIED,
    END_FOUND,
    END_LOST,
    JOINED_ELSEWHERE,
    KINDS,
    LANDED,
    LOST,
    NOT_LANDED,
    UNDONE_ELSEWHERE,
)
from stage.simulation.files import BlockingStore
from stage.simulation.summary import Summary, simulate_in_files, simulate_many
from stage.simulation.world import Scenario, simulate_world
from stage.store.sqlite import watch
from tests.kits import Strikes
from tests.sizes import SAGAS_PER_WORLD, SIZES, TIER

pytestmark = pytest.mark.blocking  # files of SQLite are driven within the virtual loop, on purpose

SEEDS_PER_TEST = min(SIZES.worlds, 400)
"""So many worlds of level G meet every kind of fault; a small helping takes further ones."""
SEEDS = f"0 to {SIZES.worlds - 1}"
ENDS_LOST = 1 + SIZES.worlds_each // 50
WORLDS_MAX = 1_000
"""A fault that has not struck in so many worlds is not there."""
OF_FILES = frozenset({"commit_raises_before", "commit_raises_after"})
"""Faults that only a SQLite file has."""


def first_failure(summary: Summary, sagas: int, stores: str = "memory") -> str:
    """The first failure as a person reads it, with the line that replays it."""
    first = summary.failures[0]
    replay = f"python -m stage.simulation {first.seed} --sagas {sagas} --stores {stores}"
    return "\n".join(
        (
            f"{summary.violations} violations; replay: {replay}",
            *first.history,
            f"{first.violation.invariant}: {first.violation.text}",
        )
    )


def simulate_until(strikes: Strikes, scenario: Scenario, **least: int) -> Summary:
    """As many worlds as the tier asks for, and more until each of these faults struck as often."""
    summary = Summary()
    for seed in range(WORLDS_MAX):
        summary.merge(simulate_many([seed], scenario, files_every=0))
        missing = {kind for kind, times in least.items() if summary.faults[kind] < times}
        if summary.violations or (not missing and summary.seeds >= SIZES.worlds_each):
            break

    seeds = f"0 to {summary.seeds - 1}"
    strikes.report("sagas", summary.sagas, violations=summary.violations, seed=seeds)
    assert not summary.violations, first_failure(summary, scenario.sagas)
    assert not missing, f"these faults seldom struck: {missing}"
    return summary


def not_struck(summary: Summary) -> list[str]:
    """The faults that no world had, but for those of files; a duplicate elsewhere is among them."""
    kinds = (*KINDS, JOINED_ELSEWHERE)
    return [kind for kind in kinds if not summary.faults[kind] and kind not in OF_FILES]


@pytest.mark.kit("F1")
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("first", range(0, SIZES.worlds, SEEDS_PER_TEST))
def test_every_invariant_holds_in_every_world(first: int, strikes: Strikes) -> None:
    """Nothing is lost, doubled, left standing or stuck, and the faults really struck."""
    seeds = range(first, first + SEEDS_PER_TEST)

    summary = simulate_many(seeds, Scenario(sagas=SAGAS_PER_WORLD), files_every=0)
    further = iter(range(SIZES.worlds, WORLDS_MAX))
    while not_struck(summary) and (seed := next(further, None)) is not None:
        summary.merge(simulate_many([seed], Scenario(sagas=SAGAS_PER_WORLD), files_every=0))

    strikes.report("sagas", summary.sagas, violations=summary.violations, seed=SEEDS)
    assert not summary.violations, first_failure(summary, SAGAS_PER_WORLD)
    assert summary.sagas >= SEEDS_PER_TEST * SAGAS_PER_WORLD
    assert not not_struck(summary), f"these faults never struck: {not_struck(summary)}"
    for state in ("completed", "compensated", "failed_to_compensate", "parked"):
        assert summary.states[state], f"no saga ended {state}"


@pytest.mark.kit("F1")
@pytest.mark.timeout(600)
def test_every_invariant_holds_where_databases_are_restored(strikes: Strikes) -> None:
    """Nothing is said to be gone that stands, and what was lost is adopted (rule 33)."""
    scenario = Scenario(sagas=10, always=frozenset({"restore"}), without=frozenset({"outage"}))

    simulate_until(strikes, scenario, restore=1, **{LOST: 1, UNDONE_ELSEWHERE: 1})


@pytest.mark.kit("F1")
@pytest.mark.timeout(600)
def test_every_invariant_holds_where_databases_fail_over(strikes: Strikes) -> None:
    """A commit in doubt is settled, what an older standby lacks is found; then all go on."""
    over = frozenset({"failover", "failover_lossy", "replicas"})
    scenario = Scenario(sagas=10, always=over, without=frozenset({"outage"}))

    least = {"failover": 1, "failover_lossy": 1, LANDED: 1, NOT_LANDED: 1, LOST: 1}
    simulate_until(strikes, scenario, **least)


@pytest.mark.kit("F1")
@pytest.mark.timeout(600)
def test_every_invariant_holds_where_what_is_over_is_dropped(strikes: Strikes) -> None:
    """A late repeat runs nothing, and nothing false is said of what was closed (rule 21)."""
    late = frozenset({"retention", "repeat", "late_compensation"})
    scenario = Scenario(sagas=10, always=late, without=frozenset({"outage"}))

    worlds = SIZES.worlds_each
    simulate_until(strikes, scenario, **{CLOSED: worlds, EMPTIED: worlds, DROPPED: worlds})


AROUND = frozenset({"skew", "clock_jump", "outage", "deploy", "stranger", "restore"}) | {
    kind for kind in KINDS if kind.startswith(("gateway", "api_garbled"))
}
"""Faults around a stage: with all of them few processes die between an answer and its commit."""


DYING = [frozenset(), frozenset({"deadline"})] if TIER == "prove" else [frozenset()]
"""With deadlines it takes 90 worlds until one end was lost."""


@pytest.mark.kit("F1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("more", DYING, ids=lambda more: "".join(more))
def test_an_end_that_is_lost_behind_its_answer_comes_again(
    more: frozenset[str], strikes: Strikes
) -> None:
    """A process that dies between 200 and the commit of it asks downstream once more (0011).

    After the deadline it looks first.
    """
    dying = frozenset({"crash", "crash_before_commit"}) | more
    without = (frozenset({"zombie", "replicas", "deadline"}) | AROUND) - more
    scenario = Scenario(sagas=10, always=dying, without=without)
    found = {END_FOUND: 1} if more else {}

    summary = simulate_until(strikes, scenario, **{END_LOST: ENDS_LOST}, **found)

    assert bool(more) is bool(summary.faults[END_FOUND]), "only after a deadline it is looked for"


@pytest.mark.kit("F1")
@pytest.mark.timeout(600)
def test_a_duplicate_that_reaches_another_process_joins(strikes: Strikes) -> None:
    """Two processes over one database: one charge, equal answers, whichever of them is asked."""
    scenario = Scenario(sagas=20, always=frozenset({"replicas", "repeat", "zombie", "crash"}))

    worlds = SIZES.worlds_each
    simulate_until(strikes, scenario, replicas=worlds, **{JOINED_ELSEWHERE: worlds // 3})


@pytest.mark.parametrize("first", range(0, 16, 8))
def test_every_invariant_holds_on_sqlite_files_whose_commits_fail(first: int) -> None:
    """A COMMIT that raises before or after it took place is settled by reading (rule 8)."""
    scenario = Scenario(sagas=8, always=OF_FILES)

    summary = simulate_many(range(first, first + 8), scenario, files_every=1)

    assert not summary.violations, first_failure(summary, 8, "files")
    assert summary.in_files == 8
    assert all(summary.faults[kind] for kind in OF_FILES)


def test_a_seed_gives_the_same_world_twice_and_in_any_process() -> None:
    """Neither the process nor the order of hashes changes anything that happens."""
    program = (
        "from stage.simulation.world import Scenario, simulate_world\n"
        "for seed in range(6):\n"
        "    print(simulate_world(seed, Scenario(sagas=8)).transcript.digest())\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]

    here = [simulate_world(seed, Scenario(sagas=8)).transcript.digest() for seed in range(6)]

    assert len(set(here)) == 6
    assert [here, here] == runs


def test_a_world_in_files_is_the_same_on_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real time throws no dice: neither looks at the file nor retries go by the machine's clock."""
    scenario = Scenario(sagas=6, always=OF_FILES)
    fast = simulate_in_files(50, scenario)
    run = BlockingStore._run

    def slow(store: BlockingStore, work: Awaitable[Any]) -> Any:
        time.sleep(0.003)  # of real time, in which nothing of the world may happen
        return run(store, work)

    monkeypatch.setattr(BlockingStore, "_run", slow)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(watch, "PROBE_SECONDS", 0.002)

    assert fast.struck["commit_raises_before"] and fast.struck["commit_raises_after"]
    assert fast.transcript.digest() == simulate_in_files(50, scenario).transcript.digest()
