"""The scheduler that asks Temporal, while Temporal is away: what it does to the sagas by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from stage.core.errors import NewerJournal
from stage.demo.chain import free_ports
from stage.demo.payment import payment
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.saga import journal
from stage.engine.saga.opening import OpenRequest
from stage.engine.temporal import scheduler
from stage.engine.temporal.scheduler import TemporalSettings, temporal_scheduler
from stage.ports.codec import Codec
from stage.store.codec import PLAIN
from stage.store.memory_database import MemoryDatabase
from tests.unit.engine.test_replicas import (
    OlderCodec,
    Replica,
    World,
    in_its_call,
)
from tests.waits import HANG_SECONDS, until


class Scheduled(Replica):
    """A replica whose sagas Temporal runs, or would run if it were there."""

    def __init__(
        self,
        database: MemoryDatabase,
        world: World,
        *,
        codec: Codec = PLAIN,
    ) -> None:
        super().__init__(database, world, codec=codec)
        (port,) = free_ports(1)
        settings = TemporalSettings(address=f"127.0.0.1:{port}")
        make = temporal_scheduler(settings, self.store, "payment", lambda _: None)
        made: list[tuple[LiveSagas, Any]] = []

        def schedule(sagas: LiveSagas, *rest: Any) -> Any:
            made.append((sagas, make(sagas, *rest)))
            return made[0][1]

        self.engine = EmbeddedEngine(
            payment.bind(),
            self.store,
            world.peers,
            self.observer,
            clock=self.clock,
            schedule=schedule,
        )
        ((self.sagas, self.scheduler),) = made
        self.claims = 0
        self.released: list[str] = []
        """Sagas that it gave up while they were live here."""
        self._watch()

    def _watch(self) -> None:
        ownership: Any = self.store.ownership
        claim, release = ownership.claim, ownership.release

        async def claiming(*given: Any) -> dict[str, int]:
            found: dict[str, int] = await claim(*given)
            self.claims += 1
            return found

        async def releasing(sagas: Mapping[str, int | None]) -> None:
            self.released += [each for each in sagas if each in self.sagas]
            await release(sagas)

        ownership.claim, ownership.release = claiming, releasing


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def database() -> Iterator[MemoryDatabase]:
    assert payment.migrations is not None
    made = MemoryDatabase([payment.migrations])
    yield made
    made.discard()


@pytest.fixture
async def replica(
    world: World, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scheduled]:
    monkeypatch.setattr(scheduler, "RECOVERY_SCAN_SECONDS", 0.05)
    monkeypatch.setattr(scheduler, "CLOSE_SECONDS_MAX", 0.1)
    replica = Scheduled(database, world)
    await replica.start()
    yield replica
    await replica.stop()
    assert [] == replica.observer.defects


async def written_down(replica: Scheduled) -> None:
    """Return when an accepted saga is in the journal, and out of memory."""
    async with asyncio.timeout(HANG_SECONDS):
        while (  # noqa: ASYNC110 - there is no event for it
            "s-1" in replica.sagas or not await replica.events()
        ):
            await asyncio.sleep(0.01)


async def test_a_saga_that_runs_for_long_stays_with_its_replica(
    replica: Scheduled, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of some minutes writes nothing, so the saga is due; given up, another would take it.

    The call would then be in doubt, with nobody dead.
    """
    monkeypatch.setattr(journal, "RUNNING_SECONDS", -60.0)
    world.door.clear()
    accepting = asyncio.ensure_future(replica.accept())
    await written_down(replica)
    replica.sagas.open(OpenRequest(saga_id="s-1"), recovered=True)
    await world.asked.acquire()
    seen = replica.claims
    await until(lambda: replica.claims > seen + 1)
    assert [] == replica.released
    world.door.set()
    reply = await accepting
    assert reply is not None and 200 == reply.status


async def test_a_run_that_only_a_newer_release_can_make_is_offered_again_later(
    database: MemoryDatabase, world: World
) -> None:
    """At once would be without end: this worker would fail it as fast as Temporal offers it."""
    newer = Replica(database, world)
    await newer.start()
    _ = await in_its_call(newer, world)
    await newer.stop()
    older = Scheduled(database, world, codec=OlderCodec())
    await older.start()

    for _ in range(2):
        with pytest.raises(ApplicationError, match="newer release") as failed:
            await ActivityEnvironment().run(older.scheduler.advance, "s-1")
        assert failed.value.next_retry_delay == timedelta(seconds=scheduler.NEWER_SECONDS)

    row = await older.store.get("s-1")
    assert row is not None and not row.parked and row.due_at is not None
    await older.stop()
    assert [] == older.observer.defects


