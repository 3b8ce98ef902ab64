"""Faults of a script: what strikes at which point, and where something else goes first.

A *point* is a durable write, a message of a process, or a request of a neighbour. Points are
numbered from 1 in the order in which a world comes to them; without a script of other things the
same world comes to the same points again.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from msgspec import field

from stage.simulation.faults import Faults
from stage.simulation.world import Result, Scenario, simulate_world

CRASHES = ("crash_before", "crash_after")
ON_THE_WAY = ("error", "answer_lost", "duplicate", "delay")
STRIKES: Mapping[str, tuple[str, ...]] = {
    "write": (*CRASHES, "error"),
    "message": (*CRASHES, *ON_THE_WAY),
    "request": ON_THE_WAY,
}
"""The strikes that each sort of point allows. A neighbour does not crash: it is a model."""


class Point(NamedTuple):
    """One point that a world came to."""

    number: int
    sort: str
    where: str


class Script(Faults, kw_only=True):
    """Strikes at numbered points, and lets each of its whims happen once."""

    scripted: ClassVar[bool] = True
    strikes: dict[int, str]
    whims: set[str]
    first: dict[str, str]
    """The strikes of the scenario itself, by the end of the `where` of a point; at the first."""
    points: list[Point] = field(default_factory=list)
    hit: dict[int, str] = field(default_factory=dict)
    """The strikes by point, without those of the scenario itself."""
    own: set[int] = field(default_factory=set)
    """The points at which the scenario itself struck."""

    def happens(self, kind: str) -> bool:
        """A whim happens at its first opportunity, and then no more."""
        if kind not in self.whims:
            return False
        self.whims.discard(kind)
        self.struck[kind] += 1
        return True

    def point(self, sort: str, where: str) -> str:
        """See simulation.faults.Faults."""
        number = len(self.points) + 1
        self.points.append(Point(number, sort, where))
        for place, own in list(self.first.items()):
            if where.endswith(place) and sort == "message":
                del self.first[place]
                self.own.add(number)
                return own
        kind = self.strikes.get(number, "")
        if kind:
            assert kind in STRIKES[sort], f"{kind} cannot strike at a {sort}"
            self.hit[number] = kind
            self.struck[f"{sort}: {kind}"] += 1
        return kind


class Played(NamedTuple):
    """A world that followed a script."""

    result: Result
    script: Script


def play(
    strikes: Mapping[int, str],
    whims: frozenset[str] = frozenset(),
    *,
    first: Mapping[str, str] = MappingProxyType({}),
    seed: int = 0,
    chain: tuple[str, ...] = ("plain",),
    tail: bool = True,
) -> Played:
    """One saga through one chain, with what is to strike."""
    scripts: list[Script] = []

    def make(random: Random) -> Script:
        script = Script(
            rates={}, random=random, strikes=dict(strikes), whims=set(whims), first=dict(first)
        )
        scripts.append(script)
        return script

    scenario = Scenario(sagas=1, chain=chain, tail=tail, faults=make)
    result = simulate_world(seed, scenario)
    return Played(result, scripts[0])
