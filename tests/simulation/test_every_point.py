"""F2: at every durable write and every I/O point of the reference scenarios everything can strike.

First one fault at each point, then every pair: a second one at every point that the world comes to
after the first. Under every fault, every invariant holds, nobody has to look, and the fault is
proved to have struck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

from stage.core import events as e
from tests.kits import Strikes
from tests.simulation.mutants import planted
from tests.simulation.script import STRIKES, Played, Point, Script, play
from tests.sizes import SIZES

pytestmark = pytest.mark.blocking  # the virtual loop never waits for anything real

SEEDS_LOOKED_AT = 400


class Reference(NamedTuple):
    """A scenario: what happens in it without faults, and how it then ends."""

    whims: frozenset[str] = frozenset()
    first: tuple[tuple[str, str], ...] = ()
    """The strikes at the first message so sent, which make the scenario."""
    ends: str = "compensated"
    points_min: int = 6


REFERENCES = {
    "happy way": Reference(ends="completed"),
    "refused by the API": Reference(frozenset({"api_refuses"}), points_min=4),
    "refused downstream": Reference(frozenset({"tail_refuses"}), points_min=8),
    "in doubt": Reference(
        first=(("order-api/charge", "answer_lost"),), ends="completed", points_min=9
    ),
    "late failure": Reference(frozenset({"tail_fails_late"}), points_min=14),
    "compensated during the run": Reference(frozenset({"early_compensation"}), points_min=6),
    "compensated after the run": Reference(frozenset({"late_compensation"}), points_min=12),
}
EVERY = {f"{sort}: {kind}" for sort, kinds in STRIKES.items() for kind in kinds}
CHAINS = (("plain",), ("plain", "plain"))


@cache
def seed_of(name: str, chain: tuple[str, ...]) -> int:
    """The first seed at which the scenario goes as it is called: most do, at 0."""
    for seed in range(SEEDS_LOOKED_AT):
        played = follow(name, {}, seed=seed, chain=chain)
        if name != "compensated during the run":
            return seed
        events = [line.what for line in played.result.transcript.lines]
        asked = [n for n, event in enumerate(events) if isinstance(event, e.CompensationRequested)]
        if not asked:
            continue
        before = events[: asked[0]]
        flying = sum(isinstance(event, e.StepStarted) for event in before) - sum(
            isinstance(event, e.StepSucceeded) and event.step.startswith(("charge", "forward"))
            for event in before
        )
        if flying > 0 and not any(isinstance(event, e.Completed) for event in before):
            return seed
    raise AssertionError(f"no seed in which it goes as it should: {name}")


def follow(
    name: str, strikes: dict[int, str], *, seed: int, chain: tuple[str, ...] = ("plain",)
) -> Played:
    """The scenario with some more strikes."""
    reference = REFERENCES[name]
    first = dict(reference.first)
    return play(strikes, reference.whims, first=first, seed=seed, chain=chain)


def faults_at(point: Point) -> Iterator[tuple[int, str]]:
    """The strikes that are possible there."""
    for kind in STRIKES[point.sort]:
        yield point.number, kind


def holds(name: str, played: Played, strikes: dict[int, str]) -> None:
    """Every invariant, no saga that waits for a person, and every strike proved."""
    result, script = played
    story = "\n".join(result.transcript.history(f"s{result.seed}-0"))
    assert not result.violations, f"{name} {strikes}: {result.violations[0]}\n{story}"
    assert not result.states["parked"], f"{name} {strikes} is parked\n{story}"
    assert result.states["completed"] + result.states["compensated"], story
    for number, kind in strikes.items():
        assert script.hit.get(number) == kind, f"{name}: {kind} at {number} never struck"


def free(script: Script) -> list[Point]:
    """Without the points at which the scenario itself strikes."""
    return [point for point in script.points if point.number not in script.own]


@pytest.mark.kit("F2")
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
@pytest.mark.parametrize("name", REFERENCES)
def test_one_fault_at_every_point(name: str, chain: tuple[str, ...], strikes: Strikes) -> None:
    """Each kind at each point it can strike at."""
    seed = seed_of(name, chain)
    base = follow(name, {}, seed=seed, chain=chain)
    holds(name, base, {})
    assert base.result.states[REFERENCES[name].ends], base.result.states
    assert len(base.script.points) >= REFERENCES[name].points_min

    struck: Counter[str] = Counter()
    for point in free(base.script):
        for number, kind in faults_at(point):
            holds(name, follow(name, {number: kind}, seed=seed, chain=chain), {number: kind})
            struck[f"{point.sort}: {kind}"] += 1

    strikes.report("single faults", struck.total(), seed=seed)
    assert struck.keys() == EVERY


PARTS = 2
"""Each scenario's pairs are split, so that two workers share them."""


@pytest.mark.kit("F2")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", REFERENCES)
def test_a_second_fault_at_every_point_after_the_first(
    name: str, part: int, strikes: Strikes
) -> None:
    """Every pair: the second strikes while the world recovers from the first, or after."""
    seed = seed_of(name, ("plain",))
    base = follow(name, {}, seed=seed)
    pairs, seconds = 0, Counter[str]()
    firsts = [first for point in free(base.script) for first in faults_at(point)]
    for number, kind in firsts[part :: PARTS * SIZES.fault_stride]:
        once = follow(name, {number: kind}, seed=seed)
        later = [point for point in free(once.script) if point.number > number]
        for point in later:
            for second, other in faults_at(point):
                both = {number: kind, second: other}
                holds(name, follow(name, both, seed=seed), both)
                pairs += 1
                seconds[f"{point.sort}: {other}"] += 1

    strikes.report("pairs of faults", pairs, seed=seed)
    assert pairs > 100 // SIZES.fault_stride, f"only {pairs} pairs"
    assert {
        f"{sort}: {kind}" for sort, kinds in STRIKES.items() for kind in kinds
    } == seconds.keys()


@pytest.mark.parametrize(
    "defect, name",
    [
        ("the_step_in_doubt_is_not_compensated", "compensated during the run"),
        ("in_doubt_is_taken_for_failed", "happy way"),
        ("the_local_write_is_apart_from_its_record", "happy way"),
        ("the_answer_is_given_before_the_commit", "refused downstream"),
        ("sent_before_the_intent_is_durable", "happy way"),
        ("a_lost_compensation_counts_as_done", "refused downstream"),
        ("a_late_failure_is_not_told_upstream", "late failure"),
    ],
)
def test_the_enumeration_finds_a_planted_defect(defect: str, name: str) -> None:
    """One fault at the right point is enough to show each of them (this tests the tester)."""
    seed = seed_of(name, ("plain",))
    base = follow(name, {}, seed=seed)

    with planted(defect):
        found = [
            (number, kind)
            for point in free(base.script)
            for number, kind in faults_at(point)
            if follow(name, {number: kind}, seed=seed).result.violations
        ]

    assert found, f"{defect} was not found"
