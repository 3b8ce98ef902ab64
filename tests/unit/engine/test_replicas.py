"""Two engines on one database: a saga has one owner, and every caller gets the same answer.

The bank and downstream keep their own books, by key, over both engines.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from stage import Http, Pending, Saga, Stage
from stage.core import events as e
from stage.core import machine
from stage.core import sweep as sweeps
from stage.core.act_key import ActKey
from stage.core.errors import NewerJournal, StoreUnavailable
from stage.core.pause import Pause
from stage.core.retry import RetryPolicy
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.sweep import Sweep
from stage.core.sweep_verbs import SweepVerb
from stage.demo.payment import Order, payment
from stage.engine.clock import SystemClock
from stage.engine.embedded import pauses, recovery
from stage.engine.embedded.elsewhere import Elsewhere
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.live_saga import InboxItem
from stage.engine.saga.fast_path import AnyTransition
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal, Stored
from stage.engine.saga.versions import Versions
from stage.ports.codec import Codec
from stage.ports.engine import (
    ActRepeated,
    KeyReused,
    LeftToNewer,
    NotAllowed,
    PayloadDiffers,
    Reply,
    Snapshot,
    Unsettled,
)
from stage.ports.external import ExternalRequest
from stage.ports.neighbour import ForwardReply
from stage.ports.observer import TraceContext
from stage.ports.peers import PeerLimits, Peers
from stage.ports.stage import Answer, Lost
from stage.ports.store import Store
from stage.store.codec import PLAIN, PlainCodec
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase, MemoryReplica
from stage.store.postgres.replica import PostgresReplica
from stage.store.postgres.store import PostgresLimits, PostgresStore
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest
from tests.scenario.releases import payment as release_of
from tests.unit.engine.test_cost import ORDER, Agreeable
from tests.waits import HANG_SECONDS, until

RENAMED = {"risk": "fraud"}
BANK = payment.bind().plan.step("charge").peer
LEASE_SECONDS = 60.0
"""A machine that is busy for some seconds declares no replica dead."""
RENEWALS_PER_LEASE = 300
LAST_LEASE_SECONDS = 0.6
"""Shorter than the time-out of the call, so that the other replica settles it."""
AWAY_SECONDS = 3.0
"""The bank asks for so much patience while it is away."""


class World(Agreeable):
    """The peers of both engines. The bank honours keys, and answers while its door is open.

    `sent` counts the requests of each kind, `charged` and `refunded` the effects.
    """

    def __init__(self) -> None:
        self.door = asyncio.Event()
        self.door.set()
        self.asked = asyncio.Semaphore(0)
        """Released by every charge that arrives."""
        self.sent: Counter[str] = Counter()
        self.charged: Counter[str] = Counter()
        self.refunded: Counter[str] = Counter()
        self.forwards_lost = 0
        """How many of the first forwards are never answered."""
        self.unreachable = 0
        """How many charges certainly do not arrive from now on."""
        self.away_seconds = AWAY_SECONDS

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """The bank: a charge, a refund, or a query for a charge."""
        request = outgoing.request
        self.sent[f"{request.method} {request.path.split('/')[1]}"] += 1
        if request.method == "GET":
            key = request.path.rpartition("/")[2].replace("%3A", ":").replace("%2F", "/")
            found = self.charged[key] > 0
            own_word = b'{"id":"c-1"}' if found else b'{"code":"unknown_key"}'
            return Answer(status=200 if found else 404, body=own_word)
        if request.path == "/refunds":
            self.refunded[msgspec.json.decode(request.body)["key"]] += 1
            return Answer(status=200, body=b'{"refunded":1}')
        if self.unreachable:
            self.unreachable -= 1
            return Lost(reason="refused", certain=True, retry_after=self.away_seconds)
        self.charged[outgoing.key] = 1
        self.asked.release()
        await self.door.wait()
        return Answer(status=200, body=b'{"id":"c-1"}')

    async def forward(self, peer: str, saga_id: str, body: bytes, **more: Any) -> ForwardReply:
        """Downstream: done, after it has lost some requests."""
        self.sent["forward"] += 1
        if self.sent["forward"] <= self.forwards_lost:
            await asyncio.Event().wait()
        return await super().forward(peer, saga_id, body, **more)


class FreezingClock(SystemClock):
    """While it is frozen nobody wakes: no lease is renewed, nothing is claimed."""

    def __init__(self) -> None:
        self.thawed = asyncio.Event()
        self.thawed.set()

    async def sleep(self, seconds: float) -> None:
        """See ports.clock.Clock."""
        await super().sleep(seconds)
        await self.thawed.wait()


class Watching(NullObserver):
    """Remembers every defect."""

    def __init__(self) -> None:
        self.defects: list[BaseException] = []

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See ports.observer.Observer."""
        self.defects.append(error)


class OlderCodec(PlainCodec):
    """That of a release which does not know yet how a call begins."""

    def __init__(self) -> None:
        self.met = asyncio.Event()
        """Set once it met such an entry."""

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> e.Event:
        """See ports.codec.Codec."""
        event = super().decode_event(saga_id, number, encoded)
        if isinstance(event, e.StepStarted):
            self.met.set()
            raise NewerJournal("a newer release goes on with it")
        return event


