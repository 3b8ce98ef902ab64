"""A trial: four durable processes behind a faulty network, killed at random under load.

    client -> order -> payment -> shipping        each arrow, and the way back up, is a proxy
                          └-> world

Kills and faults come first (safety). After the last kill the network heals and everything has
REST_SECONDS_MAX to come to rest (liveness). Then the processes are stopped, and the books are read.

The kills are paced by what the client has finished, not by the clock: a slow machine gets fewer of
them a second and is not buried under what it cannot do between two.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from stage.demo.chain import free_ports
from tests.acceptance.kills import books as bookkeeping
from tests.acceptance.kills.http1 import Broken, Peer
from tests.acceptance.kills.load import Kind, Load, Placed
from tests.acceptance.kills.processes import Server
from tests.acceptance.kills.strikes import Kill, faults, strikes
from tests.acceptance.kills.traces import EXPORT_DELAY_MS

REST_SECONDS_MAX = 30.0
UNDER_LOAD = 0.97
"""The last kill falls when this share of the sagas is finished."""
STALLED_SECONDS_MAX = 5.0
"""After so long without progress the next kill comes all the same."""
WHILE_STARTING = 0.15
"""The share of kills that is followed by another one while the process starts."""
STARTING_SECONDS_MAX = 0.3
REPLAYED_MAX = 300
REPLAY_SECONDS_MAX = 60.0
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
    """The plan of a trial. Everything random comes from the seed."""

    kills: int
    sagas: int
    seed: int
    rate: float
    seconds: float
    """When so much time is over, nothing more is offered or killed."""
    folder: Path
    collector: str = ""
    """Base URL of a collector that the stages send their spans to."""


@dataclass(slots=True)
class Result:
    """The result of a trial."""

    seconds: float = 0.0
    kills: int = 0
    sagas: int = 0
    offered_per_second: float = 0.0
    back_seconds: dict[str, float] = field(default_factory=dict)
    """From a kill until the process served again."""
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
    struck: list[Kill] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True when no promise was broken."""
        return not self.broken


class Reaper:
    """Kills processes as the client's sagas finish, and starts each at once again."""

    def __init__(self, trial: Trial, servers: Sequence[Server], load: Load) -> None:
        self._trial = trial
        self._servers = servers
        self._load = load
        self._dice = random.Random(f"{trial.seed}/reaper")
        self._starts: dict[str, asyncio.Task[None]] = {}
        self.kills: list[Kill] = []
        self.back_seconds: list[float] = []

    async def reap(self) -> None:
        """Return when all kills are done and all processes serve again. Raises DidNotStart."""
        for due in self._instants():
            if not await self._until(due):
                break
            server = self._dice.choice(self._servers)
            await self._strike(server)
            while self._dice.random() < WHILE_STARTING and len(self.kills) < self._trial.kills:
                await asyncio.sleep(self._dice.uniform(0.0, STARTING_SECONDS_MAX))
                await self._strike(server)
            if self._last_is_to_meet_a_start():
                await self._strike(server)
            if len(self.kills) == self._trial.kills:
                break
        await asyncio.gather(*self._starts.values())

    def _last_is_to_meet_a_start(self) -> bool:
        """A few kills may all have met processes that served."""
        left = self._trial.kills - len(self.kills)
        return left == 1 and not any(kill.starting for kill in self.kills)

    def _instants(self) -> list[float]:
        """For each kill the number of sagas that are finished before it."""
        gaps = [self._dice.expovariate(1.0) for _ in range(self._trial.kills)]
        share = UNDER_LOAD * self._trial.sagas / max(sum(gaps), 1.0)
        return [share * sum(gaps[: number + 1]) for number in range(len(gaps))]

    async def _until(self, finished: float) -> bool:
        """Wait for that many finished sagas, or for a stall; False when the load is over."""
        loop = asyncio.get_running_loop()
        before, since = self._load.finished, loop.time()
        while self._load.finished < finished:
            if self._load.stopped:
                return False
            if self._load.finished > before:
                before, since = self._load.finished, loop.time()
            elif loop.time() - since > STALLED_SECONDS_MAX:
                return True
            await asyncio.sleep(0.005)
        return not self._load.stopped

    async def _strike(self, server: Server) -> None:
        starting = False
        if (start := self._starts.pop(server.name, None)) is not None:
            starting = not start.done()
            start.cancel()
            if not starting:
                start.result()
        number, at = len(self.kills), time.time()
        self.kills.append(Kill(number=number, process=server.name, at=at, starting=starting))
        await server.kill()
        await server.spawn()
        self._starts[server.name] = asyncio.create_task(self._back(server, at))

    async def _back(self, server: Server, since: float) -> None:
        await server.until_listening()
        self.back_seconds.append(time.time() - since)