async def test_a_row_that_only_a_newer_release_can_read_is_offered_again_later(
    database: MemoryDatabase, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a saga of which that release wrote an entry, and not at once, as behind a failure."""
    newer = Replica(database, world)
    await newer.start()
    _ = await in_its_call(newer, world)
    await newer.stop()
    older = Scheduled(database, world, codec=OlderCodec())
    await older.start()

    async def unread(_: str) -> None:
        raise NewerJournal("the release that wrote it goes on with it")

    monkeypatch.setattr(older.store, "get", unread)
    with pytest.raises(ApplicationError, match="newer release") as failed:
        await ActivityEnvironment().run(older.scheduler.advance, "s-1")
    assert failed.value.next_retry_delay == timedelta(seconds=scheduler.NEWER_SECONDS)
    await older.stop()
    assert [] == older.observer.defects


async def test_an_error_in_a_poke_does_not_end_the_scan(
    replica: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it no saga is found that Temporal has lost, for as long as the process lives."""
    monkeypatch.setattr(scheduler, "POKE_AGAIN_SECONDS", 0.0)

    async def fail(*_given: Any, **_more: Any) -> None:
        raise RuntimeError("a defect of the client")

    client = SimpleNamespace(**{Client.start_workflow.__name__: fail})
    replica.scheduler._client = cast(Client, client)
    accepting = asyncio.ensure_future(replica.accept(respond_async=True))
    await written_down(replica)
    await until(lambda: len(replica.observer.defects) > 1)
    seen = replica.claims
    await until(lambda: replica.claims > seen + 1)
    assert {"a defect of the client"} == {str(error) for error in replica.observer.defects}
    replica.scheduler._client = None  # the scan goes on, and pokes nobody any more
    replica.observer.defects.clear()
    accepting.cancel()


async def test_a_saga_is_not_run_again_at_once(
    replica: Scheduled, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests for the least time even where it is due sooner."""
    monkeypatch.setattr(scheduler, "REST_SECONDS_MIN", 1_000.0)
    world.unreachable = 1_000
    accepting = asyncio.ensure_future(replica.accept())
    await written_down(replica)
    replica.sagas.draining = True  # a saga that rests leaves memory

    assert 1_000.0 == await ActivityEnvironment().run(replica.scheduler.advance, "s-1")

    accepting.cancel()


async def two_that_nobody_reads(
    database: MemoryDatabase, world: World
) -> list[asyncio.Future[Any]]:
    """Sagas of a newer release that was ended in their calls, the first ones that are due."""
    newer = Replica(database, world)
    await newer.start()
    world.door.clear()
    accepting: list[asyncio.Future[Any]] = []
    for saga_id in ("s-1", "s-2"):
        accepting.append(asyncio.ensure_future(newer.accept(saga_id)))
        await world.asked.acquire()
    await newer.stop()
    for saga_id, row in database.sagas.items():
        database.sagas[saga_id] = replace(row, due_at=1.0)
    return accepting


async def one_written_down(database: MemoryDatabase, world: World) -> asyncio.Future[Any]:
    """A saga whose replica ended behind its entry, and poked nobody."""
    ended = Scheduled(database, world)
    await ended.start()
    accepting = asyncio.ensure_future(ended.accept("s-3"))
    await until(lambda: "s-3" in database.journal and "s-3" not in ended.sagas)
    await ended.stop()
    return accepting


async def test_sagas_behind_those_of_a_newer_release_are_found(
    database: MemoryDatabase, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole page of sagas that nobody here can read stays due, however often it is offered."""
    accepting = await two_that_nobody_reads(database, world)
    accepting.append(await one_written_down(database, world))
    older = Scheduled(database, world, codec=OlderCodec())
    poked: list[str] = []

    async def poke(_: str, ask: Any, **__: Any) -> None:
        poked.append(ask.saga_id)
        if ask.saga_id != "s-3":
            with pytest.raises(ApplicationError, match="newer release"):
                await ActivityEnvironment().run(older.scheduler.advance, ask.saga_id)

    async def connect(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(start_workflow=poke)

    monkeypatch.setattr(Client, "connect", connect)
    monkeypatch.setattr(scheduler, "RECOVERY_SCAN_SECONDS", 0.02)
    monkeypatch.setattr(scheduler, "CONNECT_AGAIN_SECONDS", 1_000.0)
    monkeypatch.setattr(scheduler, "CLOSE_SECONDS_MAX", 0.1)
    monkeypatch.setattr(scheduler, "DUE_IDS_MAX", 1)
    monkeypatch.setattr(scheduler, "RECOVERY_IDS_MAX", 1)
    await older.start()
    await until(lambda: "s-3" in poked)
    assert {"s-1", "s-2", "s-3"} == set(poked)
    for each in accepting:
        each.cancel()
    await older.stop()
    assert [] == older.observer.defects