class Replica:
    """An engine on a store of its own, over the shared database."""

    def __init__(
        self,
        database: MemoryDatabase | str,
        world: World,
        *downstream: str,
        codec: Codec = PLAIN,
        stage: Stage[Any, Any] | None = None,
    ) -> None:
        """`database` is a URL where it is on a server."""
        self.clock = FreezingClock()
        self.stage = stage or payment  # read here: some tests declare another
        self.store: Store
        if isinstance(database, str):
            assert payment.migrations is not None
            limits = PostgresLimits(lease_seconds=LEASE_SECONDS)
            self.store = PostgresStore(
                database, migrations=[payment.migrations], limits=limits, codec=codec
            )
        else:
            self.store = MemoryStore(
                database=database, exclusive=False, lease_seconds=LEASE_SECONDS, codec=codec
            )
        self.observer = Watching()
        self.engine = EmbeddedEngine(
            self.stage.bind(downstream), self.store, world.peers, self.observer, clock=self.clock
        )

    async def start(self) -> None:
        """Open the store and claim what is due."""
        await self.store.open()
        await self.engine.start()

    async def stop(self) -> None:
        """Drain, and close the store."""
        self.clock.thawed.set()
        await self.engine.drain(0.0)
        await self.store.close()

    async def freeze(self) -> None:
        """From now on it does nothing that waits, and its lease runs out."""
        self.clock.thawed.clear()
        ownership = self.store.ownership
        assert isinstance(ownership, MemoryReplica | PostgresReplica)
        usual, ownership._lease_seconds = ownership._lease_seconds, LAST_LEASE_SECONDS
        assert await ownership.renew()
        ownership._lease_seconds = usual

    def accept(self, saga_id: str = "s-1", **options: Any) -> Awaitable[Reply | None]:
        """One saga, or a duplicate of it."""
        usual: dict[str, Any] = {"deadline": None, "respond_async": False, "wait_seconds": 20.0}
        data = options.pop("data", ORDER)
        envelope = Envelope(saga_id=saga_id, data=data)
        return self.engine.accept(envelope, trace=TraceContext(), **{**usual, **options})

    def compensate(self, saga_id: str = "s-1", wait_seconds: float = 20.0) -> Awaitable[Snapshot]:
        """Ask to compensate it."""
        return self.engine.compensate(
            saga_id,
            asked=CompensateRequest(requested_by="order", reason="no"),
            trace=TraceContext(),
            wait_seconds=wait_seconds,
        )

    async def events(self, saga_id: str = "s-1") -> list[e.Event]:
        """Its journal."""
        return [entry.event for entry in await self.store.entries(saga_id)]

    async def until_waiting(self, attempts: int = 1, saga_id: str = "s-1") -> None:
        """Return once the charge waits for its next attempt, behind so many that did not happen."""

        async def waiting() -> bool:
            seen = await self.engine.get_saga(saga_id)
            charge = None if seen is None else seen.saga.steps.get("charge")
            return (
                charge is not None and Phase.WAITING is charge.phase and attempts <= charge.attempts
            )

        await until(waiting)

    async def until_journaled(self, kind: type[e.Event], saga_id: str = "s-1") -> None:
        """Return once such an entry is durable, of which nobody tells."""

        async def journaled() -> bool:
            return any(isinstance(event, kind) for event in await self.events(saga_id))

        await until(journaled)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def database() -> MemoryDatabase:
    assert payment.migrations is not None
    return MemoryDatabase([payment.migrations])


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest, database: MemoryDatabase) -> MemoryDatabase | str:
    """The database of the pair, in memory and on a server."""
    if request.param == "memory":
        return database
    url: str = request.getfixturevalue("migrated_url")
    return url


@pytest.fixture
def downstreams() -> tuple[str, ...]:
    """The pair has none, except where a test is parametrized with them."""
    return ()


@pytest.fixture
async def pair(
    shared: MemoryDatabase | str,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    downstreams: tuple[str, ...],
) -> AsyncIterator[tuple[Replica, Replica]]:
    monkeypatch.setattr(recovery, "RECOVERY_SCAN_SECONDS", 0.1)
    a, b = Replica(shared, world, *downstreams), Replica(shared, world, *downstreams)
    for each in (a, b):
        await each.start()
    yield a, b
    for each in (a, b):
        await each.stop()
        assert [] == each.observer.defects
    if isinstance(shared, MemoryDatabase):
        shared.discard()


Pair = tuple[Replica, Replica]


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is renewed as often as if it were short."""
    for module in ("memory_database", "postgres.replica"):
        monkeypatch.setattr(f"stage.store.{module}.RENEWALS_PER_LEASE", RENEWALS_PER_LEASE)


async def in_its_call(replica: Replica, world: World) -> asyncio.Future[Reply | None]:
    """A saga that waits for the bank."""
    world.door.clear()
    accepting = asyncio.ensure_future(replica.accept())
    await world.asked.acquire()
    return accepting


async def test_a_duplicate_at_the_other_replica_joins(pair: Pair, world: World) -> None:
    """One charge and equal bytes; the answer of the one that joined is marked as a replay."""
    a, b = pair
    first = await in_its_call(a, world)
    second = asyncio.ensure_future(b.accept())
    await asyncio.sleep(0.2)
    assert not second.done()
    world.door.set()
    replies = await asyncio.gather(first, second)
    assert replies[0] is not None and replies[1] is not None
    assert (200, replies[0].body) == (replies[1].status, replies[1].body)
    assert [False, True] == [reply.replayed for reply in replies if reply is not None]
    assert 1 == world.sent["POST charges"] == sum(world.charged.values())
    assert not any(isinstance(event, e.Recovered | e.Parked) for event in await a.events())


async def test_the_same_saga_at_both_at_the_same_instant_is_run_once(
    pair: Pair, world: World
) -> None:
    """The one that comes second waits."""
    a, b = pair
    for number in range(10):
        saga_id = f"s-{number}"
        replies = await asyncio.gather(a.accept(saga_id), b.accept(saga_id))
        assert replies[0] is not None and replies[1] is not None
        assert replies[0].body == replies[1].body
    assert 10 == world.sent["POST charges"]


async def test_a_pause_that_is_pressed_at_one_replica_is_obeyed_by_all(
    pair: Pair, world: World
) -> None:
    """Within two seconds, and so is its end."""
    a, b = pair
    now = a.clock.now()
    pause = Pause(
        target=f"externals.{BANK}", at=now, until=now + 60.0, actor="kim", reason="their outage"
    )
    await a.engine.pause(pause)
    await until(lambda: b.engine.pauses == (pause,))
    running = [asyncio.ensure_future(each.accept(f"s-{n}")) for n, each in enumerate(pair)]
    await asyncio.sleep(0.3)
    assert 0 == world.sent["POST charges"]
    assert await b.engine.resume(pause, actor="kim", reason="it is back")
    async with asyncio.timeout(HANG_SECONDS):
        replies = await asyncio.gather(*running)
    assert [200, 200] == [reply.status for reply in replies if reply is not None]
    assert ["resumed", "paused"] == [act.act for act in await a.engine.acts(10)]


async def test_the_end_of_a_pause_ends_none_that_was_put_since(pair: Pair) -> None:
    """The person saw the first one. The second one of the other replica was ended with it."""
    a, b = pair
    first = hold_the_bank(a.clock.now())
    await a.engine.pause(first)
    await until(lambda: b.engine.pauses == (first,))
    second = replace(first, at=first.at + 0.001, actor="lee")
    await a.engine.pause(second)
    key = ActKey(key="k-1", digest="d")
    assert not await b.engine.resume(first, actor="kim", reason="it is back", act_key=key)
    assert (second,) == b.engine.pauses == a.engine.pauses
    assert await b.engine.resume(second, actor="kim", reason="it is back", act_key=key)
    assert ["resumed", "paused", "paused"] == [act.act for act in await a.engine.acts(10)]


class Narrow(World):
    """Its bank takes one request at a time."""

    @property
    def peers(self) -> Peers:
        """As the engine takes them."""
        one = PeerLimits(concurrency_max=1)
        return Peers(external=self, neighbours=self, limits={f"externals.{BANK}": one})


async def test_a_pause_that_is_pressed_while_a_process_drains_holds_what_waits_there(
    shared: MemoryDatabase | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for its turn until the drain was over; now the next process has it wait."""
    monkeypatch.setattr(pauses, "PAUSE_LOOK_SECONDS", 0.05)
    world = Narrow()
    a, b = Replica(shared, world), Replica(shared, world)
    for each in (a, b):
        await each.start()
    first = await in_its_call(a, world)
    second = asyncio.ensure_future(a.accept("s-2"))
    await until(lambda: 1 == sum(each.queued for each in a.engine.peers()))
    draining = asyncio.ensure_future(a.engine.drain(60.0))
    await b.engine.pause(hold_the_bank(a.clock.now()))
    await b.until_journaled(e.StepTransient, "s-2")
    assert not draining.done()
    world.door.set()
    await asyncio.wait_for(draining, HANG_SECONDS)
    reply = await first
    assert reply is not None and 200 == reply.status
    assert await second is None
    assert 1 == world.sent["POST charges"]
    await a.store.close()
    await b.stop()
    assert [] == [*a.observer.defects, *b.observer.defects]
    if isinstance(shared, MemoryDatabase):
        shared.discard()


