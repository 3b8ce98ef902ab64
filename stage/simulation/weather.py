"""The weather of a simulated world: faults that come by themselves, each as often as its rate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from stage.simulation.api import ApiModel
from stage.simulation.disk import Disk
from stage.simulation.failovers import Failovers
from stage.simulation.network import OUT_PAGES, OUT_REFUSED, OUT_SILENT, Network
from stage.simulation.node import Node

AWAY_SECONDS = (0.2, 8.0)
OUTAGE_SECONDS = (60.0, 600.0, 3_600.0)
LONG_OUTAGE_SECONDS = (10_800.0, 43_200.0)
"""An outage is as long as one of these, or shorter: up to twelve hours."""
LONG_SHARE = 0.1
"""The share of the worlds with outages in which they last for hours: they cost many attempts."""


class Weather:
    """Crashes, drains, partitions, outages, jumps of clocks, and what is away for a while."""

    def __init__(
        self,
        nodes: Sequence[Node],
        models: Sequence[ApiModel],
        network: Network,
    ) -> None:
        self._nodes = nodes
        self._models = models
        self._network = network
        self._faults = network.faults
        self._loop = network.loop
        self._random = network.random
        self._books = network.books
        self._lengths: tuple[float, ...] = OUTAGE_SECONDS
        self._tasks: list[asyncio.Task[None]] = []

    def begin(
        self,
        act: Callable[[], Awaitable[None]],
        restore: Callable[[], Awaitable[None]],
        failovers: Failovers,
    ) -> None:
        """Let faults strike from now on; `act` and `restore` are what an operator does as often."""

        def often(kind: str, strike: Callable[[], Awaitable[None]]) -> None:
            self._tasks.append(self._loop.create_task(self._strikes(kind, strike)))

        for node in self._nodes:
            often("crash", partial(_crash, node))
            often("drain", node.drain)
            often("deploy", node.deploy)
            often("zombie", node.haunt)
            often("clock_jump", node.jump)
            often("store_away", partial(self._away, node.disk))
            often("disk_full", partial(self._full, node.disk))
            often("key_rotated", partial(self._rotate, node.name))
            if (shared := node.disk.shared) is not None:
                often("failover", partial(failovers.promote, node, shared))
                often("failover_lossy", partial(failovers.lose_commits, node, shared))
        for model in self._models:
            often("api_away", partial(self._away, model))
            often("route_lost", partial(self._unrouted, model))
        often("partition", self._cut)
        if "outage" in self._faults.rates and self._random.random() < LONG_SHARE:
            self._lengths = LONG_OUTAGE_SECONDS
        often("outage", self._outage)
        often("operator", act)
        often("restore", restore)

    async def _strikes(self, kind: str, strike: Callable[[], Awaitable[None]]) -> None:
        while True:
            wait = self._faults.next_in(kind)
            if wait is None:
                return
            await asyncio.sleep(wait)
            if not self._faults.on:
                return
            self._faults.struck[kind] += 1
            await strike()

    async def _away(self, what: Any) -> None:
        name = getattr(what, "name", None) or f"database of {what.stage}"
        self._books.tell("", name, "goes away")
        what.away = True
        await asyncio.sleep(self._random.uniform(*AWAY_SECONDS))
        what.away = False
        self._books.tell("", name, "is back")

    async def _unrouted(self, model: ApiModel) -> None:
        self._books.tell("", model.name, "its gateway lost the route to it")
        model.unrouted = True
        await asyncio.sleep(self._random.uniform(*AWAY_SECONDS))
        model.unrouted = False
        self._books.tell("", model.name, "its gateway has the route again")

    async def _rotate(self, stage: str) -> None:
        self._books.tell("", stage, "some replicas lack a key")
        self._network.rotating.add(stage)
        await asyncio.sleep(self._random.uniform(*AWAY_SECONDS))
        self._network.rotating.discard(stage)
        self._books.tell("", stage, "all replicas have the key")

    async def _outage(self) -> None:
        name = self._random.choice(self._network.names)
        how = self._random.choice((OUT_REFUSED, OUT_SILENT, OUT_PAGES))
        seconds = self._random.choice(self._lengths) * self._random.uniform(0.1, 1.0)
        self._books.tell("", name, f"is out for {seconds:.0f} s ({how})")
        self._network.out[name] = how
        await asyncio.sleep(seconds)
        self._network.out.pop(name, None)
        self._books.tell("", name, "is reachable again")

    async def _full(self, disk: Disk) -> None:
        self._books.tell("", disk.stage, "its disk is full")
        disk.full = True
        await asyncio.sleep(self._random.uniform(*AWAY_SECONDS))
        disk.full = False
        self._books.tell("", disk.stage, "its disk has room again")

    async def _cut(self) -> None:
        one, other = self._random.sample(self._network.names, 2)
        pair = frozenset({one, other})
        self._books.tell("", "network", f"{one} and {other} do not hear each other")
        self._network.cut.add(pair)
        await asyncio.sleep(self._random.uniform(*AWAY_SECONDS))
        self._network.cut.discard(pair)
        self._books.tell("", "network", f"{one} and {other} hear each other again")

    def calm(self) -> None:
        """From here on nothing goes wrong any more."""
        self._books.tell("", "world", "no more faults")
        self._faults.on = False
        self._network.cut.clear()
        self._network.rotating.clear()
        for model in self._models:
            model.away = model.unrouted = False
        for node in self._nodes:
            node.heal()


async def _crash(node: Node) -> None:
    process = node.newest
    if process is not None:
        node.crash(process)
