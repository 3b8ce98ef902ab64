"""A trial of three replicas on one PostgreSQL behind a real nginx, struck under load (F25).

    client -> order -> nginx -> payment (any of three) -> shipping      each arrow is a faulty proxy
                                   └-> world

Strikes and faults come first. Then the network heals, everything comes to rest, all replicas are
asked for the same sagas, and the books of the stages and of the world are read.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stage.demo.chain import free_ports
from stage.demo.postgres_server import running
from tests.acceptance.kills import books as bookkeeping
from tests.acceptance.kills.load import Load
from tests.acceptance.kills.processes import Server
from tests.acceptance.kills.strikes import faults
from tests.acceptance.kills.supervisor import LINKS
from tests.acceptance.replicas import database
from tests.acceptance.replicas.callers import Callers
from tests.acceptance.replicas.door import Door
from tests.acceptance.replicas.stages import REFUSED
from tests.acceptance.replicas.striker import Striker

HERE = "tests.acceptance.replicas"
REPLICAS = ("payment-1", "payment-2", "payment-3")
ALONE = ("order", "shipping", "world")
LEASE_SECONDS = 2.0
REST_SECONDS_MAX = 60.0
"""The last strike may have been a SIGSTOP: a lease, and what waits for repeats."""
APART_SECONDS = 0.05
"""Payment goes by the clock of its server, as its renewals told it on a busy machine."""
IN_FLIGHT_MAX = 600
PEER_PLACES = 400
"""A stopped replica keeps what it holds for a lease and longer: at 100 a second some 300 wait."""
COMPARED_MAX = 150
PEERS = {
    "order-payment": "downstream",
    "payment-shipping": "downstream",
    "payment-world": "external",
    "shipping-payment": "upstream",
    "payment-order": "upstream",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The plan of a trial. Everything random comes from the seed."""

    strikes: int
    sagas: int
    seed: int
    rate: float
    seconds: float
    """When so much time is over, nothing more is offered or struck."""
    folder: Path
    drain_delay_seconds: float = 0.6
    """Meanwhile the proxy hears of the end from an answer, and lets go of idle connections."""


@dataclass(slots=True)
class Result:
    """The result of a trial."""

    seconds: float = 0.0
    sagas: int = 0
    offered_per_second: float = 0.0
    strikes: dict[str, int] = field(default_factory=dict)
    rest_seconds: float | None = None
    """From the last strike until nothing was left to do; None when it never came."""
    shares: list[int] = field(default_factory=list)
    """Requests that each replica answered through nginx."""
    asked: dict[str, int] = field(default_factory=dict)
    """Requests of others, at any replica."""
    refused: int = 0
    """Stale writes that the database refused."""
    compared: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    world: dict[str, int] = field(default_factory=dict)
    network: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)


class Replicas:
    """All processes of a trial."""

    def __init__(
        self, trial: Trial, url: str, module: str = f"{HERE}.stages", *, read_seconds: int = 8
    ) -> None:
        """`module` serves payment; its first argument is `payment`.

        nginx waits `read_seconds` for an answer.
        """
        names = (*REPLICAS, *ALONE, "payment", *LINKS)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.url = url
        self._trial = trial
        self._module = module
        self.replicas = [self._replica(name) for name in REPLICAS]
        self.alone = [self._alone(name) for name in ALONE]
        self.proxy = self._proxy()
        behind = [self.ports[name] for name in REPLICAS]
        self.door = Door(trial.folder, self.ports["payment"], behind, read_seconds=read_seconds)

    @property
    def servers(self) -> list[Server]:
        """Every process but nginx."""
        return [*self.replicas, *self.alone, self.proxy]

    def _replica(self, name: str) -> Server:
        arguments = ["payment", "--port", str(self.ports[name]), "--database", self.url]
        arguments += ["--lease-seconds", str(LEASE_SECONDS), *self._peers("payment")]
        arguments += ["--drain-delay-seconds", str(self._trial.drain_delay_seconds)]
        return Server(name, self._module, arguments, self.log(name))

    def _alone(self, name: str) -> Server:
        folder, port = self._trial.folder, ["--port", str(self.ports[name])]
        if name == "world":
            books = ["--books", str(folder / "world.db"), "--seed", str(self._trial.seed)]
            return Server(name, "tests.acceptance.kills.world", [*port, *books], self.log(name))
        arguments = [name, *port, "--database", f"sqlite:///{folder / name}.db"]
        arguments += self._peers(name)
        return Server(name, "tests.acceptance.kills.stages", arguments, self.log(name))

    def _peers(self, name: str) -> list[str]:
        found: list[str] = []
        for link, kind in PEERS.items():
            here, _, there = link.partition("-")
            if here == name:
                found += [f"--{kind}", f"{there}=http://127.0.0.1:{self.ports[link]}"]
                found += [f"--{kind}", f"{there}.concurrency_max={PEER_PLACES}"]
        return found

    def _proxy(self) -> Server:
        record = self._trial.folder / "faults.jsonl"
        arguments = ["--seed", str(self._trial.seed), "--record", str(record)]
        for link in LINKS:
            behind = self.ports[link.partition("-")[2]]
            arguments += ["--link", f"{link}={self.ports[link]}:{behind}"]
        return Server("proxy", "tests.acceptance.kills.proxy", arguments, self.log("proxy"))

    @property
    def settings(self) -> list[str]:
        """The options of payment for commands: its database and its neighbours."""
        return ["--database", self.url, *self._peers("payment")]

    def log(self, name: str) -> Path:
        """The standard error of a process."""
        return self._trial.folder / f"{name}.log"

    async def start(self) -> None:
        """Start all of them. Raises DidNotStart."""
        await asyncio.gather(*(each.prepare() for each in self.servers))
        await asyncio.gather(*(each.start() for each in self.servers))
        await self.door.start()

    async def close(self) -> None:
        """End all of them."""
        await self.door.stop()
        await asyncio.gather(*(each.close() for each in self.servers))

    async def rest(self, load: Load) -> float | None:
        """Heal the network; seconds until nothing is left to do, or None when that never came."""
        self.proxy.send(signal.SIGUSR1)
        began = time.monotonic()
        while time.monotonic() - began < REST_SECONDS_MAX:
            if not load.in_flight and await self._resting():
                return round(time.monotonic() - began, 1)
            await asyncio.sleep(0.5)
        return None

    async def _resting(self) -> bool:
        alone = ("order", "shipping")
        return bookkeeping.resting(self._trial.folder, alone) and await database.resting(self.url)

    def refused(self) -> int:
        """How many stale writes the replicas have seen refused."""
        logs = (self.log(name).read_text(errors="replace") for name in REPLICAS)
        return sum(log.count(f"{REFUSED} ") for log in logs)


