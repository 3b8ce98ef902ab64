"""A family of stage versions, and the world around them that keeps books of its own (F22).

One saga runs under one release, which dies at a chosen message; another release takes over. The
world knows what was charged and handed on, whatever the journal says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from stage import Http, Saga, Stage, Tx
from stage.core import events as e
from stage.core.questions import standing_apart
from stage.core.states import SagaState
from stage.engine.embedded.engine import EmbeddedEngine
from stage.ports.engine import NotAllowed, Snapshot, Unsettled
from stage.ports.external import ExternalRequest
from stage.ports.neighbour import (
    Compensated,
    CompensateReply,
    Executed,
    ForwardReply,
    NotExecuted,
    ShownExecuted,
)
from stage.ports.observer import TraceContext
from stage.ports.peers import Peers
from stage.ports.stage import Answer
from stage.simulation.loop import EPOCH, Process, VirtualLoop, WallClock
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope, TrailEntry
from stage.wire.replies import CompensateRequest

T = TypeVar("T")
Work = Callable[[EmbeddedEngine], Coroutine[Any, Any, T]]
ID = "s-1"
AT = "2026-11-23T02:29:58.120Z"
REST_SECONDS = 7_200.0
"""Virtual: longer than every wait of a saga that nothing keeps from going on."""


class Order(msgspec.Struct):
    """The payload."""

    amount: int


def release(
    name: str = "payment",
    *,
    to: str = "psp",
    step: str = "charge",
    undo: bool = True,
    reserves: bool = True,
    first: str = "",
    last: str = "",
    pivot: bool = False,
    **lineage: Any,
) -> Stage[Order, Order]:
    """One version: what differs from the first is given."""
    # Long because a declaration is a list of functions.
    stage: Stage[Order, Order] = Stage(name, accepts=Order, **lineage)

    def transaction(called: str, *, undone: bool) -> None:
        async def work(tx: Tx, saga: Saga[Order]) -> None:
            pass

        async def back(tx: Tx, saga: Saga[Order]) -> None:
            pass

        work.__name__ = called
        if undone:
            stage.transaction(work).compensation(back)
        else:
            stage.transaction(compensation=None, reason="it writes nothing")(work)

    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        made: str = answer.json()["id"]
        return made

    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charged)})

    if first:
        transaction(first, undone=True)
    if reserves:
        transaction("reserve", undone=True)
    charge.__name__ = step
    lost = "" if undo or pivot else "this release has lost it"
    charged = stage.call(to=to, timeout=5.0, pivot=pivot, reason=lost)(charge)
    if undo and not pivot:
        charged.compensation(refund)
    if last:
        transaction(last, undone=False)
    return stage


BASE = release()
FAMILY: dict[str, Stage[Order, Order]] = {
    "base": BASE,
    "step renamed": release(step="collect"),
    "step renamed, and said": release(step="collect", renamed={"charge": "collect"}),
    "other api": release(to="psp2"),
    "api renamed, and said": release(to="psp1", peers_renamed={"psp": "psp1"}),
    "compensation lost": release(undo=False),
    "step added first": release(first="audit"),
    "step added last": release(last="note"),
    "pivot": release(pivot=True),
    "version 2": release(version=2, to="psp2"),
    "version 2 after 1": release(version=2, to="psp2", step="collect", supersedes=BASE),
    "stage renamed": release("payments", version=2, supersedes=BASE),
}
SAME_API = {"api renamed, and said": {"psp1": "psp"}}
"""Releases that only call an API by another name."""


class Cut(Exception):
    """The process dies here."""


@dataclass(slots=True)
class World:
    """An API that honours keys and a downstream; the process dies at the message `cut`."""

    cut: int = 0
    landed: bool = True
    """Whether the message at which it dies has its effect."""
    final: frozenset[str] = frozenset()
    """Effects that their release declares no way back from: they may stand whatever is said."""
    names: dict[str, str] = field(default_factory=dict)
    messages: int = 0
    struck: str = ""
    charged: dict[tuple[str, str], bool] = field(default_factory=dict)
    """By API and key: whether it still stands."""
    shipped: bool = False
    wrong: list[str] = field(default_factory=list)
    dies: Callable[[], None] = lambda: None

    def name_of_today(self, peer: str) -> str:
        """See ports.neighbour.Neighbours."""
        return peer

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See ports.neighbour.Neighbours."""
        return (peer,)

    def is_upstream(self, peer: str) -> bool:
        """See ports.neighbour.Neighbours."""
        return peer == "order"

    async def _passes(self, what: str, effect: Callable[[], T]) -> T:
        self.messages += 1
        if self.messages != self.cut:
            return effect()
        self.struck = what
        if self.landed:
            effect()
        self.dies()
        await asyncio.Event().wait()
        raise Cut

    async def exchange(self, outgoing: ExternalRequest) -> Answer:
        """See ports.external.External."""
        request, api = outgoing.request, self.names.get(outgoing.peer, outgoing.peer)

        def effect() -> Answer:
            if request.path == "/charges":
                self.charged.setdefault((api, outgoing.key), True)
            else:
                key = msgspec.json.decode(request.body)["key"]
                if (api, key) not in self.charged and self.charged:
                    self.wrong.append(f"{api} is asked to refund {key!r}, which it never charged")
                if (api, key) in self.charged:
                    self.charged[api, key] = False
            return Answer(status=200, body=b'{"id":"c-1"}')

        return await self._passes(request.path, effect)

    async def forward(self, peer: str, saga_id: str, body: bytes, **_: Any) -> ForwardReply:
        """See ports.neighbour.Neighbours."""

        def effect() -> ForwardReply:
            self.shipped = True
            return Executed(data=msgspec.Raw(b"{}"))

        return await self._passes("forward", effect)

    async def get_outcome(self, peer: str, saga_id: str, **_: Any) -> Any:
        """See ports.neighbour.Neighbours."""
        shown = ShownExecuted() if self.shipped else NotExecuted(reason="never seen")
        return await self._passes("look", lambda: shown)

    async def get_shared(self, peer: str, asker: str, **_: Any) -> Any:
        """See ports.neighbour.Neighbours."""
        raise AssertionError("nobody asks")

    async def get_chain(self, peer: str, saga_id: str, **_: Any) -> Any:
        """See ports.neighbour.Neighbours."""
        raise AssertionError("nobody asks")

    async def compensate(
        self, peer: str, saga_id: str, request: CompensateRequest, **_: Any
    ) -> CompensateReply:
        """See ports.neighbour.Neighbours."""

        def effect() -> CompensateReply:
            if peer == "shipping":
                self.shipped = False
            return Compensated()

        return await self._passes(f"compensate {peer}", effect)

    @property
    def stands(self) -> set[str]:
        """The effects that stand out there: a charge, a shipment."""
        charges = {"charge" for stands in self.charged.values() if stands} - self.final
        return charges | ({"forward:shipping"} if self.shipped else set())


