"""Every 202 is in the journal before it is said (decisions 0007 and 0025).

Also where the saga leaves memory at the same moment: it is parked, or the process stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stage.core import events as e
from stage.core.states import SagaState
from stage.demo.payment import payment
from stage.ports.engine import Unsettled
from stage.store.memory_database import MemoryDatabase
from tests.unit.engine.test_replicas import Replica, World, in_its_call
from tests.waits import until

DRAIN_SECONDS = 5.0


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def database() -> AsyncIterator[MemoryDatabase]:
    assert payment.migrations is not None
    database = MemoryDatabase([payment.migrations])
    yield database
    database.discard()


@pytest.fixture
async def replica(database: MemoryDatabase, world: World) -> AsyncIterator[Replica]:
    replica = Replica(database, world)
    await replica.start()
    yield replica
    await replica.store.close()
    assert [] == replica.observer.defects


async def words(replica: Replica) -> int:
    """How often the journal says that callers are answered 202."""
    return sum(isinstance(event, e.AnswerDeferred) for event in await replica.events())


async def test_a_call_that_outlasts_the_drain_is_deferred_first(
    replica: Replica, world: World
) -> None:
    """The caller is told 202, and the process that goes on knows it."""
    first = await in_its_call(replica, world)

    await replica.engine.drain(0.0)

    assert await first is None
    assert 1 == await words(replica)
    assert 1 == sum(world.charged.values())


async def test_a_saga_that_rests_while_the_process_stops_is_deferred_first(
    replica: Replica, world: World
) -> None:
    """It waits for its next attempt; its caller does not wait for the next process."""
    world.unreachable = 1  # the bank asks to come again in 3 s
    first = asyncio.ensure_future(replica.accept())
    await until(lambda: not world.unreachable)

    await replica.engine.drain(DRAIN_SECONDS)

    assert await first is None
    assert 1 == await words(replica)
    assert not world.charged


async def test_a_duplicate_that_does_not_wait_is_deferred_though_the_saga_left_memory(
    replica: Replica, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Prefer: respond-async` opens it with what is said to the caller."""
    monkeypatch.setattr("stage.engine.embedded.live_sagas.EVICT_AFTER_SECONDS", 0.0)
    world.unreachable = 1  # the bank asks to come again in 3 s
    first = asyncio.ensure_future(replica.accept())
    await until(lambda: not world.unreachable)
    first.cancel()  # its caller hung up: nothing keeps the saga in memory
    replica.clock.thawed.clear()
    assert 0 == await words(replica)

    assert await replica.accept(respond_async=True) is None

    assert 1 == await words(replica)
    await replica.stop()


async def test_a_caller_of_a_parked_saga_is_answered_by_the_parking(
    replica: Replica, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`parked` is the word: nothing more is journaled, however often it is asked."""
    monkeypatch.setattr("stage.engine.saga.opening.DEATHS_MAX", 0)

    class Suspect:
        deaths = 3
        step = "reserve"

    code = replica.engine._opening._code
    monkeypatch.setattr(type(code), "suspicion", lambda self, saga_id: Suspect)
    assert await replica.accept() is None
    before = await replica.events()
    assert isinstance(before[-1], e.Parked)

    assert await replica.accept() is None
    assert await replica.accept(respond_async=True) is None

    assert before == await replica.events()
    snapshot = await replica.engine.get_saga("s-1")
    assert snapshot is not None
    assert snapshot.saga.deferred
    assert SagaState.ACTIVE is snapshot.saga.state
    await replica.engine.drain(0.0)


async def test_a_process_that_has_stopped_opens_nothing(replica: Replica, world: World) -> None:
    """Its store may be closed by then: unknown, and the next process answers."""
    first = await in_its_call(replica, world)
    await replica.engine.drain(0.0)
    await first

    with pytest.raises(Unsettled, match="stopping"):
        await replica.accept()
