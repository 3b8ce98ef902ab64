"""Admission: which new sagas are taken on when more arrive than may run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar

import pytest

from stage.core.shares import Shares
from stage.demo.payment import payment
from stage.engine.embedded import recovery
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.limits import OPEN_PER_RUNNING_MAX, EngineLimits
from stage.ports.engine import Busy, DeadlineOver, Reply
from stage.ports.neighbour import ForwardReply
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope, TrailEntry
from tests.unit.engine.test_cost import ORDER, Agreeable

T = TypeVar("T")
AT = "2026-11-23T02:29:58.120Z"
SAGAS_MAX = 2
BURST = OPEN_PER_RUNNING_MAX * SAGAS_MAX


class Downstream(Agreeable):
    """Answers while its door is open."""

    def __init__(self) -> None:
        self.door = asyncio.Event()
        self.door.set()
        self.asked = asyncio.Semaphore(0)

    async def forward(self, peer: str, saga_id: str, body: bytes, **more: Any) -> ForwardReply:
        """See ports.neighbour.Neighbours."""
        self.asked.release()
        await self.door.wait()
        return await super().forward(peer, saga_id, body, **more)


class Undone(Exception):
    """The unit has to run once more."""


class Batches(MemoryStore):
    """Runs units together as a batch does, twice as after a failure, or leaves ends unwritten."""

    def __init__(self) -> None:
        assert payment.migrations is not None
        super().__init__(migrations=(payment.migrations,))
        self.together = asyncio.Barrier(BURST)
        self.units_together = 0
        """How many units from now on form one batch."""
        self.twice = False
        self.writes_ends = True

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        if deferrable and not self.writes_ends:
            await asyncio.Event().wait()
        try:
            return await super().transact(self._repeated(work) if self.twice else work)
        finally:
            if self.units_together:
                self.units_together -= 1
                await self.together.wait()

    def _repeated(self, work: Callable[[Unit], Awaitable[T]]) -> Callable[[Unit], Awaitable[T]]:
        async def again(unit: Unit) -> T:
            async def undone() -> None:
                await work(unit)
                raise Undone

            with suppress(Undone):
                await unit.attempt(undone)
            return await work(unit)

        return again


Made = Callable[..., AbstractAsyncContextManager[EmbeddedEngine]]


@pytest.fixture
async def store() -> AsyncIterator[Batches]:
    store = Batches()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def downstream() -> Downstream:
    return Downstream()


@pytest.fixture
def running(store: Batches, downstream: Downstream) -> Made:
    @asynccontextmanager
    async def made(
        sagas_max: int = SAGAS_MAX, upstreams: Sequence[str] = ()
    ) -> AsyncIterator[EmbeddedEngine]:
        stage = payment.bind(("shipping",))
        limits = EngineLimits(sagas_max=sagas_max, shares=Shares(frozenset(upstreams)))
        engine = EmbeddedEngine(stage, store, downstream.peers, NullObserver(), limits=limits)
        await engine.start()
        yield engine
        await engine.drain(0.0)

    return made


def accept(engine: EmbeddedEngine, saga_id: str, **options: Any) -> Awaitable[Reply | None]:
    """One saga."""
    usual: dict[str, Any] = {"deadline": None, "respond_async": False, "wait_seconds": 5.0}
    trail = tuple(TrailEntry(stage=name, at=AT) for name in options.pop("via", ()))
    envelope = Envelope(saga_id=saga_id, data=ORDER, trail=trail)
    return engine.accept(envelope, trace=TraceContext(), **{**usual, **options})


async def burst(engine: EmbeddedEngine, store: Batches) -> list[str]:
    """Send as many new sagas as may be in memory, in one batch; how each was answered."""
    store.units_together = BURST
    sagas = [accept(engine, f"b-{number}") for number in range(BURST)]
    replies = await asyncio.gather(*sagas, return_exceptions=True)
    return [str(each.status if isinstance(each, Reply) else each) for each in replies]


async def test_an_idle_stage_takes_on_as_many_of_a_burst_as_may_run(
    running: Made, store: Batches
) -> None:
    """Those about to be refused do not count: they would all bar each other."""
    async with running() as engine:
        said = await burst(engine, store)
    refused = ["2 sagas are running, the limit"] * (BURST - SAGAS_MAX)
    assert said == ["200"] * SAGAS_MAX + refused


async def test_refused_sagas_do_not_lift_the_limit(
    running: Made, store: Batches, downstream: Downstream
) -> None:
    """However many there were before."""
    downstream.door.clear()
    async with running() as engine:
        held = [asyncio.ensure_future(accept(engine, f"s-{n}")) for n in range(SAGAS_MAX)]
        for _ in held:
            await downstream.asked.acquire()
        for number in range(2 * BURST):
            with pytest.raises(Busy):
                await accept(engine, f"r-{number}")
        downstream.door.set()
        assert all(await asyncio.gather(*held))


@pytest.mark.parametrize("flood, others", [("order", ["shop"]), ("x", ["order", "shop"])])
async def test_one_caller_takes_its_share_of_the_running_sagas(
    running: Made, downstream: Downstream, flood: str, others: list[str]
) -> None:
    """Half, where there are others; names that nobody configured are one caller (rule 37)."""
    downstream.door.clear()
    async with running(4, upstreams=("order", "shop")) as engine:
        held = [asyncio.ensure_future(accept(engine, f"s-{n}", via=[flood])) for n in range(2)]
        for _ in held:
            await downstream.asked.acquire()
        with pytest.raises(Busy, match="2 sagas of"):
            await accept(engine, "s-3", via=[flood])
        more = [asyncio.ensure_future(accept(engine, f"o-{n}", via=[n])) for n in others]
        for _ in more:
            await downstream.asked.acquire()
        downstream.door.set()
        replies = await asyncio.gather(*held, *more)
        assert [200] * len(replies) == [reply.status for reply in replies if reply is not None]


async def test_sagas_whose_deadline_is_over_take_no_place(running: Made) -> None:
    """They arrive in numbers after upstream has stalled, and nothing of them is run."""
    async with running(sagas_max=1) as engine:
        late = [asyncio.ensure_future(accept(engine, f"s-{n}", deadline=1.0)) for n in range(3)]
        fresh = await accept(engine, "s-3")
        assert fresh is not None and 200 == fresh.status
        for each in late:
            with pytest.raises(DeadlineOver, match="on arrival"):
                await each


async def test_a_unit_that_is_repeated_is_not_in_its_own_way(running: Made, store: Batches) -> None:
    """A batch that did not land is run once more, unit by unit."""
    store.twice = True
    async with running(sagas_max=1) as engine:
        reply = await accept(engine, "s-1")
    assert reply is not None and 200 == reply.status


async def test_a_saga_that_a_duplicate_brings_back_counts(
    running: Made, downstream: Downstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A duplicate may arrive before recovery has reached the saga."""
    monkeypatch.setattr(recovery, "RECOVERY_BURST", 0)
    downstream.door.clear()
    async with running(sagas_max=1) as engine:
        assert await accept(engine, "s-1", respond_async=True) is None
        await downstream.asked.acquire()
    async with running(sagas_max=1) as engine:
        assert await accept(engine, "s-1", wait_seconds=0.0) is None
        await downstream.asked.acquire()
        with pytest.raises(Busy, match="1 sagas"):
            await accept(engine, "s-2")


async def test_a_saga_whose_end_is_only_being_written_bars_no_other(
    running: Made, store: Batches
) -> None:
    """Its caller has been answered."""
    store.writes_ends = False
    async with running(sagas_max=1) as engine:
        for number in range(3):
            reply = await accept(engine, f"s-{number}")
            assert reply is not None and 200 == reply.status