async def test_another_payload_is_refused_at_the_other_replica_too(
    pair: Pair, world: World
) -> None:
    """While the saga runs elsewhere."""
    a, b = pair
    first = await in_its_call(a, world)
    second = asyncio.ensure_future(b.accept(data={**ORDER, "amount": 1}, wait_seconds=0.1))
    with pytest.raises(PayloadDiffers):
        await second
    world.door.set()
    assert await first is not None


async def test_a_tombstone_of_the_other_replica_answers_any_payload(pair: Pair) -> None:
    """It has no payload, and so no hash to differ from."""
    a, b = pair
    assert (await b.compensate()).saga.tombstone
    reply = await a.accept()
    assert reply is not None and 410 == reply.status


async def test_a_wait_that_runs_out_elsewhere_is_journaled_before_202(
    pair: Pair, world: World
) -> None:
    """By the owner, which has to know at the end that upstream believes in a yes."""
    a, b = pair
    first = await in_its_call(a, world)
    assert await b.accept(wait_seconds=0.1) is None
    assert any(isinstance(event, e.AnswerDeferred) for event in await b.events())
    world.door.set()
    reply = await first
    assert reply is not None and 200 == reply.status


async def test_a_request_to_compensate_reaches_the_owner(pair: Pair, world: World) -> None:
    """It stops at the next boundary of its journal, and is refunded once."""
    a, b = pair
    executing = await in_its_call(a, world)
    undoing = asyncio.ensure_future(b.compensate())
    await b.until_journaled(e.CompensationRequested)
    assert not world.refunded, "it waits for what is in flight (rule 10)"
    world.door.set()
    snapshot, reply = await asyncio.gather(undoing, executing)
    assert SagaState.COMPENSATED is snapshot.saga.state
    assert reply is not None and 410 == reply.status
    assert 1 == sum(world.refunded.values()) == sum(world.charged.values())
    events = await a.events()
    assert 1 == sum(isinstance(event, e.CompensationRequested) for event in events)
    assert not any(isinstance(event, e.Recovered) for event in events)


async def test_either_replica_compensates_a_saga_that_has_ended(pair: Pair, world: World) -> None:
    """Nobody owns it."""
    a, b = pair
    assert await a.accept() is not None
    snapshot = await b.compensate()
    assert SagaState.COMPENSATED is snapshot.saga.state
    assert 1 == sum(world.refunded.values())


async def test_a_verb_reaches_the_owner(pair: Pair, world: World) -> None:
    """A retry is done there; one that does not fit is refused with its reason."""
    a, b = pair
    world.unreachable, world.away_seconds = 1, 60.0
    accepting = asyncio.ensure_future(a.accept())
    await a.until_waiting()
    resolve = e.Resolved(at=0.0, actor="kim", why="ticket 17", step="charge")
    with pytest.raises(NotAllowed):
        await b.engine.operate("s-1", resolve, dry_run=False)
    retry = e.Retried(at=b.clock.now(), actor="kim", why="ticket 17")
    assert await b.engine.operate("s-1", retry, dry_run=False) is not None
    async with asyncio.timeout(HANG_SECONDS):  # and not when the bank is to be asked again
        reply = await accepting
    assert reply is not None and 200 == reply.status
    assert retry in await a.events()


def hold_the_bank(at: float) -> Pause:
    """A pause of both ways to the bank."""
    return Pause(
        target=f"externals.{BANK}", at=at, until=at + 60.0, actor="kim", reason="their outage"
    )


async def held_at(owner: Replica, pair: Pair) -> asyncio.Future[Reply | None]:
    """A saga of that replica whose charge a pause holds; both replicas know of the pause."""
    pause = hold_the_bank(owner.clock.now())
    await owner.engine.pause(pause)
    await until(lambda: all(each.engine.pauses == (pause,) for each in pair))
    accepting = asyncio.ensure_future(owner.accept())
    await until(lambda: 1 == sum(each.queued for each in owner.engine.peers()))
    return accepting


