"""One stage in the simulated world: a disk that stays, and processes that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

from msgspec.structs import replace

from stage.core.errors import StoreUnavailable
from stage.core.events import Verb
from stage.core.lost import OPERATOR
from stage.core.requester import Requester
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.limits import MAIL_SECONDS, EngineLimits
from stage.engine.reconcile import Reconciler, Reconciliation
from stage.engine.saga.adoption import Adoption
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal
from stage.engine.saga.versions import Versions
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers
from stage.ports.engine import Snapshot
from stage.ports.observer import TraceContext
from stage.ports.peers import PeerLimits, Peers
from stage.ports.stage import Answer
from stage.simulation.disk import Disk, SimulatedStore, WatchedStage
from stage.simulation.endpoints import RUN, DefectObserver, Endpoints, Pairs, service_of
from stage.simulation.faults import JOINED_ELSEWHERE
from stage.simulation.loop import EPOCH, Process, WallClock
from stage.simulation.network import SCHEME, Network, SimulatedTransport
from stage.simulation.replicas import SharedDatabase
from stage.wire import headers as h
from stage.wire.answers import render_ending
from stage.wire.replies import CompensateRequest

DOWN_SECONDS = (0.05, 6.0)
PAUSE_SECONDS = (0.5, 10.0)
DRAIN_SECONDS = 2.0
SKEW_SECONDS_MAX = 120.0
JUMP_SECONDS = (-3_600.0, 30 * 86_400.0)
APART_SECONDS_MAX = 900.0
"""How wrong the machines of processes that share a database may be: further than any wait."""
MAIL_LOOK_SECONDS = (MAIL_SECONDS, 10 * MAIL_SECONDS)
"""How often a process looks for mail: each has its own pace, as machines are more or less busy."""
WRONG_SECONDS = (0.2, 30.0)
"""For so long a clock that has jumped is wrong."""


class Neighbours:
    """Whom a stage may speak to, by name."""

    def __init__(
        self,
        externals: list[str],
        upstreams: list[str],
        downstreams: list[str],
        limits: Mapping[str, PeerLimits],
    ) -> None:
        self.externals = externals
        self.upstreams = upstreams
        self.downstreams = downstreams
        self.limits = limits


class Node:
    """A stage with its disk. `processes` are the live ones, the newest last."""

    def __init__(
        self,
        releases: Sequence[WatchedStage],
        disk: Disk,
        neighbours: Neighbours,
        network: Network,
    ) -> None:
        self.name = disk.stage
        self.disk = disk
        self._releases = releases
        self._release = 0
        """The one that new processes run; the last of them is the newest."""
        self._neighbours = neighbours
        self._network = network
        self._loop = network.loop
        self._random = random = network.random
        self._faults = network.faults
        self._books = network.books
        self.fast_path = False
        """Whether new sagas of its processes begin on the fast path."""
        self.kept = EngineLimits()
        """How long its processes keep what is over."""
        self.paces = Random(0)
        """Dice for how often each of its processes looks for mail."""
        self._skew = 0.0
        if self._faults.happens("skew"):
            self._skew = random.uniform(-SKEW_SECONDS_MAX, SKEW_SECONDS_MAX)
        self.ahead = self._skew
        """By how many seconds the wall clock of its machine is wrong."""
        if disk.shared is not None:
            disk.shared.ahead = self._skew
        self._live: dict[Process, tuple[EmbeddedEngine, Endpoints, SimulatedStore]] = {}
        self._runs_release: dict[Process, int] = {}
        self._started = 0
        self._starting = 0
        self._down = False
        """Stopped by an operator: nothing starts it."""

    @property
    def versions(self) -> Sequence[WatchedStage]:
        """Every version of the stage that its processes run."""
        return self._releases

    @property
    def processes(self) -> int:
        """How many processes the stage has when nothing is wrong."""
        return 1 if self.disk.shared is None else 2

    @property
    def live(self) -> list[Process]:
        """Its processes."""
        return list(self._live)

    @property
    def whole(self) -> bool:
        """Whether all of them are there."""
        return len(self._live) >= self.processes

    def _any(self) -> Process:
        live = list(self._live)
        return live[0] if len(live) == 1 else self._random.choice(live)

    def serve(self, method: str, path: str, headers: Pairs, body: bytes) -> (
        Awaitable[Answer] | None
    ):  # fmt: skip
        """A request arrives at one of the processes; None while there is none."""
        if not self._live:
            return None
        process = self._any()
        _, endpoints, store = self._live[process]
        if path == RUN and store.busy_elsewhere(dict(headers)[h.IDEMPOTENCY_KEY]):
            self._faults.struck[JOINED_ELSEWHERE] += 1

        async def answered() -> Answer:
            await process.gate()
            answer = await endpoints.answer(method, path, headers, body)
            await process.gate()
            return answer

        return process.spawn(answered())

    def _wall(self, process: Process) -> WallClock:
        """The clock of a process: that of the database where others have it too (rule 34).

        Their machines may be wrong by minutes, each in its own way, and jump: the stage must not
        notice.
        """
        own = APART_SECONDS_MAX * Random(process.name).uniform(-1.0, 1.0)
        apart = own if self.disk.shared is not None and self._skew else 0.0

        def machine() -> float:
            return EPOCH + self._loop.time() + self.ahead + apart

        return WallClock(self._loop, lambda: wall_of(self.disk.shared, machine))

    def start(self) -> Process:
        """A new process over the same disk; it takes over what is unfinished."""
        self._started += 1
        process = Process(self._loop, f"{self.name}#{self._started}")
        self._runs_release[process] = self._release
        stage = self._releases[self._release]
        store = SimulatedStore(self.disk, process, self.crash)
        clock = self._wall(process)
        peers = self._peers(process, store, clock)
        observer = DefectObserver(self.name, self._books)
        inline = self._started % 2 == 1  # its next process has none, and so on
        mail_seconds = self.paces.uniform(*MAIL_LOOK_SECONDS)
        limits = replace(
            self.kept, inline=inline, fast_path=self.fast_path, mail_seconds=mail_seconds
        )
        engine = EmbeddedEngine(stage, store, peers, observer, clock=clock, limits=limits)
        service = service_of(stage, engine, peers.neighbours, observer, clock)
        self._live[process] = engine, Endpoints(service, self._books), store
        self._books.tell("", process.name, "starts")
        _ = process.spawn(self._open(process, engine, store))
        return process

    def _peers(self, process: Process, store: SimulatedStore, clock: WallClock) -> Peers:
        """Whom a process of it may speak to, over the simulated network."""
        client = PeerClient(
            SimulatedTransport(self._network, self._books, self.name, process, self.crash, store),
            clock=clock,
            monotonic=self._loop.time,
        )
        peers = http_peers(
            client,
            externals={name: SCHEME + name for name in self._neighbours.externals},
            upstreams={name: SCHEME + name for name in self._neighbours.upstreams},
            downstreams={name: SCHEME + name for name in self._neighbours.downstreams},
            limits=self._neighbours.limits,
        )
        process.external = peers.external
        return peers

    async def _open(self, process: Process, engine: EmbeddedEngine, store: SimulatedStore) -> None:
        await store.open()
        while True:
            try:
                await engine.start()
                return
            except StoreUnavailable as error:
                self._books.tell("", process.name, f"cannot start: {error}")
                await asyncio.sleep(0.5)
            except Exception as error:
                self._books.violate("defect", "", f"{process.name} cannot start: {error!r}")
                return

    def crash(self, process: Process) -> None:
        """Kill a process; when it was the last one, another starts a while later."""
        if not process.alive:
            return
        self._books.tell("", process.name, "CRASHES")
        self._live.pop(process, None)
        process.kill()
        self._restart_later()

    def _restart_later(self) -> None:
        while not self._down and len(self._live) + self._starting < self.processes:
            self._starting += 1
            down = self._random.uniform(*DOWN_SECONDS) if self._faults.on else 0.05
            self._loop.call_later(down, self._restart)

    def _restart(self) -> None:
        self._starting -= 1
        if not self.whole and not self._down:
            self.start()

    @property
    def newest(self) -> Process | None:
        """The process started last, if any lives."""
        return next(reversed(self._live), None)

    async def drain(self) -> None:
        """SIGTERM: finish what can be finished, then start anew."""
        process = self._any() if self._live else None
        if process is None or process.is_paused():
            return
        self._books.tell("", process.name, "drains")
        engine = self._live[process][0]
        done = process.spawn(engine.drain(self._random.uniform(0.0, DRAIN_SECONDS)))
        await asyncio.wait([done])
        if process.alive:
            self._books.tell("", process.name, "stops")
            self._live.pop(process, None)
            process.kill()
            self._restart_later()

    async def deploy(self) -> None:
        """Another release, forward or back: one process ends, and the next runs that release."""
        self._release = (self._release + 1) % len(self._releases)
        self._books.tell("", self.name, f"release {self._release + 1} is deployed")
        await self.drain()

    async def haunt(self) -> None:
        """A process stops for a while (SIGSTOP), another takes over, and then it goes on."""
        if self.processes > 1:
            await self._freeze()
            return
        process = self.newest
        if process is None or process.is_paused() or len(self._live) > 1:
            return
        process.pause()
        self._books.tell("", process.name, "is paused")
        await asyncio.sleep(self._random.uniform(*DOWN_SECONDS))
        if process.alive and process.is_paused():
            self.start()
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        if process.alive:
            self._books.tell("", process.name, "goes on")
        process.resume()
        await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        if process.alive and len(self._live) > 1:
            self.crash(process)

    async def _freeze(self) -> None:
        """One of several processes stops, for longer than its lease or not, and then goes on."""
        process = self._any() if self._live else None
        if process is None or process.is_paused():
            return
        process.pause()
        self._books.tell("", process.name, "is paused")
        await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        if process.alive:
            self._books.tell("", process.name, "goes on")
        process.resume()

    async def jump(self) -> None:
        """The wall clock of its machine is set wrong for a while, and set right again."""
        wrong = self._random.uniform(*JUMP_SECONDS)
        self._books.tell("", self.name, f"its clock jumps by {wrong:.0f} s")
        self.ahead += wrong
        await asyncio.sleep(self._random.uniform(*WRONG_SECONDS))
        self.ahead -= wrong
        self._books.tell("", self.name, "its clock is right again")

    def operate(self, saga: str, verb: Verb) -> asyncio.Future[Snapshot | None] | None:
        """A verb of an operator, in the newest process; None while there is none."""
        process = self._any() if self._live else None
        if process is None or process.is_paused():
            return None
        return process.spawn(self._live[process][0].operate(saga, verb, dry_run=False))

    def compensate(self, saga: str) -> asyncio.Future[Snapshot] | None:
        """An operator asks to compensate; None while there is no process."""
        process = self._any() if self._live else None
        if process is None or process.is_paused():
            return None
        engine = self._live[process][0]
        asked = CompensateRequest(requested_by=OPERATOR, reason="a neighbour has undone it")
        return process.spawn(
            engine.compensate(
                saga,
                asked=asked,
                requester=Requester.OPERATOR,
                trace=TraceContext(),
                wait_seconds=0.0,
            )
        )

    def stop_unwitting(self, unwitting: Callable[[str], bool]) -> None:
        """Processes that cannot know that commits are missing are lost with the primary.

        That they cannot is known (decision 0059), and so none starts until an operator has come.
        """
        self._down = True
        for process in list(self._live):
            if unwitting(process.name):
                process.resume()
                self.crash(process)

    def go_down(self) -> None:
        """An operator stops the stage: all its processes end, and none starts."""
        self._down = True
        for process in list(self._live):
            process.resume()
            self.crash(process)

    def come_up(self) -> None:
        """An operator starts the stage."""
        self._down = False
        self._restart_later()

    async def reconcile(self, since: float) -> Reconciliation | None:
        """`stage reconcile`, in a process of its own while the stage is stopped; None if it dies.

        The lost sagas are adopted only where every neighbour has answered.
        """
        process = Process(self._loop, f"{self.name}#reconcile")
        self._books.tell("", process.name, f"asks for the sagas since {since - EPOCH:.0f} s")
        work = process.spawn(self._ask(process, since))
        await asyncio.wait([work])
        if work.cancelled():
            return None
        process.kill()
        try:
            found = work.result()
        except StoreUnavailable as error:
            self._books.tell("", process.name, f"fails: {error}")
            return None
        if found.unanswered:
            self._books.tell("", process.name, f"has no answer: {found.unanswered}")
        return found

    async def _ask(self, process: Process, since: float) -> Reconciliation:
        store = SimulatedStore(self.disk, process, self.crash, alone=True)
        clock = self._wall(process)
        versions = Versions(self._releases[self._release])
        observer = DefectObserver(self.name, self._books)
        neighbours = self._peers(process, store, clock).neighbours
        adoption = Adoption(
            Interpreter(versions, observer, clock),
            Journal(versions, observer, render_ending),
            store.codec,
            store.identity,
            neighbours.name_of_today,
        )
        reconciler = Reconciler((self.name,), store, neighbours, adoption, clock)
        known = (*self._neighbours.upstreams, *self._neighbours.downstreams)
        found = await reconciler.ask(known, since)
        if not found.unanswered:
            await reconciler.adopt(found)
        return found

    @property
    def runs(self) -> int:
        """Runs in memory of all live processes."""
        return sum(engine.live for engine, _, _ in self._live.values())

    def heal(self) -> None:
        """The end of all faults: its processes run, on a disk that can be written."""
        self.disk.away = self.disk.full = False
        for process in list(self._live)[: -self.processes]:
            process.resume()
            self.crash(process)
        self._release = len(self._releases) - 1
        for process in list(self._live):
            process.resume()
            if self._runs_release[process] != self._release:
                self.crash(process)
        self._restart_later()

    def stop(self) -> None:
        """The world ends."""
        for process in list(self._live):
            process.kill()
        self._live.clear()


def wall_of(shared: SharedDatabase | None, machine: Callable[[], float]) -> float:
    """The wall clock that a process goes by: that of its machine, or the one that all share."""
    return machine() if shared is None else shared.time
