"""Two engines on one database whose sagas are run where and when a scheduler says.

The scheduler of the tests is a hand: what is written down is in its list, until a test has one of
the engines run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from stage import Saga, Stage
from stage.core import events as e
from stage.core.states import SagaState
from stage.demo.payment import Order, payment
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.saga.opening import OpenRequest
from stage.ports.engine import NotAllowed
from stage.ports.ownership import HeldElsewhere, Ownership
from stage.store.memory_database import MemoryDatabase
from tests.unit.engine.test_replicas import Replica, World
from tests.waits import HANG_SECONDS, until

SCAN_SECONDS = 0.05


class Hand:
    """engine.embedded.scheduler.Scheduler: it gives back what is written down, and waits."""

    recovered = True

    def __init__(self, sagas: LiveSagas, ownership: Ownership) -> None:
        self._sagas = sagas
        self._ownership = ownership
        self.waiting: list[str] = []
        """Sagas that were written down and given back."""
        self._lengths: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        sagas.deposited = self._deposited

    async def start(self) -> None:
        """See `Scheduler`."""
        self._scanning = asyncio.ensure_future(self._scan())

    def stop(self) -> None:
        """See `Scheduler`."""
        self._scanning.cancel()

    async def _scan(self) -> None:
        """Give back again, as that of Temporal does, what a look of another replica kept here."""
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            kept = {each: at for each, at in self._lengths.items() if each not in self._sagas}
            await self._ownership.release(kept)

    async def close(self) -> None:
        """See `Scheduler`."""

    def _deposited(self, saga_id: str, length: int) -> None:
        self._tasks.add(asyncio.ensure_future(self._give_back(saga_id, length)))

    async def _give_back(self, saga_id: str, length: int) -> None:
        # As the scheduler of Temporal does: a run of it may have begun here meanwhile.
        self._lengths[saga_id] = length
        if saga_id not in self._sagas:
            await self._ownership.release({saga_id: length})
        self.waiting.append(saga_id)

    def run(self, saga_id: str = "s-1") -> None:
        """Run a saga here, as soon as nobody has it to write something down."""
        self._tasks.add(asyncio.ensure_future(self._run(saga_id)))

    async def _run(self, saga_id: str) -> None:
        while True:
            live = self._sagas.get(saga_id)
            if live is None:
                live = self._sagas.open(OpenRequest(saga_id=saga_id), recovered=True)
            with suppress(HeldElsewhere):
                await live.opened
                if live.recovered:
                    return
            await asyncio.sleep(0.01)


class Scheduled(Replica):
    """A replica whose scheduler is a hand."""

    def __init__(self, database: MemoryDatabase | str, world: World) -> None:
        super().__init__(database, world)
        hands: list[Hand] = []

        def make(sagas: LiveSagas, ownership: Ownership, *_: object) -> Hand:
            hands.append(Hand(sagas, ownership))
            return hands[0]

        self.engine = EmbeddedEngine(
            payment.bind(),
            self.store,
            world.peers,
            self.observer,
            clock=self.clock,
            schedule=make,
        )
        (self.hand,) = hands

    async def written_down(self, times: int = 1) -> None:
        """Return when so much was written down here, and given back."""
        await until(lambda: len(self.hand.waiting) >= times)


Pair = tuple[Scheduled, Scheduled]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest) -> MemoryDatabase | str:
    """The database of the pair, in memory and on a server."""
    if request.param == "memory":
        assert payment.migrations is not None
        return MemoryDatabase([payment.migrations])
    url: str = request.getfixturevalue("migrated_url")
    return url


@pytest.fixture
async def pair(shared: MemoryDatabase | str, world: World) -> AsyncIterator[Pair]:
    a, b = Scheduled(shared, world), Scheduled(shared, world)
    for each in (a, b):
        await each.start()
    yield a, b
    for each in (a, b):
        await each.stop()
        assert [] == each.observer.defects
    if isinstance(shared, MemoryDatabase):
        shared.discard()


@pytest.fixture
def approving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage of the replicas asks a person."""
    stage: Stage[Order, None] = Stage("payment", accepts=Order, migrations=payment.migrations)

    @stage.approval("risk")
    def risk(saga: Saga[Order]) -> dict[str, int]:
        return {"amount": saga.input.amount}

    monkeypatch.setattr(f"{__name__}.payment", stage)


