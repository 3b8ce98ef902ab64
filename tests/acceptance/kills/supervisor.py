"""A trial: four durable processes behind a faulty network, killed at random under load.

    client -> order -> payment -> shipping        each arrow, and the way back up, is a proxy
                          └-> world

Kills and faults come first (safety). After the last kill the network heals and everything has
REST_SECONDS_MAX to come to rest (liveness). Then the processes are stopped, and the books are read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.kills import books as bookkeeping
from tests.acceptance.kills.http1 import Broken, Peer
from tests.acceptance.kills.load import Kind, Load, Placed
from tests.acceptance.kills.processes import Server, free_ports
from tests.acceptance.kills.strikes import Kill, faults, strikes

REST_SECONDS_MAX = 30.0
RESTART_SECONDS = 1.2
"""About how long a killed process is away; the kills are spread with it in mind."""
UP_SECONDS_MIN = 0.3
WHILE_STARTING = 0.15
"""The share of kills that is followed by another one while the process starts."""
STARTING_SECONDS_MAX = 1.5
REPLAYED_MAX = 300
KILLED = ("order", "payment", "shipping", "world")
LINKS = (
    "client-order",
    "order-payment",
    "payment-shipping",
    "payment-world",
    "shipping-payment",
    "payment-order",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be done. Everything random comes from the seed."""

    kills: int
    sagas: int
    seed: int
    rate: float
    folder: Path


@dataclass(slots=True)
class Result:
    """What came out of a trial."""

    seconds: float = 0.0
    kills: int = 0
    sagas: int = 0
    offered_per_second: float = 0.0
    rest_seconds: float | None = None
    """From the last kill until nothing was left to do; None when it never came."""
    stopped: dict[str, int | None] = field(default_factory=dict)
    replayed: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    world: dict[str, int] = field(default_factory=dict)
    network: dict[str, int] = field(default_factory=dict)
    strikes: dict[str, Any] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True when no promise was broken."""
        return not self.broken


class Reaper:
    """Kills processes until the number is reached, and starts each at once again."""

    def __init__(self, trial: Trial, servers: Sequence[Server]) -> None:
        self._trial = trial
        self._servers = servers
        self._left = trial.kills
        cycle = len(servers) * trial.sagas / trial.rate / max(trial.kills, 1)
        self._up_seconds = max(UP_SECONDS_MIN, cycle - RESTART_SECONDS)
        self.kills: list[Kill] = []

    async def reap(self) -> None:
        """Return when all kills are done and all processes serve again. Raises DidNotStart."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers if self._left else ():
                group.create_task(self._haunt(server))

    async def _haunt(self, server: Server) -> None:
        dice = random.Random(f"{self._trial.seed}/reaper/{server.name}")
        while True:
            # Dice first: when a kill falls must not depend on how long a start took.
            await asyncio.sleep(min(dice.expovariate(1 / self._up_seconds), 4 * self._up_seconds))
            if not await self._strike(server, starting=False):
                return
            while dice.random() < WHILE_STARTING:
                await server.spawn()
                await asyncio.sleep(dice.uniform(0.0, STARTING_SECONDS_MAX))
                if not await self._strike(server, starting=True):
                    await server.kill()
                    break
            await server.start()

    async def _strike(self, server: Server, *, starting: bool) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        number = len(self.kills)
        self.kills.append(
            Kill(number=number, process=server.name, at=time.time(), starting=starting)
        )
        await server.kill()
        return True


async def run(trial: Trial, tell: Callable[[str], None]) -> Result:
    """Run a trial and read its books."""
    began = time.monotonic()
    ports = dict(zip((*KILLED, *LINKS), free_ports(len(KILLED) + len(LINKS)), strict=True))
    servers = {name: _server(name, trial, ports) for name in KILLED}
    proxy = _proxy(trial, ports)
    load = Load(ports["client-order"], ports["shipping"], trial.seed, trial.rate)
    reaper = Reaper(trial, list(servers.values()))
    result = Result()
    everyone = [*servers.values(), proxy]
    try:
        await asyncio.gather(*(server.start() for server in everyone))
        watch = asyncio.create_task(_watch(load, reaper, tell))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(load.offer(trial.sagas))
                group.create_task(_reap(reaper, load))
            result.rest_seconds = await _rest(trial, reaper, proxy, load)
        finally:
            watch.cancel()
        tell(f"at rest after {result.rest_seconds} s; reading the books")
        result.replayed, replays = await _replay(load, ports["order"])
        result.stopped = dict(
            zip(servers, await asyncio.gather(*map(Server.stop, servers.values())), strict=True)
        )
    finally:
        await load.close()
        await asyncio.gather(*(server.kill() for server in servers.values()), proxy.stop())
    _judge(trial, load, reaper, replays, result)
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _server(name: str, trial: Trial, ports: dict[str, int]) -> Server:
    folder, log = trial.folder, trial.folder / f"{name}.log"
    port = ["--port", str(ports[name])]
    if name == "world":
        module = "tests.acceptance.kills.world"
        told = [module, *port, "--books", str(folder / "world.db"), "--seed", str(trial.seed)]
        return Server(name, told, log)
    told = ["stage", "serve", f"tests.acceptance.kills.stages:{name}", *port]
    told += ["--database", f"sqlite:///{folder / name}.db"]
    for link in LINKS:
        here, _, there = link.partition("-")
        if here == name:
            kind = {"world": "external", "order": "upstream"}.get(there, "downstream")
            kind = "upstream" if link == "shipping-payment" else kind
            told += [f"--{kind}", f"{there}=http://127.0.0.1:{ports[link]}"]
    return Server(name, told, log)