async def test_a_person_may_act_on_a_saga_that_a_pause_holds_at_another_replica(
    pair: Pair, world: World
) -> None:
    """The person does not know which replica holds it: the owner takes back what has not left.

    A preview at the other replica says the same, so that its console offers the verb.
    """
    a, b = pair
    accepting = await held_at(a, pair)
    retry = e.Retried(at=b.clock.now(), actor="kim", why="ticket 17")
    would = await b.engine.operate("s-1", retry, dry_run=True)
    assert would is not None and Phase.WAITING is would.saga.steps["charge"].phase
    async with asyncio.timeout(HANG_SECONDS):
        assert await b.engine.operate("s-1", retry, dry_run=False) is not None
    journal = await b.events()
    taken_back = [isinstance(event, e.StepTransient) for event in journal].index(True)
    assert taken_back < journal.index(retry)
    assert 0 == world.sent["POST charges"]
    assert await b.engine.resume(*b.engine.pauses, actor="kim", reason="it is back")
    async with asyncio.timeout(HANG_SECONDS):
        reply = await accepting
    assert reply is not None and 200 == reply.status
    assert 1 == world.sent["POST charges"]


@pytest.mark.parametrize("verb", ["resolve", "retry"])
async def test_a_verb_that_the_owner_refuses_is_refused_with_its_reason(
    pair: Pair, world: World, verb: str
) -> None:
    """Its attempt there has left. It was reported as a replica that did not answer."""
    a, b = pair
    accepting = await in_its_call(a, world)
    at = b.clock.now()
    order: e.Verb = e.Retried(at=at, actor="kim", why="ticket 17")
    if verb == "resolve":
        order = e.Resolved(at=at, actor="kim", why="ticket 17", step="charge")
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(NotAllowed, match="in flight" if verb == "retry" else "nothing of it"):
            await b.engine.operate("s-1", order, dry_run=False)
    world.door.set()
    reply = await accepting
    assert reply is not None and 200 == reply.status
    assert not any(isinstance(event, e.Verb) for event in await b.events())
    assert [] == await a.store.ownership.mail()