def kinds(events: list[e.Event]) -> list[str]:
    """Their names."""
    return [type(event).__name__ for event in events]


async def test_a_saga_is_written_down_and_run_where_the_scheduler_says(
    pair: Pair, world: World
) -> None:
    """Nothing is run before; the caller that waits at one replica is answered by the other."""
    a, b = pair
    accepting = asyncio.ensure_future(a.accept())
    await a.written_down()
    assert ["Accepted"] == kinds(await a.events())
    assert 0 == world.sent["POST charges"]
    b.hand.run()
    reply = await accepting
    assert reply is not None and 200 == reply.status
    assert not reply.replayed
    assert 1 == world.sent["POST charges"]


async def test_the_first_run_of_a_saga_is_no_recovery(pair: Pair) -> None:
    """Nothing was lost, so nothing counts towards a crash loop (rule 15)."""
    a, b = pair
    accepting = asyncio.ensure_future(a.accept())
    await a.written_down()
    b.hand.run()
    await accepting
    (recovered,) = [each for each in await a.events() if isinstance(each, e.Recovered)]
    assert recovered.rested


async def test_a_duplicate_of_a_saga_that_waits_for_its_turn_gets_the_same_answer(
    pair: Pair, world: World
) -> None:
    """At either replica: equal bytes, one charge, and the first alone is no replay."""
    a, b = pair
    first = asyncio.ensure_future(a.accept())
    await a.written_down()
    others = [asyncio.ensure_future(a.accept())]
    await a.written_down(2)
    others.append(asyncio.ensure_future(b.accept()))
    await b.written_down()
    a.hand.run()
    replies: list[Any] = await asyncio.gather(first, *others)
    assert 1 == len({reply.body for reply in replies})
    assert [False, True, True] == [reply.replayed for reply in replies]
    assert 1 == world.sent["POST charges"]


async def test_a_wait_that_runs_out_before_the_turn_is_journaled(pair: Pair) -> None:
    """A 202 is journaled before it is said, though no run is there to do it (decision 0007)."""
    a, b = pair
    assert await a.accept(wait_seconds=0.1) is None
    assert ["Accepted", "AnswerDeferred"] == kinds(await a.events())
    assert await b.accept(respond_async=True, wait_seconds=0.0) is None
    assert ["Accepted", "AnswerDeferred"] == kinds(await a.events())
    b.hand.run()
    reply = await a.accept()
    assert reply is not None and 200 == reply.status


