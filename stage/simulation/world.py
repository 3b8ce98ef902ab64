"""One simulated world: a chain, its neighbours, its faults, from one seed to its end."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.resources.abc import Traversable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.authoring.participant import StageParticipant
from stage.core.states import EXTERNAL_KINDS
from stage.core.steps import Plan
from stage.core.unseen import first_id_at
from stage.engine.embedded.limits import EngineLimits
from stage.ports.peers import PeerLimits
from stage.ports.store import Store
from stage.simulation import faults as swarm
from stage.simulation import stages
from stage.simulation.api import (
    ApiModel,
    BlindApi,
    HookingApi,
    PartsApi,
    PendingApi,
    SilentApi,
    UnkeyedApi,
)
from stage.simulation.books import Books
from stage.simulation.disk import Disk, WatchedStage
from stage.simulation.facts import Violation
from stage.simulation.failovers import Failovers
from stage.simulation.files import BlockingStore, file_store
from stage.simulation.invariants import check
from stage.simulation.loop import DAY_SECONDS, EPOCH, STILL_SECONDS, Stuck, VirtualLoop
from stage.simulation.neighbours import CLIENT, TAIL, Client, Tail, Verdict
from stage.simulation.network import Network
from stage.simulation.node import Neighbours, Node
from stage.simulation.operator import ROUNDS_MAX, Operator
from stage.simulation.replicas import SharedDatabase
from stage.simulation.rest import Rest
from stage.simulation.restores import Restores
from stage.simulation.transcript import Transcript
from stage.simulation.weather import Weather
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase

ARRIVALS_SECONDS = (2.0, 30.0)
CALM_AFTER_SECONDS = 15.0
"""How long faults go on after the last saga has come."""
REST_SECONDS_MAX = 2_500.0
"""A world that has not come to rest by then, without faults, is stuck."""
SILENT_SECONDS = 1_250.0
"""For so long no message at all may be under way in a world at rest; see `rest.Rest`."""
LOOK_SECONDS = 2.0
KEPT_SECONDS = (10.0, 90.0)
"""With retention: how long a saga that is over can be undone; then its answer and row are kept as
long again, or shorter."""
STILL_AFTER_SECONDS = 30.0
"""A world in which only an outage goes on is still by then: every process is back."""

SELDOM_KIND_SHARE = 0.2
"""The share of the worlds with a stage of a kind that few have; its dice leave the others."""
FAILOVERS = ("failover", "failover_lossy")
Models = Mapping[str, type[ApiModel]]
OWN_MODELS: Models = {
    "pending": PendingApi,
    "hooking": HookingApi,
    "silent": SilentApi,
    "parts": PartsApi,
    "blind": BlindApi,
}
"""The models of the APIs of `stages.py`, by the end of their names."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a world. `stage` is the author's; None takes those of `stages.py`.

    `payload` makes the data of a saga from the dice. `folder` holds SQLite files; None keeps all
    in memory.
    """

    sagas: int = 20
    stage: StageDeclaration[Any, Any] | None = None
    models: Models = {}
    payload: Callable[[Random], Mapping[str, Any]] | None = None
    without: frozenset[str] = frozenset()
    always: frozenset[str] = frozenset()
    """Faults that no world has, and faults that every world has."""
    chain: tuple[str, ...] = ()
    """Kinds of `simulation.stages`, from head to tail; empty: as the dice fall."""
    tail: bool | None = None
    """Whether a modelled stage stands at the end; None: as the dice fall."""
    exclusive: bool = True
    """Whether a stage counts on nobody else writing to its file; never where a zombie may."""
    faults: Callable[[Random], swarm.Faults] | None = None
    """Faults of a script in place of a swarm."""
    drive: Callable[[Any], Awaitable[None]] | None = None
    """Drives the World in place of sending sagas."""
    limits: Mapping[str, PeerLimits] = {}
    """The limits of peers, by kind and name, as in `ports.peers`."""
    stands: str = ""
    """SQL for the sagas of which something stands in the author's tables; empty: not looked at."""
    folder: Path | None = None


KEYED_EVERY = 4
"""In one world of so many the orders of the operator have keys, and some come twice."""


class Result(msgspec.Struct, kw_only=True):
    """How one world ended."""

    seed: int
    sagas: int
    chain: str
    violations: list[Violation]
    struck: Counter[str]
    states: Counter[str]
    verdicts: Counter[str]
    transcript: Transcript
    seconds: float
    rates: dict[str, float]
    webhooks: Counter[str] = msgspec.field(default_factory=Counter)
    """How many the stages believed, and how many they refused."""