async def run(trial: Trial, tell: Callable[[str], None] = lambda _: None) -> Result:
    """Run a trial on a server of its own and read its books."""
    result, began = Result(), time.monotonic()
    # A killed process must find what the server said was committed; the server is not killed.
    server = await asyncio.to_thread((opened := running("fsync=off")).__enter__)
    try:
        chain = Replicas(trial, server.url())
        ends = chain.ports["client-order"], chain.ports["shipping"]
        load = Load(*ends, trial.seed, trial.rate, IN_FLIGHT_MAX)
        callers = Callers([chain.ports[name] for name in REPLICAS], load, trial.seed)
        striker = Striker(
            chain.replicas,
            load,
            strikes=trial.strikes,
            sagas=trial.sagas,
            seed=trial.seed,
            lease_seconds=LEASE_SECONDS,
        )
        try:
            await chain.start()
            await _strike(trial, load, callers, striker, tell)
            result.rest_seconds = await chain.rest(load)
            tell(f"at rest after {result.rest_seconds} s; reading the books")
            await _compare(load, callers, result)
            await database.copy(chain.url, trial.folder / "payment.db")
        finally:
            await load.close()
            callers.close()
            await chain.close()
        _judge(trial, chain, load, callers, striker, result)
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)
    result.seconds = round(time.monotonic() - began, 1)
    return result


async def _strike(
    trial: Trial, load: Load, callers: Callers, striker: Striker, tell: Callable[[str], None]
) -> None:
    asking = asyncio.create_task(callers.ask())
    watch = asyncio.create_task(_watch(load, striker, tell))
    try:
        asyncio.get_running_loop().call_later(trial.seconds, load.stop)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.offer(trial.sagas))
            group.create_task(striker.strike())
    finally:
        for each in (asking, watch):
            each.cancel()
        await asyncio.gather(asking, watch, return_exceptions=True)


async def _watch(load: Load, striker: Striker, tell: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(10.0)
        tell(f"{len(load.placed)} sagas, {load.in_flight} in flight, {dict(striker.strikes)}")


async def _compare(load: Load, callers: Callers, result: Result) -> None:
    """Ask every replica for some sagas that payment knows: the same bytes from each (I9)."""
    known = [each.saga_id for each in load.placed if each.status == 200]
    asked = known[:: max(1, len(known) // COMPARED_MAX)]
    wrong = await callers.differing(asked)
    result.compared = len(asked)
    if wrong:
        result.broken["same bytes from any replica"] = len(wrong)
        result.stories += wrong[:10]


# Long because it lists everything that is read at the end.
def _judge(
    trial: Trial, chain: Replicas, load: Load, callers: Callers, striker: Striker, result: Result
) -> None:
    read = bookkeeping.check(trial.folder, load.placed, apart_seconds=APART_SECONDS)
    result.sagas = len(load.placed)
    result.offered_per_second = round(len(load.placed) / max(load.offered_seconds, 0.001), 1)
    result.strikes = dict(striker.strikes)
    result.shares = list(chain.door.shares().values())
    result.asked, result.refused = dict(callers.asked), chain.refused()
    result.answers = dict(Counter(str(each.status) for each in load.placed))
    result.outcomes, result.world = read.outcomes, read.world
    result.network = faults(trial.folder / "faults.jsonl")
    promises = {(each.promise, each.saga_id) for each in read.violations}
    result.broken |= dict(Counter(promise for promise, _ in promises))
    if callers.surprises:
        result.broken["answers at any replica"] = len(callers.surprises)
        result.stories += callers.surprises[:10]
    if wrong := [status for status in striker.exits if status != 0]:
        result.broken[f"SIGTERM ended with {wrong}"] = len(wrong)
    if result.rest_seconds is None:
        result.broken["at rest"] = 1
    shown: set[str] = set()
    for violation in read.violations:
        result.stories.append(f"{violation.promise}: {violation.saga_id}: {violation.what}")
        if violation.saga_id not in shown and len(shown) < 5:
            shown.add(violation.saga_id)
            result.stories.append(bookkeeping.story(trial.folder, violation.saga_id))