@pytest.mark.parametrize("shared", ["postgres"], indirect=True)
async def test_a_saga_at_which_another_replica_looks_is_given_back_again(
    pair: Pair, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is locked for a moment, and a release passes over it: its run may begin here."""
    a, b = pair
    release, looked = a.store.ownership.release, list[str]()

    async def behind_a_look(sagas: Mapping[str, int | None]) -> None:
        if looked or not sagas:
            return await release(sagas)
        looked.extend(sagas)
        other = await asyncpg.connect(migrated_url)
        async with other.transaction():
            await other.execute("SELECT FROM stage.saga FOR UPDATE")
            await release(sagas)
        await other.close()

    monkeypatch.setattr(a.store.ownership, "release", behind_a_look)
    assert await a.accept(respond_async=True, wait_seconds=0.0) is None
    await a.written_down()
    b.hand.run()
    reply = await b.accept()
    assert reply is not None and 200 == reply.status
    assert ["s-1"] == looked


async def test_a_compensation_before_the_turn_leaves_nothing_to_run(
    pair: Pair, world: World
) -> None:
    """It is written down behind the saga, which turns round without a charge."""
    a, b = pair
    accepting = asyncio.ensure_future(a.accept())
    await a.written_down()
    undoing = asyncio.ensure_future(b.compensate())
    await b.written_down()
    assert not undoing.done()
    a.hand.run()
    snapshot, reply = await asyncio.gather(undoing, accepting)
    assert SagaState.COMPENSATED is snapshot.saga.state
    assert reply is not None and 410 == reply.status
    assert 0 == world.sent["POST charges"]


async def test_a_compensation_of_a_completed_saga_waits_for_its_turn(
    pair: Pair, world: World
) -> None:
    """The run that undoes it is the scheduler's too."""
    a, b = pair
    accepting = asyncio.ensure_future(a.accept())
    await a.written_down()
    a.hand.run()
    await accepting
    await until(lambda: 0 == a.engine.live)
    undoing = asyncio.ensure_future(b.compensate())
    await b.written_down()
    assert not world.refunded
    a.hand.run()
    assert SagaState.COMPENSATED is (await undoing).saga.state
    assert 1 == sum(world.refunded.values())


async def test_a_compensation_reaches_the_run_wherever_it_is(pair: Pair, world: World) -> None:
    """By mail where another replica has it, by its inbox where it is live."""
    for number, asked in enumerate(("a", "b")):
        a, b = pair
        saga_id = f"s-{number}"
        world.door.clear()
        accepting = asyncio.ensure_future(a.accept(saga_id))
        await a.written_down(number + 1)
        a.hand.run(saga_id)
        await world.asked.acquire()
        undoing = asyncio.ensure_future({"a": a, "b": b}[asked].compensate(saga_id))
        async with asyncio.timeout(HANG_SECONDS):
            while "CompensationRequested" not in kinds(  # noqa: ASYNC110 - in another task
                await a.events(saga_id)
            ):
                await asyncio.sleep(0.01)
        world.door.set()
        snapshot, reply = await asyncio.gather(undoing, accepting)
        assert SagaState.COMPENSATED is snapshot.saga.state
        assert reply is not None and reply.status in (200, 410)


async def test_a_saga_never_seen_that_is_compensated_needs_no_turn(pair: Pair) -> None:
    """A tombstone is the end."""
    a, b = pair
    assert (await a.compensate()).saga.tombstone
    reply = await b.accept()
    assert reply is not None and 410 == reply.status
    assert [] == a.hand.waiting == b.hand.waiting


async def test_a_verb_that_does_not_fit_is_refused_before_the_turn(pair: Pair) -> None:
    """Nothing is written down."""
    a, b = pair
    accepting = asyncio.ensure_future(a.accept())
    await a.written_down()
    verb = e.Retried(at=a.clock.now(), actor="kim", why="try it")
    with pytest.raises(NotAllowed):
        await b.engine.operate("s-1", verb, dry_run=False)
    assert ["Accepted"] == kinds(await a.events())
    a.hand.run()
    await accepting


@pytest.mark.usefixtures("approving")
async def test_a_decision_on_a_saga_of_a_backup_is_refused_before_the_turn(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn would take the saga back (decision 0050): the yes must not be said to count."""
    a, b = pair
    assert await a.accept(wait_seconds=0.0) is None
    await a.written_down()
    a.hand.run()
    async with asyncio.timeout(HANG_SECONDS):
        while "ApprovalAsked" not in kinds(await a.events()):  # noqa: ASYNC110 - in another task
            await asyncio.sleep(0.01)
    await a.engine.drain(0.0)
    later = replace(b.store.identity, generation=2)
    monkeypatch.setattr(type(b.store), "identity", property(lambda _: later))
    verb = e.Approved(at=b.clock.now(), actor="kim", why="ticket 17", step="risk")
    with pytest.raises(NotAllowed, match="no approval is asked for"):
        await b.engine.operate("s-1", verb, dry_run=False)
    assert "Approved" not in kinds(await a.events())