class Defects(NullObserver):
    """Each defect of ours is wrong."""

    def __init__(self, world: World) -> None:
        self._world = world

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See ports.observer.Observer."""
        self._world.wrong.append(f"defect in {where}: {error!r}")


class Deploys:
    """One saga over several releases on one database."""

    def __init__(self, loop: VirtualLoop, world: World) -> None:
        self._loop = loop
        self._world = world
        self._database = MemoryDatabase([])
        self._released = 0

    async def run(self, name: str, work: Work[T]) -> T | None:
        """Deploy that release and do the work there; None where the process died meanwhile."""
        self._released += 1
        world, process = self._world, Process(self._loop, f"{name}#{self._released}")
        world.names = SAME_API.get(name, {})
        world.dies = process.kill
        self._loop.still = False
        store = MemoryStore(database=self._database)
        engine = EmbeddedEngine(
            FAMILY[name].bind(("shipping",)),
            store,
            Peers(external=world, neighbours=world),
            Defects(world),
            clock=WallClock(self._loop, lambda: EPOCH + self._loop.time()),
        )

        async def life() -> T:
            await store.open()
            await engine.start()
            return await work(engine)

        done = process.spawn(life())
        await asyncio.wait([done])
        died = done.cancelled()
        if not died:
            process.kill()
        return None if died else done.result()


async def sent(engine: EmbeddedEngine) -> None:
    """Upstream sends the saga and asks to compensate it when it has its answer."""
    envelope = Envelope(saga_id=ID, data={"amount": 1}, trail=(TrailEntry(stage="order", at=AT),))
    await engine.accept(
        envelope, trace=TraceContext(), deadline=None, respond_async=False, wait_seconds=60.0
    )
    await asked(engine)


async def asked(engine: EmbeddedEngine) -> None:
    """Upstream asks to compensate it."""
    request = CompensateRequest(requested_by="order", reason="asked")
    await engine.compensate(ID, asked=request, trace=TraceContext(), wait_seconds=60.0)


async def rested(engine: EmbeddedEngine) -> Snapshot | None:
    """The saga once nothing more happens to it. Meanwhile the engine looks for work less often."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.still = True
    await asyncio.sleep(REST_SECONDS)
    return await engine.get_saga(ID)