def simulate_world(seed: int, scenario: Scenario) -> Result:
    """Run one world to its end. The same seed and scenario give the same world."""
    loop = VirtualLoop()
    try:
        return World(loop, seed, scenario).run()
    finally:
        loop.close()


class World:
    """All that there is in one simulation."""

    def __init__(self, loop: VirtualLoop, seed: int, scenario: Scenario) -> None:
        self.loop = loop
        self.seed = seed
        self.scenario = scenario
        self.random = Random(seed)
        self.faults = (
            swarm.draw(self.random, Random(seed), scenario.without, scenario.always)
            if scenario.faults is None
            else scenario.faults(self.random)
        )
        self.keeps = Random(f"{seed}/retention") if "retention" in self.faults.rates else None
        """The dice of retention, which leave the others as they fall; None without it."""
        for kind in swarm.WITHOUT_RETENTION if self.keeps is not None else ():
            self.faults.rates.pop(kind, None)
        for kind in swarm.OF_OWN_STAGES if scenario.stage is not None else ():
            self.faults.rates.pop(kind, None)
        self.transcript = Transcript()
        self.books = Books(loop, self.transcript)
        self.network = Network(loop, self.random, self.faults, self.books)
        self.nodes: list[Node] = []
        self.apis: list[ApiModel] = []
        self.stores: list[Store] = []
        self.tail: Tail | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.ledgers = scenario.stage is None
        self._build()
        self.client = Client(self.nodes[0].name, self.network)
        self.network.serve(CLIENT, lambda *request: self.client.serve(*request))
        self.operator = Operator(self.nodes, self.network, keyed=seed % KEYED_EVERY == 0)
        self.restores = Restores(self.nodes, loop, self.random, self.faults, self.books)
        self.rest = Rest(
            self.nodes, self.client, self.tail, self.network, self.books, self.restores
        )
        self.weather = Weather(self.nodes, self.apis, self.network)

    # --- building --------------------------------------------------------------------------------

    def _build(self) -> None:
        chosen = self._chain()
        names = [stage.name for stage, _ in chosen]
        has_tail = chosen[-1][1] != "pivotal" and self.random.random() < 0.4
        pivotal = any(step.rules.pivot for stage, _ in chosen for step in stage.steps)
        if pivotal:
            has_tail = False
        if self.scenario.tail is not None:
            has_tail = self.scenario.tail
        self.chain = "-".join(kind for _, kind in chosen) + ("-tail" if has_tail else "")
        if any(not step.rules.idempotent for stage, _ in chosen for step in stage.steps):
            self.faults.rates.pop("zombie", None)  # nothing protects an API that ignores keys
        followers = [*names[1:], *([TAIL] if has_tail else [])]
        for index, (stage, _) in enumerate(chosen):
            upstream = names[index - 1] if index else CLIENT
            downstream = followers[index : index + 1]
            self._add_node(stage, upstream, downstream)
        if has_tail:
            self.tail = tail = Tail(names[-1], self.network)
            self.network.serve(TAIL, lambda *request: tail.serve(*request))

    def _chain(self) -> list[tuple[StageDeclaration[Any, Any], str]]:
        if self.scenario.stage is not None:
            return [(self.scenario.stage, "own")]
        if self.scenario.chain:
            named = zip(self.scenario.chain, stages.NAMES, strict=False)
            return [(self._made(kind, name), kind) for kind, name in named]
        kinds = ["plain", "bundle", "sequence", "unkeyed"]
        length = self.random.choice((1, 1, 2, 2, 3))
        chosen = [self.random.choice(kinds) for _ in range(length)]
        dice = Random(f"{self.seed}/kinds")
        if dice.random() < SELDOM_KIND_SHARE:
            chosen[dice.randrange(length)] = dice.choice(stages.SELDOM_KINDS)
        if self.random.random() < 0.2:
            chosen[-1] = "pivotal"
        named = zip(chosen, stages.NAMES, strict=False)
        return [(self._made(kind, name), kind) for kind, name in named]

    def _made(self, kind: str, name: str) -> StageDeclaration[Any, Any]:
        """The newest version of a stage: the second one where releases are deployed."""
        return _second(kind, name) if "deploy" in self.faults.rates else _first(kind, name)

    def _add_node(
        self, stage: StageDeclaration[Any, Any], upstream: str, downstream: Sequence[str]
    ) -> None:
        shared = self._shared(stage)
        database = self._database(stage, shared)
        store = self._store(stage, database)
        self.stores.append(store)
        disk = Disk(stage.name, store, self.books, self.faults, self.random)
        disk.shared, disk.database = shared, database
        disk.exclusive = self.scenario.exclusive and "zombie" not in self.faults.rates
        bound: StageParticipant[Any, Any] = stage.bind(tuple(downstream))
        self.books.plans[stage.name] = bound.plan
        externals = sorted({step.peer for step in bound.plan.steps if step.kind in EXTERNAL_KINDS})
        for name in externals:
            own = OWN_MODELS.get(name.rpartition("-")[2]) if self.ledgers else None
            kind = self.scenario.models.get(name) or own or _model_of(name, bound.plan)
            model = kind(name, self.books, self.faults)
            self.apis.append(model)
            if model.keeps:
                self.books.keeping.add(name)
            if model.parts is not None:
                self.books.parts[name] = model.parts
            self.network.serve_api(model)
            model.deliver = partial(self.network.hook, name, stage.name)
        releases = [WatchedStage(bound, disk)]
        before = bound.supersedes
        while before is not None:
            self.books.earlier_plans[stage.name, before.plan.version] = before.plan
            releases.insert(0, WatchedStage(before, disk))
            before = before.supersedes
        neighbours = Neighbours(externals, [upstream], list(downstream), self.scenario.limits)
        node = Node(releases, disk, neighbours, self.network)
        node.fast_path = self.seed % 2 == 0
        node.kept = self._kept()
        node.paces = Random(f"{self.seed}/{node.name}/mail")
        self.nodes.append(node)
        self.network.serve(node.name, node.serve)

    def _kept(self) -> EngineLimits:
        """How long a stage keeps what is over: for weeks, unless the dice fall otherwise.

        Clocks differ by minutes there, as rows are kept, so that no id is too young to be looked
        for among those that were dropped.
        """
        dice = self.keeps
        if dice is None or dice.random() >= self.faults.rates["retention"]:
            return EngineLimits()
        window, rows, answers = (dice.uniform(*KEPT_SECONDS) for _ in range(3))
        return EngineLimits(
            compensation_window_seconds=window,
            answers_retention_seconds=answers,
            rows_retention_seconds=rows if dice.random() < 0.7 else None,
            dropped_age_seconds=-DAY_SECONDS,
        )

    def _shared(self, stage: StageDeclaration[Any, Any]) -> SharedDatabase | None:
        """The database of several processes, where the dice fall so.

        Where a lease can run out under a live process, nothing protects an API that ignores keys.
        """
        keyed = all(step.rules.idempotent for step in stage.steps)
        kept = not {"store_away", "disk_full", "zombie", *FAILOVERS} & self.faults.rates.keys()
        alone = self.scenario.folder is not None or not self.scenario.exclusive
        if alone or not (keyed or kept) or not self.faults.happens("replicas"):
            return None
        database = MemoryDatabase(_folders(stage))
        return SharedDatabase(stage.name, database, self.books, self.loop)

    def _database(
        self, stage: StageDeclaration[Any, Any], shared: SharedDatabase | None
    ) -> MemoryDatabase | None:
        """The database of a stage; None for one in a file."""
        if shared is not None:
            return shared.database
        return MemoryDatabase(_folders(stage)) if self.scenario.folder is None else None

    def _store(self, stage: StageDeclaration[Any, Any], database: MemoryDatabase | None) -> Store:
        if database is not None:
            return MemoryStore(database=database)
        assert self.scenario.folder is not None
        path = self.scenario.folder / f"{stage.name}-{self.seed}.db"
        return file_store(path, _folders(stage), self.faults)

    # --- running ---------------------------------------------------------------------------------

    def run(self) -> Result:
        """Faults first, then none; then the books are checked."""
        gc_was_on = gc.isenabled()
        gc.disable()  # nothing of a world may depend on when memory is collected
        try:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self._live())
        except Stuck as error:
            self.books.violate("I5", "", f"the world stands still: {error}")
        finally:
            self._end()
            asyncio.set_event_loop(None)
            if gc_was_on:
                gc.enable()
        for complaint in self.loop.complaints:
            self.books.violate("defect", "", complaint)
        states = Counter(known.row.state.value for known in self.books.known.values())
        states.update("parked" for known in self.books.known.values() if known.row.parked)
        return Result(
            seed=self.seed,
            sagas=len(self.client.orders),
            chain=self.chain,
            violations=self.books.violations,
            struck=self.faults.struck
            + Counter(
                {swarm.END_LOST: self.books.ends_lost, swarm.END_FOUND: self.books.ends_found}
            ),
            states=states,
            verdicts=Counter(order.verdict.value for order in self.client.orders.values()),
            transcript=self.transcript,
            seconds=self.loop.time(),
            rates=self.faults.rates,
            webhooks=self.network.webhooks,
        )

    def _end(self) -> None:
        for node in self.nodes:
            node.stop()
        for task in sorted(asyncio.all_tasks(self.loop), key=lambda task: task.get_name()):
            task.cancel()
        self.loop.run_until_complete(_turns())
        for store in self.stores:
            if isinstance(store, BlockingStore):
                store.shut()
            elif isinstance(store, MemoryStore):
                store.discard()

    async def _live(self) -> None:
        self.faults.on = False
        for node in self.nodes:
            await node.disk.store.open()
        self.faults.on = True
        for node in self.nodes:
            for _ in range(node.processes):
                node.start()
        await asyncio.sleep(0.05)
        failovers = Failovers(self.restores, self.random, self.faults, self.books)
        self.weather.begin(self.operator.act, self.restores.strike, failovers)
        if self.scenario.drive is not None:
            await self.scenario.drive(self)
        else:
            await self._send_all()
        if not self.books.violations:
            await asyncio.sleep(self.random.uniform(0.0, CALM_AFTER_SECONDS))
        self.weather.calm()
        await self._rest()
        if "operator" in self.faults.rates:
            await self._clear_desks()
        if self.keeps is not None:
            await self._ask_late(self.keeps)
        if not self.books.violations:
            orders = self.client.orders
            stands = self.scenario.stands
            await check(self.books, self.nodes, orders, ledgers=self.ledgers, stands=stands)

    async def _send_all(self) -> None:
        span = self.random.uniform(*ARRIVALS_SECONDS)
        for number in range(self.scenario.sagas):
            if self.books.violations:
                return
            saga = self._id(number)
            self.tasks.append(self.loop.create_task(self.client.run(saga, self._payload())))
            await asyncio.sleep(self.random.expovariate(self.scenario.sagas / span))

    def _id(self, number: int) -> str:
        """An id; with retention two of three prove their age, so that their rows can go."""
        if self.keeps is None or number % 3 == 0:
            return f"s{self.seed}-{number}"
        now = first_id_at(EPOCH + self.loop.time())
        return f"{now}{number:03x}-8000-{self.seed:012x}"

    async def _ask_late(self, dice: Random) -> None:
        """Retention has its time; then sagas that are over are sent once more, or to be undone.

        Each process is a new one, which remembers nothing of what was dropped.
        """
        if self.books.violations:
            return
        await asyncio.sleep(4 * KEPT_SECONDS[1])
        for node in self.nodes:
            for process in node.live:
                node.crash(process)
        await asyncio.sleep(LOOK_SECONDS)
        for order in list(self.client.orders.values()):
            if order.done and not self.rest.waits(order.saga):
                ask = self.client.undo if dice.random() < 0.3 else self.client.repeat
                await ask(order)
        await self._rest()

    def _payload(self) -> Mapping[str, Any]:
        if self.scenario.payload is not None:
            return self.scenario.payload(self.random)
        return {"amount": self.random.randint(1, 1000)}

    async def _rest(self) -> None:
        calm = began = self.loop.time()
        until = began + REST_SECONDS_MAX
        while not self.books.violations:
            if self.network.out:  # a long outage goes on while nothing else is wrong any more
                began = self.loop.time()
                until = began + REST_SECONDS_MAX
            self.loop.still = bool(self.network.out) and began > calm + STILL_AFTER_SECONDS
            if self.rest.reached(silent=self.loop.time() < began + SILENT_SECONDS):
                return
            if self.loop.time() > until:
                self.rest.report()
                return
            await self.operator.decide_what_waits()
            await asyncio.sleep(STILL_SECONDS if self.loop.still else LOOK_SECONDS)

    async def _clear_desks(self) -> None:
        """A person works off what waits, until nothing does that a verb could mend."""
        for _ in range(ROUNDS_MAX):
            if self.books.violations or not self.operator.desk():
                return
            await self.operator.clear_desk()
            await self._rest()


def _folders(stage: StageDeclaration[Any, Any]) -> tuple[Traversable, ...]:
    return () if stage.migrations is None else (stage.migrations,)


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def _model_of(api: str, plan: Plan) -> type[ApiModel]:
    """The model of an API of which the author says nothing but whether it honours keys."""
    keyed = all(step.idempotent for step in plan.steps if step.peer == api)
    return ApiModel if keyed else UnkeyedApi


@lru_cache(maxsize=64)
def _first(kind: str, name: str) -> StageDeclaration[Any, Any]:
    return stages.KINDS[kind](name)


@lru_cache(maxsize=64)
def _second(kind: str, name: str) -> StageDeclaration[Any, Any]:
    return stages.KINDS[kind](name, _first(kind, name))


__all__ = ["Result", "Scenario", "Verdict", "simulate_world"]