@pytest.mark.parametrize("downstreams", [("shipping",)])
async def test_mail_of_a_refused_verb_goes_with_the_end_of_its_saga(
    pair: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in one inbox: the row was left, and its sender waited in vain for the reason."""
    a, b = pair
    world.forwards_lost = 1
    accepting = asyncio.ensure_future(a.accept())
    await until(lambda: world.sent["forward"] == 1)
    verb = e.Retried(at=b.clock.now(), actor="kim", why="ticket 17")
    with monkeypatch.context() as patched:
        patched.setattr(a.store.ownership, "mail", AsyncMock(return_value=[]))
        posted = await b.store.ownership.post("s-1", verb)
        assert posted is not None
        live, durable = a.engine._sagas.get("s-1"), asyncio.get_running_loop().create_future()
        assert live is not None
        over = e.StepSucceeded(at=a.clock.now(), step="forward:shipping", result=msgspec.Raw(b"{}"))
        items = (InboxItem(over), InboxItem(verb, durable=durable, mail=posted.number))
        done = await a.engine._sagas._units.advance(live, items)
    assert SagaState.COMPLETED is done.saga.state
    assert isinstance(durable.exception(), NotAllowed)
    assert not await b.store.ownership.unreceived(posted.number)
    accepting.cancel()


async def test_a_verb_that_is_refused_takes_nothing_back_at_another_replica(
    pair: Pair, world: World
) -> None:
    """The held charge leaves at the end of the pause, and not later by its back-off."""
    a, b = pair
    accepting = await held_at(a, pair)
    forget = e.Forgotten(at=b.clock.now(), actor="kim", why="ticket 17")
    for dry_run in (True, False):
        with pytest.raises(NotAllowed, match="still being worked on"):
            await b.engine.operate("s-1", forget, dry_run=dry_run)
    assert await b.engine.resume(*b.engine.pauses, actor="kim", reason="it is back")
    async with asyncio.timeout(HANG_SECONDS):
        reply = await accepting
    assert reply is not None and 200 == reply.status
    assert not any(isinstance(event, e.StepTransient) for event in await b.events())


async def test_a_sweep_acts_on_a_saga_once_though_a_frozen_replica_goes_on_with_it(
    pair: Pair, world: World
) -> None:
    """It had seen that the saga was still to come, and slept; another one acted on it meanwhile.

    The saga waits again by then: a second `resolve` would count as undone what nobody undid.
    """
    a, b = pair
    world.unreachable, world.away_seconds = 2, 60.0
    accepting = asyncio.ensure_future(a.accept())
    await a.until_waiting()
    sweep = Sweep(
        at=a.clock.now(),
        actor="kim",
        verb=SweepVerb.RETRY,
        reason="their outage",
        rate_per_second=10.0,
        number=7,
    )
    assert "" == await b.engine.act_on(sweep, "s-1")
    await a.until_waiting(2)
    assert "" == await a.engine.act_on(sweep, "s-1")
    assert 1 == sum(isinstance(event, e.Retried) for event in await b.events())
    another = replace(sweep, number=8)
    assert "" == await a.engine.act_on(another, "s-1")
    assert 2 == sum(isinstance(event, e.Retried) for event in await b.events())
    reply = await accepting
    assert reply is not None and 200 == reply.status


@pytest.mark.parametrize("reason", ["their outage", "another one"])
async def test_a_sweep_that_has_the_number_of_a_lost_one_acts_on_its_sagas(
    pair: Pair, world: World, reason: str
) -> None:
    """The file of the sweeps was put back alone: those of the sagas knew the number already.

    With the same reason the sagas were counted as done; with another one each was a defect, every
    ten seconds, and the sweep never ended.
    """
    a, b = pair
    world.unreachable, world.away_seconds = 2, 60.0
    accepting = asyncio.ensure_future(a.accept())
    await a.until_waiting()
    lost = sweep_to_retry(a.clock.now() - 1.0)
    assert "" == await b.engine.act_on(lost, "s-1")
    await a.until_waiting(2)
    again = replace(lost, at=a.clock.now(), reason=reason)
    assert "" == await a.engine.act_on(again, "s-1")
    assert 2 == sum(isinstance(event, e.Retried) for event in await b.events())
    reply = await accepting
    assert reply is not None and 200 == reply.status


async def test_a_sweep_that_is_under_way_over_an_upgrade_acts_on_a_saga_once(
    pair: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release before this one kept its acts under a key without the instant of the sweep."""
    a, b = pair
    world.unreachable, world.away_seconds = 2, 60.0
    accepting = asyncio.ensure_future(a.accept())
    await a.until_waiting()
    begun = sweep_to_retry(a.clock.now())
    with monkeypatch.context() as before:
        before.setattr(sweeps, "key_of", sweeps.former_key_of)
        assert "" == await b.engine.act_on(begun, "s-1")
    await a.until_waiting(2)
    assert "" == await a.engine.act_on(begun, "s-1")
    assert 1 == sum(isinstance(event, e.Retried) for event in await b.events())
    await a.engine.act_on(replace(begun, number=8), "s-1")
    reply = await accepting
    assert reply is not None and 200 == reply.status


async def test_a_sweep_whose_key_is_of_another_order_is_refused_and_goes_on(
    pair: Pair,
) -> None:
    """With the words of that: an error would be tried again for ever."""
    a, _ = pair
    await a.accept()
    begun = sweep_to_retry(a.clock.now())
    former = replace(sweeps.key_of(begun, "s-1"), digest="another order")
    await a.store.transact(lambda unit: unit.keep_act_key(former, a.clock.now()))
    assert "another order was given under this key before" == await a.engine.act_on(begun, "s-1")


def sweep_to_retry(at: float) -> Sweep:
    """The seventh sweep."""
    return Sweep(
        at=at, actor="kim", verb=SweepVerb.RETRY, reason="their outage", rate_per_second=10.0,
        number=7,
    )  # fmt: skip


async def test_a_sweep_that_could_not_be_finished_goes_on_where_it_was_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It copies no table again, and none once it is done, unless it has erased more since."""
    a, _ = pair
    seen: list[set[str]] = []

    async def scrub(clean: set[str]) -> None:
        seen.append(set(clean))
        clean.add("saga")
        if 1 == len(seen):
            raise StoreUnavailable("the table journal is in use")

    monkeypatch.setattr(a.store, "scrub", scrub)
    erased = Sweep(
        at=0.0, actor="kim", verb=SweepVerb.ERASE, reason="x", rate_per_second=1.0, number=7, done=3
    )
    with pytest.raises(Unsettled, match="bytes of them may be left"):
        await a.engine.finish(erased)
    await a.engine.finish(replace(erased, done=4))
    await a.engine.finish(erased)
    await a.engine.finish(erased)
    assert [set(), set(), {"saga"}] == seen


def retry_under(key: str, at: float, digest: str = "d-1") -> e.Retried:
    """A retry that was ordered under a key."""
    keyed = ActKey(key=key, digest=digest)
    return e.Retried(at=at, actor="kim", why="ticket 17", act_key=keyed)


async def test_copies_of_a_verb_are_one_at_every_replica(pair: Pair, world: World) -> None:
    """While the owner runs the saga, once it rests, and where a copy is on its way to the owner."""
    a, b = pair
    world.unreachable, world.away_seconds = 1, 60.0
    accepting = asyncio.ensure_future(a.accept())
    await a.until_waiting()
    now = a.clock.now()
    copies = [a.engine.operate("s-1", retry_under("k-1", now), dry_run=False) for _ in range(3)]
    found = await asyncio.gather(*copies, return_exceptions=True)
    assert 2 == sum(isinstance(each, ActRepeated) for each in found), found
    await accepting
    for replica in pair:
        with pytest.raises(ActRepeated):
            await replica.engine.operate("s-1", retry_under("k-1", now + 9.0), dry_run=False)
        with pytest.raises(KeyReused):
            await replica.engine.operate("s-1", retry_under("k-1", now, "d-2"), dry_run=False)
    assert 1 == sum(isinstance(event, e.Retried) for event in await b.events())


async def test_a_copy_that_is_on_its_way_to_the_owner_is_a_repeat(
    pair: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not known when it was posted; the owner leaves it out, and its sender hears of it."""
    a, b = pair
    world.unreachable = 99  # the saga stays with its owner
    accepting = asyncio.ensure_future(a.accept())
    await a.until_waiting()
    now = a.clock.now()
    await a.engine.operate("s-1", retry_under("k-1", now), dry_run=False)
    await a.until_waiting(2)

    async def unaware(act_key: ActKey) -> None:
        """Know of no key."""

    monkeypatch.setattr(b.engine, "refuse_repeat", unaware)
    with pytest.raises(ActRepeated):
        await b.engine.operate("s-1", retry_under("k-1", now + 1.0), dry_run=False)
    world.unreachable = 0
    await accepting
    assert 1 == sum(isinstance(event, e.Retried) for event in await b.events())


def risk_of(saga: Saga[Order]) -> dict[str, int]:
    """The words that a person is shown."""
    return {"amount": saga.input.amount}


@pytest.fixture
def approving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage of the replicas asks a person."""
    stage: Stage[Order, None] = Stage("payment", accepts=Order, migrations=payment.migrations)
    stage.approval("risk")(risk_of)
    monkeypatch.setattr(f"{__name__}.payment", stage)


@pytest.mark.usefixtures("approving")
@pytest.mark.parametrize("decision", [e.Approved, e.Rejected])
async def test_a_decision_reaches_the_owner(
    pair: Pair, decision: type[e.Approved | e.Rejected]
) -> None:
    """Its person hears that it counts, although its entry has another instant."""
    a, b = pair
    assert await a.accept(wait_seconds=1.0) is None  # 202
    verb = decision(at=b.clock.now() - 1.0, actor="kim", why="ticket 17", step="risk")

    found = await b.engine.operate("s-1", verb, dry_run=False)

    assert found is not None
    assert Phase.AWAITING_APPROVAL is not found.saga.steps["risk"].phase
    assert 1 == sum(isinstance(event, decision) for event in await a.events())
    with pytest.raises(NotAllowed):  # a decision counts once, there too
        await b.engine.operate("s-1", verb, dry_run=False)


@pytest.fixture
def pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charge of the replicas waits for the customer, and is not asked for soon."""
    stage: Stage[Order, None] = Stage("payment", accepts=Order, migrations=payment.migrations)

    @stage.call(to=BANK, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> dict[str, str]:
        await http.post("/charges", json={"amount": saga.input.amount})
        raise Pending("3-D Secure")

    @charge.probe
    async def look(http: Http, saga: Saga[Order]) -> dict[str, str] | None:
        raise Pending("3-D Secure")

    monkeypatch.setattr(f"{__name__}.payment", stage)
    longer = RetryPolicy(backoff_seconds_min=300.0, backoff_seconds_max=300.0)
    monkeypatch.setattr(machine, "PENDING_CALL", longer)


@pytest.mark.usefixtures("pending")
@pytest.mark.parametrize("downstreams", [("shipping",)])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_pending_call_that_is_settled_elsewhere_has_the_budget_that_was_left(
    pair: Pair, gone: bool
) -> None:
    """The deadline stood still until the entry of the verb, and not until it was ordered.

    Its replica has it in its mail, or is `gone`, so that the verb is what takes the saga over.
    """
    a, b = pair
    deadline = a.clock.now() + 60.0
    assert await a.accept(wait_seconds=1.0, deadline=deadline) is None  # 202
    if gone:
        await a.engine.drain(0.0)
    result = msgspec.Raw(b'{"id":"c-1"}')
    ordered = b.clock.now() - 120.0  # the database was away meanwhile
    verb = e.Settled(
        at=ordered, actor="kim", why="ticket 17", step="charge", landed=True, result=result
    )

    found = await b.engine.operate("s-1", verb, dry_run=False)

    assert found is not None
    assert SagaState.COMPLETED is found.saga.state
    (settled,) = [event for event in await a.events() if isinstance(event, e.Settled)]
    assert settled.at >= deadline - 60.0


@pytest.mark.usefixtures("approving")
async def test_a_verb_of_a_renamed_step_is_found_under_the_name_in_the_journal(
    database: MemoryDatabase, world: World
) -> None:
    """An entry keeps the step's former name (rule 32): who posted the verb still sees it there."""
    replica = Replica(database, world)
    await replica.start()
    assert await replica.accept(wait_seconds=1.0) is None
    yes = e.Approved(at=replica.clock.now(), actor="kim", why="ticket 17", step="risk")
    assert await replica.engine.operate("s-1", yes, dry_run=False) is not None
    today: Stage[Order, None] = Stage(
        "payment", accepts=Order, migrations=payment.migrations, renamed=RENAMED
    )
    today.approval("fraud")(risk_of)
    interpreter = Interpreter(Versions(today.bind()), replica.observer, replica.clock)
    elsewhere = Elsewhere(interpreter, replica.store, scheduled=False)

    posted = replace(yes, step="fraud")
    assert await elsewhere.journaled("s-1", posted, lambda _saga: False, until=0.0)

    other = replace(yes, step="fraud", actor="lee")
    assert not await elsewhere.journaled("s-1", other, lambda _saga: False, until=0.0)
    await replica.stop()


@pytest.mark.usefixtures("approving")
async def test_a_yes_that_comes_first_after_a_restore_is_refused_with_why(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore turns it back (decision 0050): no row of the audit says that it was approved."""
    a, b = pair
    longer = RetryPolicy(backoff_seconds_min=300.0, backoff_seconds_max=300.0)
    monkeypatch.setattr(machine, "PENDING_CALL", longer)  # recovery has no reason to open it
    assert await a.accept(wait_seconds=0.0) is None
    await a.engine.drain(0.0)
    later = replace(b.store.identity, generation=2)
    monkeypatch.setattr(type(b.store), "identity", property(lambda _: later))
    yes = e.Approved(at=b.clock.now(), actor="kim", why="ticket 17", step="risk")

    with pytest.raises(NotAllowed, match="no approval is asked for"):
        await b.engine.operate("s-1", yes, dry_run=False)

    assert not any(isinstance(event, e.Approved) for event in await b.events())


async def test_a_long_poll_sees_a_change_elsewhere(pair: Pair, world: World) -> None:
    """`get_saga` with a wait returns with it."""
    a, b = pair
    first = await in_its_call(a, world)
    polling = asyncio.ensure_future(b.engine.get_saga("s-1", 10.0))
    await asyncio.sleep(0.1)
    assert not polling.done()
    world.door.set()
    seen = await asyncio.wait_for(polling, HANG_SECONDS)
    assert seen is not None and seen.row.length > 2
    await first


async def test_a_frozen_replica_is_taken_over_and_its_caller_gets_the_same_bytes(
    pair: Pair, world: World
) -> None:
    """Its late write is refused, it follows the new owner, and the card is charged once."""
    a, b = pair
    first = await in_its_call(a, world)
    await a.freeze()
    joined = asyncio.ensure_future(b.accept())
    reply = await asyncio.wait_for(joined, HANG_SECONDS)
    assert reply is not None and 200 == reply.status
    taken = await b.store.get("s-1")
    assert taken is not None and 2 == taken.epoch
    assert not first.done()

    world.door.set()
    own = await asyncio.wait_for(first, HANG_SECONDS)
    assert own is not None
    assert (reply.status, reply.body) == (own.status, own.body)
    assert own.replayed
    assert taken == await a.store.get("s-1"), "nothing was written by the one that was frozen"
    assert 1 == sum(world.charged.values()) == world.sent["POST charges"]
    assert 1 == world.sent["GET charges"], "what was in flight is in doubt, and settled"


async def test_a_replica_that_was_declared_dead_drops_what_it_had(
    database: MemoryDatabase, world: World
) -> None:
    """At its next renewal, although its forward still waits; its caller follows the new owner."""
    a, b = (Replica(database, world, "shipping") for _ in range(2))
    for each in (a, b):
        await each.start()
    world.forwards_lost = 1
    first = asyncio.ensure_future(a.accept())
    await until(lambda: world.sent["forward"] == 1)
    await a.freeze()
    reply = await asyncio.wait_for(b.accept(), HANG_SECONDS)
    assert reply is not None and 200 == reply.status
    await asyncio.sleep(0.1)
    assert not first.done() and 1 == a.engine.live
    a.clock.thawed.set()
    own = await asyncio.wait_for(first, HANG_SECONDS)
    assert own is not None and (reply.status, reply.body) == (own.status, own.body)
    assert 0 == a.engine.live
    again = await asyncio.wait_for(a.accept("s-2"), HANG_SECONDS)
    assert again is not None and 200 == again.status, "it goes on under a new registration"
    for each in (a, b):
        await each.stop()
        assert [] == each.observer.defects
    database.discard()


async def test_nothing_leaves_while_the_lease_is_over(
    database: MemoryDatabase, world: World
) -> None:
    """Another replica may run the saga by then; when the lease is renewed it goes on."""
    replica = Replica(database, world, "shipping")
    await replica.start()
    first = await in_its_call(replica, world)
    await replica.freeze()
    await until(lambda: not replica.store.ownership.sure)
    world.door.set()

    async def intended() -> bool:
        started = [event for event in await replica.events() if isinstance(event, e.StepStarted)]
        return "forward:shipping" == started[-1].step

    await until(intended)
    await asyncio.sleep(0.3)
    assert 0 == world.sent["forward"]
    replica.clock.thawed.set()
    reply = await asyncio.wait_for(first, HANG_SECONDS)
    assert reply is not None and 200 == reply.status
    assert 1 == world.sent["forward"]
    await replica.stop()
    database.discard()


async def test_draining_gives_up_everything_at_once(database: MemoryDatabase, world: World) -> None:
    """The other replica goes on without waiting for the lease."""
    a, b = (Replica(database, world) for _ in range(2))
    for each in (a, b):
        await each.start()
    first = await in_its_call(a, world)
    await a.engine.drain(0.0)
    assert await first is None
    world.door.set()
    reply = await asyncio.wait_for(b.accept(), HANG_SECONDS)
    assert reply is not None and 200 == reply.status
    assert 1 == sum(world.charged.values())
    await a.store.close()
    await b.stop()
    database.discard()


@pytest.mark.parametrize("shared", ["memory"], indirect=True)
async def test_a_saga_that_rests_is_given_back(
    pair: Pair, world: World, database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica that finds it due goes on with it: long rests do not stay with one."""
    monkeypatch.setattr("stage.engine.embedded.live_sagas.EVICT_AFTER_SECONDS", 0.0)
    a, b = pair
    world.unreachable = 1
    assert await a.accept(respond_async=True) is None
    await until(lambda: not a.engine.live and "s-1" not in database.owners)
    assert not isinstance((await b.events())[-1], e.Completed)
    a.clock.thawed.clear()
    await until(lambda: database.sagas["s-1"].state is SagaState.COMPLETED)
    assert 1 == sum(world.charged.values())


async def test_a_saga_that_is_opened_again_is_not_given_back(
    pair: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in its call once the database hears that it rested: what comes goes to its owner."""
    monkeypatch.setattr("stage.engine.embedded.live_sagas.EVICT_AFTER_SECONDS", 0.0)
    a, b = pair
    release = a.store.ownership.release
    begun, late, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def releasing(sagas: Mapping[str, int | None]) -> None:
        begun.set()
        await late.wait()
        await release(sagas)
        done.set()

    monkeypatch.setattr(a.store.ownership, "release", releasing)
    world.unreachable = 1
    assert await a.accept(respond_async=True) is None
    await asyncio.wait_for(begun.wait(), HANG_SECONDS)
    first = await in_its_call(a, world)
    late.set()
    await asyncio.wait_for(done.wait(), HANG_SECONDS)
    compensating = asyncio.ensure_future(b.compensate())
    await b.until_journaled(e.CompensationRequested)  # before the call has ended
    world.door.set()
    assert SagaState.COMPENSATED is (await compensating).saga.state
    reply = await first
    assert reply is not None and 410 == reply.status
    assert 2 == max(entry.epoch for entry in await b.store.entries("s-1"))
    assert 1 == sum(world.charged.values()) == sum(world.refunded.values())


@pytest.mark.parametrize("ask", ["compensate", "defer"])
async def test_mail_opens_a_saga_that_its_owner_has_claimed_and_not_opened(
    database: MemoryDatabase, world: World, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """It waits for its turn in recovery, and another replica wants something of it."""
    gone, a, b = (Replica(database, world) for _ in range(3))
    await gone.start()
    first = await in_its_call(gone, world)
    await gone.stop()
    assert await first is None
    monkeypatch.setattr(recovery, "RECOVERY_BURST", 0)
    for each in (a, b):
        await each.start()
    assert 0 == a.engine.live
    if ask == "compensate":
        world.door.set()
        assert SagaState.COMPENSATED is (await b.compensate()).saga.state
        assert 1 == sum(world.refunded.values())
    else:
        assert await b.accept(wait_seconds=0.0) is None
        assert any(isinstance(event, e.AnswerDeferred) for event in await b.events())
    assert 0 == b.engine.live
    assert [] == await a.store.ownership.mail()
    for each in (a, b):
        await each.stop()
        assert [] == each.observer.defects
    database.discard()


async def test_a_saga_that_was_lost_while_its_intent_was_written_sends_nothing(
    pair: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replica was declared dead meanwhile, and has a new lease: the next run probes first."""
    a, _ = pair
    methods: list[str] = []
    exchange, transact = world.exchange, a.store.transact

    async def noted(outgoing: ExternalRequest) -> Answer | Lost:
        methods.append(outgoing.request.method)
        return await exchange(outgoing)

    async def lost_meanwhile(work: Any, **options: Any) -> Any:
        value = await transact(work, **options)
        if isinstance(value, Stored) and value.transition.outgoing:
            monkeypatch.setattr(a.store, "transact", transact)
            a.engine._sagas.lose_all()
        return value

    monkeypatch.setattr(world, "exchange", noted)
    monkeypatch.setattr(a.store, "transact", lost_meanwhile)
    reply = await a.accept()
    assert reply is not None and 200 == reply.status
    assert ["GET", "POST"] == [method for method, _ in itertools.groupby(methods)]
    assert 1 == sum(world.charged.values())


async def test_a_saga_that_cannot_be_read_any_more_is_not_called_not_executed(
    pair: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other replica runs it, and the database goes away while the caller waits: unknown."""
    a, b = pair
    first = await in_its_call(a, world)
    second = asyncio.ensure_future(b.accept())
    await asyncio.sleep(0.1)

    async def away(saga_id: str) -> None:
        raise StoreUnavailable("the database is away")

    with monkeypatch.context() as during:
        during.setattr(b.store, "get", away)
        assert await a.compensate(wait_seconds=0.0) is not None
        with pytest.raises(Unsettled):
            await second
    world.door.set()
    reply = await first
    assert reply is not None and 410 == reply.status


async def test_an_older_replica_gives_back_what_only_a_newer_one_reads(
    shared: MemoryDatabase | str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims the saga while no newer one is there, and stays up beside the next."""
    monkeypatch.setattr(recovery, "RECOVERY_SCAN_SECONDS", 0.1)
    codec = OlderCodec()
    newer, next_one = Replica(shared, world), Replica(shared, world)
    older = Replica(shared, world, codec=codec)
    await newer.start()
    _ = await in_its_call(newer, world)
    await older.start()
    await newer.stop()
    async with asyncio.timeout(HANG_SECONDS):
        await codec.met.wait()
    await next_one.start()
    world.door.set()

    async with asyncio.timeout(HANG_SECONDS):
        reply = await next_one.accept()

    assert reply is not None and 200 == reply.status
    assert 1 == sum(world.charged.values())
    for each in (older, next_one):
        await each.stop()
        assert [] == each.observer.defects
    if isinstance(shared, MemoryDatabase):
        shared.discard()


@pytest.fixture
async def releases(
    shared: MemoryDatabase | str, world: World, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    """A replica of an older release and one of a newer, which accepted a saga and completed it."""
    monkeypatch.setattr(recovery, "RECOVERY_SCAN_SECONDS", 0.1)
    before = release_of()
    newer = release_of(version=2, step="collect", supersedes=before)
    a, b = (Replica(shared, world, stage=each) for each in (before, newer))
    for each in (a, b):
        await each.start()
    reply = await b.accept()
    assert reply is not None and 200 == reply.status
    yield a, b
    for each in (a, b):
        await each.stop()
        assert [] == each.observer.defects
    if isinstance(shared, MemoryDatabase):
        shared.discard()


Release = Callable[[Mapping[str, int | None]], Awaitable[None]]


async def until_undone(newer: Replica, world: World) -> None:
    """The newer release has done what the older one was asked for."""
    await newer.until_journaled(e.Compensated)
    assert 1 == sum(world.refunded.values())


async def test_a_saga_of_a_newer_release_is_given_back_once_the_database_is_there_again(
    releases: Pair, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older release keeps the request to compensate, and never finds the saga again."""
    older, newer = releases
    release: Release = older.store.ownership.release
    away = 1

    async def releasing(sagas: Mapping[str, int | None]) -> None:
        nonlocal away
        if away:
            away -= 1
            raise StoreUnavailable("the database is away")
        await release(sagas)

    monkeypatch.setattr(older.store.ownership, "release", releasing)
    assert not (await older.compensate(wait_seconds=0.0)).saga.ended
    await until_undone(newer, world)
    assert 0 == away


@pytest.mark.parametrize("shared", ["postgres"], indirect=True)
async def test_a_saga_of_a_newer_release_is_given_back_behind_a_look_of_another(
    releases: Pair, shared: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the row at that moment, and nothing else would give the saga up later."""
    older, newer = releases
    release: Release = older.store.ownership.release
    looked = False

    async def releasing(sagas: Mapping[str, int | None]) -> None:
        nonlocal looked
        other = await asyncpg.connect(shared)
        async with other.transaction():
            await other.execute("SELECT FROM stage.saga WHERE id = 's-1' FOR UPDATE")
            given = asyncio.ensure_future(release(sagas))
            await asyncio.wait({given}, timeout=0.2)
        await other.close()
        await given
        looked = True

    monkeypatch.setattr(older.store.ownership, "release", releasing)
    await older.compensate(wait_seconds=0.0)
    await until_undone(newer, world)
    assert looked


async def test_a_request_that_is_left_to_a_newer_release_gives_its_saga_back(
    shared: MemoryDatabase | str, world: World
) -> None:
    """The saga stayed with the older release, for any reason: the next request mends that."""
    before = release_of()
    older, newer = (
        Replica(shared, world, stage=each)
        for each in (before, release_of(version=2, step="collect", supersedes=before))
    )
    await newer.start()
    first = await in_its_call(newer, world)
    await newer.stop()
    assert await first is None
    world.door.set()
    await older.start()
    # As a commit leaves it whose answer was lost: owned, and in no memory.
    await older.store.transact(lambda unit: unit.take("s-1"))
    with pytest.raises(LeftToNewer):
        await older.accept()
    after = Replica(shared, world, stage=newer.stage)
    await after.start()
    async with asyncio.timeout(HANG_SECONDS):
        reply = await after.accept()
    assert reply is not None and 200 == reply.status
    for each in (older, after):
        await each.stop()
        assert [] == each.observer.defects
    if isinstance(shared, MemoryDatabase):
        shared.discard()


@pytest.mark.parametrize("verb", [e.Retried, e.Resolved, e.Forgotten])
async def test_a_preview_of_a_parked_saga_finds_no_attempt_in_flight(
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    verb: type[e.Retried | e.Resolved | e.Forgotten],
) -> None:
    """A defect ended the run with its attempt: the verb is judged behind the doubt that it leaves.

    "Wait until it has ended" was said of each verb, for ever, where the verb itself was done.
    """
    a, b = pair
    store = Journal.store

    def broken(journal: Journal, change: AnyTransition, *rest: Any, **more: Any) -> Stored:
        for event in change.events:
            if isinstance(event, e.StepSucceeded) and event.step == "charge":
                raise RuntimeError("a defect of ours")
        return store(journal, change, *rest, **more)

    with monkeypatch.context() as defective:
        defective.setattr(Journal, "store", broken)
        with suppress(RuntimeError):
            await a.accept()
    a.observer.defects.clear()

    async def parked() -> bool:
        row = await b.store.get("s-1")
        return row is not None and row.parked_cause is ParkCause.DEFECT

    await until(parked)
    found = await b.engine.get_saga("s-1")
    assert found is not None and Phase.STARTED is found.saga.steps["charge"].phase
    order = verb(at=b.clock.now(), actor="kim", why="mended")
    if verb is e.Resolved:
        with pytest.raises(NotAllowed, match="allowed now: retry, settle charge, compensate"):
            await b.engine.operate("s-1", order, dry_run=True)
        return
    would = await b.engine.operate("s-1", order, dry_run=True)
    assert would is not None and Phase.IN_DOUBT is would.saga.steps["charge"].phase
    assert await b.engine.operate("s-1", order, dry_run=False) is not None
