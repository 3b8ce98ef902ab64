"""A request that joins a live saga is not answered with the refusal of the one that opened it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest

from stage import Saga, Stage, Tx
from stage.core import events as e
from stage.core.states import SagaState
from stage.engine.clock import SystemClock
from stage.engine.embedded.engine import EmbeddedEngine
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.engine import DeadlineOver, NotAllowed, Reply
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest

T = TypeVar("T")
TRACE = TraceContext()
ASKED = CompensateRequest(requested_by="order", reason="no")


class Order(msgspec.Struct):
    """The payload."""

    amount: int


counter: Stage[Order, None] = Stage("counter", accepts=Order)


@counter.transaction(compensation=None, reason="no test undoes it")
async def count(tx: Tx, saga: Saga[Order]) -> None:
    """Nothing to write."""


class SlowStore(MemoryStore):
    """Runs no unit before the door is open."""

    def __init__(self) -> None:
        super().__init__()
        self.door = asyncio.Event()
        self.door.set()

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        await self.door.wait()
        return await super().transact(work)


@pytest.fixture
async def store() -> AsyncIterator[SlowStore]:
    store = SlowStore()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def engine(store: SlowStore) -> AsyncIterator[EmbeddedEngine]:
    client = PeerClient(Transport(), clock=SystemClock())
    peers = http_peers(client, externals={}, downstreams={}, upstreams={})
    engine = EmbeddedEngine(counter.bind(), store, peers, NullObserver())
    await engine.start()
    yield engine
    await engine.drain(1.0)


async def accept(engine: EmbeddedEngine, *, deadline: float | None = None) -> Reply | None:
    """One saga, or a duplicate of it."""
    envelope = Envelope(saga_id="s-1", data={"amount": 1})
    return await engine.accept(
        envelope, trace=TRACE, deadline=deadline, respond_async=False, wait_seconds=5.0
    )


async def test_a_duplicate_is_not_answered_with_the_refusal_of_a_verb(
    engine: EmbeddedEngine, store: SlowStore
) -> None:
    """A verb that is not allowed had opened the saga: its refusal was answered 500 to upstream."""
    assert await accept(engine) is not None
    store.door.clear()
    verb = e.Retried(at=0.0, actor="kim", why="ticket 17")
    asked = asyncio.ensure_future(engine.operate("s-1", verb, dry_run=False))
    await asyncio.sleep(0)

    duplicate = asyncio.ensure_future(accept(engine))
    await asyncio.sleep(0)
    store.door.set()

    with pytest.raises(NotAllowed):
        await asked
    reply = await duplicate
    assert reply is not None and (200, True) == (reply.status, reply.replayed)


async def test_a_compensation_is_not_answered_with_the_deadline_of_another_request(
    engine: EmbeddedEngine, store: SlowStore
) -> None:
    """A saga that came after its deadline is refused to its sender, and buried for upstream."""
    store.door.clear()
    late = asyncio.ensure_future(accept(engine, deadline=1.0))
    await asyncio.sleep(0)

    undone = asyncio.ensure_future(
        engine.compensate("s-1", asked=ASKED, trace=TRACE, wait_seconds=5.0)
    )
    await asyncio.sleep(0)
    store.door.set()

    with pytest.raises(DeadlineOver):
        await late
    snapshot = await undone
    assert snapshot.saga.tombstone and SagaState.COMPENSATED is snapshot.saga.state
