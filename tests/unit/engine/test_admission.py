"""Which new sagas are taken on when there are more than may run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from stage.authoring import Saga, Stage, Tx
from stage.engine.embedded import EmbeddedEngine
from stage.engine.limits import RUNS_PER_SAGA_MAX, EngineLimits
from stage.outbound.links import HttpLinks
from stage.outbound.transport import Transport
from stage.ports.engine import Busy, Reply
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.silent import SilentObserver
from stage.wire.envelope import Envelope

T = TypeVar("T")
SAGAS_MAX = 2


class Order(msgspec.Struct):
    """The payload."""

    amount: int


counter: Stage[Order, None] = Stage("counter", accepts=Order)


@counter.transaction
async def count(tx: Tx, saga: Saga[Order]) -> None:
    """Nothing to write."""


class OneBatch(MemoryStore):
    """Runs units together and makes them durable together, as a batch does."""

    def __init__(self) -> None:
        super().__init__()
        self.tidied = asyncio.Event()
        """The engine has closed what was over: the units from then on are those of sagas."""
        self.batch: asyncio.Barrier | None = None

    async def transact(self, work: Callable[[Unit], Awaitable[T]], *, patient: bool = False) -> T:
        """See ports.store.Store."""
        try:
            return await super().transact(work)
        finally:
            self.tidied.set()
            if self.batch is not None:
                await self.batch.wait()


async def test_of_a_burst_on_an_idle_stage_as_many_are_taken_on_as_may_run() -> None:
    """Those about to be refused count for nothing: else they bar each other, all of them."""
    burst = RUNS_PER_SAGA_MAX * SAGAS_MAX
    store = OneBatch()
    await store.open()
    links = HttpLinks(Transport(), externals={}, downstreams={}, upstreams={})
    limits = EngineLimits(sagas_max=SAGAS_MAX)
    engine = EmbeddedEngine(counter.bind(), store, links, SilentObserver(), limits=limits)
    await engine.start()
    await store.tidied.wait()
    store.batch = asyncio.Barrier(burst)

    def accept(number: int) -> Awaitable[Reply | None]:
        return engine.accept(
            Envelope(saga_id=f"s-{number}", data={"amount": 1}),
            trace=TraceContext(),
            deadline=None,
            respond_async=False,
            wait_seconds=5.0,
        )

    told = await asyncio.gather(*map(accept, range(burst)), return_exceptions=True)

    assert SAGAS_MAX == sum(isinstance(each, Reply) and 200 == each.status for each in told), told
    refused = [each for each in told if isinstance(each, Busy)]
    assert burst - SAGAS_MAX == len(refused)
    assert {"2 sagas are running, the limit"} == set(map(str, refused))
    await engine.drain(1.0)
    await store.close()