async def retried(engine: EmbeddedEngine) -> Snapshot | None:
    """An operator retries what waits; then as `rested`."""
    try:
        verb = e.Retried(at=0.0, actor="kim", why="deployed")
        await engine.operate(ID, verb, dry_run=False)
    except (NotAllowed, Unsettled):
        pass
    return await rested(engine)


def judge(name: str, world: World, found: Snapshot | None, *, asked_for: bool) -> list[str]:
    """The faults of the picture that this release gives, by the books of the world."""
    wrong = list(world.wrong)
    if len(world.charged) > 1:
        wrong.append(f"charged {len(world.charged)} times: {sorted(world.charged)}")
    if found is None:
        return [*wrong, *(["it is forgotten"] if world.stands else [])]
    plan = found.saga.under(FAMILY[name].bind(("shipping",)).plan)
    saga = found.saga
    named = {_as_of_world(step) for part in standing_apart(plan, saga) for step in part}
    if saga.state is SagaState.COMPENSATED and world.stands:
        wrong.append(f"compensated, and {world.stands} stands")
    if (
        saga.state is SagaState.COMPLETED
        and not asked_for
        and world.stands != COMPLETE - world.final
    ):
        wrong.append(f"completed, and only {world.stands} stands")
    over = saga.ended or bool(saga.parked) or plan.newer
    if not over:
        wrong.append(f"neither over nor parked: {saga.state}")
    if not saga.ended or saga.state is SagaState.FAILED_TO_COMPENSATE:
        missing = world.stands - named
        if missing:
            wrong.append(f"{missing} stands, and is not shown: {named}")
    return wrong


COMPLETE = {"charge", "forward:shipping"}


def _as_of_world(step: str) -> str:
    return "charge" if step == "collect" else step


def deploy(
    first: str, then: str, cut: int, *, landed: bool
) -> tuple[World, list[str], Counter[str]]:
    """One saga of `first` that dies at a message, taken over by `then`, and back again."""
    loop, world = VirtualLoop(), World(cut=cut, landed=landed)
    world.final = frozenset(("charge",)) if first == "compensation lost" else frozenset()
    ends: Counter[str] = Counter()

    async def story() -> list[str]:
        deploys = Deploys(loop, world)
        await deploys.run(first, sent)
        if cut and not world.struck:
            return list(world.wrong)
        wrong: list[str] = []
        for name, work, asked_for in (
            (then, rested, False),
            (then, _after(asked, rested), True),
            (first, retried, True),
            (first, _after(asked, rested), True),
        ):
            found = await deploys.run(name, work)
            said = judge(name, world, found, asked_for=asked_for or found is None)
            wrong += [f"{name}: {each}" for each in said]
            if found is not None:
                ends[found.saga.parked_cause or found.saga.state] += 1
        return wrong

    try:
        return world, loop.run_until_complete(story()), ends
    finally:
        loop.close()


def _after(
    before: Callable[[EmbeddedEngine], Coroutine[Any, Any, None]],
    then: Callable[[EmbeddedEngine], Coroutine[Any, Any, T]],
) -> Callable[[EmbeddedEngine], Coroutine[Any, Any, T]]:
    async def both(engine: EmbeddedEngine) -> T:
        await before(engine)
        return await then(engine)

    return both