async def run(
    trial: Trial, tell: Callable[[str], None], placed: list[Placed] | None = None
) -> Result:
    """Run a trial and read its books. The client adds its sagas to `placed`."""
    began = time.monotonic()
    ports = dict(zip((*KILLED, *LINKS), free_ports(len(KILLED) + len(LINKS)), strict=True))
    servers = {name: _server(name, trial, ports) for name in KILLED}
    proxy = _proxy(trial, ports)
    load = Load(ports["client-order"], ports["shipping"], trial.seed, trial.rate)
    reaper = Reaper(trial, list(servers.values()), load)
    result, replays = Result(), list[tuple[Placed, str]]()
    everyone = [*servers.values(), proxy]
    try:
        await asyncio.gather(*(server.prepare() for server in everyone))
        await asyncio.gather(*(server.start() for server in everyone))
        watch = asyncio.create_task(_watch(load, reaper, tell))
        try:
            asyncio.get_running_loop().call_later(trial.seconds, load.stop)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.offer(trial.sagas))
                group.create_task(reaper.reap())
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
        await asyncio.gather(*(server.close() for server in everyone))
    _judge(trial, load, reaper, replays, result)
    _judge_processes(servers.values(), result)
    if placed is not None:
        placed += load.placed
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _server(name: str, trial: Trial, ports: dict[str, int]) -> Server:
    folder, log = trial.folder, trial.folder / f"{name}.log"
    port = ["--port", str(ports[name])]
    if name == "world":
        arguments = [*port, "--books", str(folder / "world.db"), "--seed", str(trial.seed)]
        return Server(name, "tests.acceptance.kills.world", arguments, log)
    arguments = [name, *port, "--database", f"sqlite:///{folder / name}.db"]
    environment = {"OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_DELAY_MS)}
    if trial.collector:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = trial.collector
    for link in LINKS:
        here, _, there = link.partition("-")
        if here == name:
            kind = {"world": "external", "order": "upstream"}.get(there, "downstream")
            kind = "upstream" if link == "shipping-payment" else kind
            arguments += [f"--{kind}", f"{there}=http://127.0.0.1:{ports[link]}"]
    return Server(name, "tests.acceptance.kills.stages", arguments, log, environment)


def _proxy(trial: Trial, ports: dict[str, int]) -> Server:
    arguments = ["--seed", str(trial.seed), "--record", str(trial.folder / "faults.jsonl")]
    for link in LINKS:
        arguments += ["--link", f"{link}={ports[link]}:{ports[link.partition('-')[2]]}"]
    log = trial.folder / "proxy.log"
    return Server("proxy", "tests.acceptance.kills.proxy", arguments, log)


async def _watch(load: Load, reaper: Reaper, tell: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(10.0)
        tell(f"{len(load.placed)} sagas, {load.in_flight} in flight, {len(reaper.kills)} kills")


async def _rest(trial: Trial, reaper: Reaper, proxy: Server, load: Load) -> float | None:
    """Heal the network and wait until nothing is left to do; the seconds since the last kill."""
    proxy.send(signal.SIGUSR1)  # heals
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
        async with asyncio.timeout(REPLAY_SECONDS_MAX):
            for placed in asked:
                again = await peer.ask(load.request(placed.saga_id), 10.0)
                if (again.status, again.body) != (placed.status, placed.answer):
                    wrong.append((placed, f"replayed as {again.status} {again.body!r}"))
                other = await peer.ask(load.request(placed.saga_id, amount=101), 10.0)
                if other.status != 422:
                    wrong.append((placed, f"another payload was answered {other.status}"))
    except (Broken, TimeoutError) as error:
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
    result.back_seconds = _spread(reaper.back_seconds)
    result.outcomes, result.world = read.outcomes, read.world
    result.network = faults(trial.folder / "faults.jsonl")
    result.strikes, result.struck = asdict(hit), reaper.kills
    result.broken = dict(
        Counter(promise for promise, _ in {(v.promise, v.saga_id) for v in read.violations})
    )
    shown: set[str] = set()
    for violation in read.violations:
        result.stories.append(f"{violation.promise}: {violation.saga_id}: {violation.what}")
        if violation.saga_id not in shown and len(shown) < 5:
            shown.add(violation.saga_id)
            result.stories.append(bookkeeping.story(trial.folder, violation.saga_id))


def _judge_processes(servers: Iterable[Server], result: Result) -> None:
    """Nobody dies but by our hand, and a process that is asked to stop stops."""
    for server in servers:
        *killed, _ = server.ends
        if crashed := [status for status in killed if status != -signal.SIGKILL]:
            result.broken[f"{server.name} died by itself with {crashed}"] = len(crashed)
        if (status := result.stopped[server.name]) != 0:
            result.broken[f"{server.name} stopped with {status}"] = 1
    if result.rest_seconds is None:
        result.broken["at rest"] = 1


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    if len(seconds) < 2:
        return {}
    cuts = quantiles(seconds, n=100, method="inclusive")
    found = {"median": cuts[49], "p99": cuts[98], "max": max(seconds)}
    return {name: round(value, 3) for name, value in found.items()}
