"""Schedules of what can happen to one saga at once, and where each takes the turn from another.

Five operations happen in some order. Each runs until nothing of it moves any more, and then the
next begins, but for up to two *preemptions*: there the next begins while the one before stands at
its n-th pause, before a message leaves, before a unit runs, or after it became durable. When the
other is done, what stood there goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from random import Random
from typing import Any, ClassVar, NamedTuple

from msgspec import field

from stage.simulation.faults import Faults
from stage.simulation.neighbours import Order
from stage.simulation.world import Result, Scenario, World, simulate_world

OPERATIONS = ("execute", "duplicate", "compensate", "recover", "zombie")
PREEMPTIONS_MAX = 2
TURN_SECONDS = 4.0
"""Virtual seconds that an operation may take; one that waits for another goes on later."""
SETTLE_SECONDS = 1.2
"""The time in which a process that has just started takes over unfinished sagas."""
LAST_SECONDS = 120.0
"""Virtual seconds after which an operation that has not ended is stuck."""
PAUSES_MAX = 200
"""No operation here has as many pauses."""
AMOUNT = {"amount": 7}

Preemptions = Mapping[int, int]
"""By the place of an operation in the order: the pause of it at which the next one begins."""


class Turns(Faults, kw_only=True):
    """Counts the pauses, and holds one back."""

    scripted: ClassVar[bool] = True
    left: int = 0
    """Pauses until one is held back; 0: none is."""
    held: list[asyncio.Future[None]] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    pauses: int = 0

    async def pause(self, where: str) -> None:
        """See simulation.faults.Faults."""
        self.pauses += 1
        if self.left == 0:
            return
        self.left -= 1
        if self.left == 0:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.held.append(gate)
            self.stopped.set()
            await gate


class Schedule(NamedTuple):
    """An order of operations, and who takes the turn from whom."""

    order: tuple[str, ...]
    preemptions: tuple[tuple[int, int], ...] = ()


class Ran(NamedTuple):
    """A schedule that was run. `missed` is the first place that never came to its pause."""

    result: Result
    missed: int | None


class _Director:
    """Runs one schedule in one world."""

    def __init__(self, schedule: Schedule, turns: Turns) -> None:
        self._order = schedule.order
        self._preemptions: Preemptions = dict(schedule.preemptions)
        self._turns = turns
        self._tasks: list[asyncio.Task[None]] = []
        self._sent = False
        """Whether anybody has sent the saga."""
        self.missed: int | None = None

    async def drive(self, world: World) -> None:
        """All operations; then everything goes on that was held back."""
        world.faults.on = False
        order = world.client.begin("s-1", AMOUNT)
        place = 0
        while place < len(self._order):
            place = await self._turn(world, order, place)
        _, waiting = await asyncio.wait(self._tasks, timeout=LAST_SECONDS)
        order.done = not waiting

    async def _turn(self, world: World, order: Order, place: int) -> int:
        """One operation, and those that take the turn from it; the place of the next."""
        turns = self._turns
        task = world.loop.create_task(self._operate(world, order, self._order[place]))
        self._tasks.append(task)
        following = place + 1
        if place in self._preemptions:
            turns.left = self._preemptions[place]
            turns.stopped.clear()
            stopped = world.loop.create_task(turns.stopped.wait())
            await asyncio.wait(
                (task, stopped), timeout=TURN_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            stopped.cancel()
            turns.left = 0
            if not turns.stopped.is_set():
                self.missed = place if self.missed is None else self.missed
            else:
                gate = turns.held.pop()
                following = await self._turn(world, order, following)
                if not gate.done():
                    gate.set_result(None)
        await asyncio.wait((task,), timeout=TURN_SECONDS)
        return following

    async def _operate(self, world: World, order: Order, operation: str) -> None:
        client, node = world.client, world.nodes[0]
        match operation:
            case "execute":
                self._sent = True
                if order.open():
                    await client.execute(order)
                else:
                    _ = await client.post(order, order.body, wait=True)
            case "duplicate":
                self._sent = True
                await client.repeat(order)
            case "compensate":
                await client.undo(order)
                order.buried = not self._sent
            case "recover":
                if node.newest is not None:
                    node.crash(node.newest)
                await asyncio.sleep(SETTLE_SECONDS)
            case "zombie":
                process = node.newest
                if process is not None and not process.is_paused():
                    process.pause()
                    _ = node.start()
                    await asyncio.sleep(SETTLE_SECONDS)
                    process.resume()
                    await asyncio.sleep(SETTLE_SECONDS)


def run(schedule: Schedule, *, chain: tuple[str, ...] = ("plain",), tail: bool = False) -> Ran:
    """One schedule in a world of its own, to its end and through its books."""
    made: list[Any] = []

    def make(random: Random) -> Turns:
        turns = Turns(rates={}, random=random)
        made.append(_Director(schedule, turns))
        return turns

    async def drive(world: World) -> None:
        await made[0].drive(world)

    scenario = Scenario(sagas=0, chain=chain, tail=tail, exclusive=False, faults=make, drive=drive)
    result = simulate_world(0, scenario)
    return Ran(result, made[0].missed)


def orders(*first: str) -> Iterator[tuple[str, ...]]:
    """Every order of the operations that begins with those."""
    return (order for order in permutations(OPERATIONS) if order[: len(first)] == first)


def schedules(
    order: tuple[str, ...], preemptions: int, *, tail: bool = False
) -> Iterator[tuple[Schedule, Ran]]:
    """Every schedule of an order with so many preemptions, run; pauses as far as there are any.

    With a `tail` the stage hands on to another one, which makes more pauses.
    """
    for places in combinations(range(len(order) - 1), preemptions):
        yield from _pauses(order, places, (), tail=tail)


def _pauses(
    order: tuple[str, ...],
    places: tuple[int, ...],
    chosen: tuple[tuple[int, int], ...],
    *,
    tail: bool,
) -> Iterator[tuple[Schedule, Ran]]:
    if not places:
        schedule = Schedule(order, chosen)
        yield schedule, run(schedule, tail=tail)
        return
    place, rest = places[0], places[1:]
    for pause in range(1, PAUSES_MAX):
        for schedule, ran in _pauses(order, rest, (*chosen, (place, pause)), tail=tail):
            if ran.missed == place:
                return  # it has no such pause, and no later one
            yield schedule, ran
            if ran.missed is not None:
                return  # an earlier place has no such pause: whoever chose that one stops
    raise AssertionError(f"{order} does not come to rest: {chosen}, {place}")