def _proxy(trial: Trial, ports: dict[str, int]) -> Server:
    told = ["tests.acceptance.kills.proxy", "--seed", str(trial.seed)]
    told += ["--record", str(trial.folder / "faults.jsonl")]
    for link in LINKS:
        told += ["--link", f"{link}={ports[link]}:{ports[link.partition('-')[2]]}"]
    return Server("proxy", told, trial.folder / "proxy.log")


async def _reap(reaper: Reaper, load: Load) -> None:
    """Kill, and let the load end with the last kill: every kill is under load."""
    await reaper.reap()
    load.enough = True


async def _watch(load: Load, reaper: Reaper, tell: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(10.0)
        tell(f"{len(load.placed)} sagas, {load.in_flight} in flight, {len(reaper.kills)} kills")


async def _rest(trial: Trial, reaper: Reaper, proxy: Server, load: Load) -> float | None:
    """Heal the network and wait until nothing is left to do; the seconds since the last kill."""
    proxy.heal()
    last = max([time.time(), *(kill.at for kill in reaper.kills[-1:])])
    while time.time() - last < REST_SECONDS_MAX:
        if not load.in_flight and bookkeeping.resting(trial.folder):
            return round(time.time() - last, 1)
        await asyncio.sleep(0.5)
    return None


async def _replay(load: Load, order: int) -> tuple[int, list[tuple[Placed, str]]]:
    """Ask some sagas again: the same bytes come back, and another payload is refused (I9)."""
    peer = Peer(order)
    wrong: list[tuple[Placed, str]] = []
    plain = [each for each in load.placed if each.kind is Kind.PLAIN and each.status]
    asked = plain[:: max(1, len(plain) // REPLAYED_MAX)]
    try:
        for placed in asked:
            again = await peer.ask(load.request(placed.saga_id), 10.0)
            if (again.status, again.body) != (placed.status, placed.answer):
                wrong.append((placed, f"replayed as {again.status} {again.body!r}"))
            other = await peer.ask(load.request(placed.saga_id, amount=101), 10.0)
            if other.status != 422:
                wrong.append((placed, f"another payload was answered {other.status}"))
    except Broken as error:
        wrong.append((plain[0], f"order did not answer: {error}"))
    finally:
        peer.close()
    return len(asked), wrong


def _judge(
    trial: Trial,
    load: Load,
    reaper: Reaper,
    replays: list[tuple[Placed, str]],
    result: Result,
) -> None:
    for placed, what in replays:
        placed.surprises.append(what)
    read = bookkeeping.check(trial.folder, load.placed)
    hit = strikes(trial.folder, bookkeeping.STAGES, reaper.kills)
    result.kills, result.sagas = len(reaper.kills), len(load.placed)
    result.offered_per_second = round(len(load.placed) / max(load.offered_seconds, 0.001), 1)
    result.kinds = dict(Counter(each.kind.value for each in load.placed))
    result.answers = dict(Counter(str(each.status) for each in load.placed))
    result.outcomes, result.world = read.outcomes, read.world
    result.network = faults(trial.folder / "faults.jsonl")
    result.strikes = asdict(hit)
    result.broken = dict(
        Counter(promise for promise, _ in {(v.promise, v.saga_id) for v in read.violations})
    )
    for name, status in result.stopped.items():
        if status != 0:
            result.broken[f"{name} stopped with {status}"] = 1
    told: set[str] = set()
    for violation in read.violations:
        result.stories.append(f"{violation.promise}: {violation.saga_id}: {violation.what}")
        if violation.saga_id not in told and len(told) < 5:
            told.add(violation.saga_id)
            result.stories.append(bookkeeping.story(trial.folder, violation.saga_id))
