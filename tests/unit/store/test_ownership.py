"""The law of ports/ownership.py, held against every store. The numbers are those of its docstring.

First the answers of a store that one process has for itself; then two stores that share one
database, each a replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from stage.core.errors import StaleEpoch, StoreUnavailable
from stage.core.events import AnswerDeferred, Event
from stage.core.states import SagaState
from stage.ports.ownership import HeldElsewhere, Share
from stage.ports.store import Row, SagaRow, Store, Unit
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.link import connect
from stage.store.postgres.pool import Pool
from stage.store.postgres.replica import PostgresReplica
from stage.store.postgres.store import PostgresLimits, PostgresStore
from tests.unit.store.given import AT, inserting, longer, parked, row
from tests.waits import HANG_SECONDS

LEASE_SECONDS = 10.0
SERVER_LEASE_SECONDS = 60.0
"""On a server it really goes by, and a busy machine must not outlive it."""
LAST_LEASE_SECONDS = 0.3


class HandClock:
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.at = AT

    def now(self) -> float:
        """See ports.clock.Clock."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """See ports.clock.Clock."""
        await asyncio.sleep(seconds)


class Replicas:
    """Two stores on one database: `a` holds the saga `s`, which runs."""

    def __init__(self, a: Store, b: Store, clock: HandClock) -> None:
        self.a = a
        self.b = b
        self.clock = clock

    async def outlive_a(self) -> None:
        """The lease of `a` runs out; `b` has renewed its own."""
        self.clock.at += LEASE_SECONDS / 2
        assert await self.b.ownership.renew()
        self.clock.at += LEASE_SECONDS / 2 + 1


class PostgresReplicas(Replicas):
    """The same on a server, by whose clock leases run."""

    async def outlive_a(self) -> None:
        """The last renewal of `a` was for a moment, which goes by."""
        await renew_for(self.a, LAST_LEASE_SECONDS)
        await asyncio.sleep(LAST_LEASE_SECONDS + 0.1)


async def renew_for(store: Store, seconds: float) -> None:
    """Renew the lease for that long; later renewals are as long as before."""
    ownership = store.ownership
    assert isinstance(ownership, PostgresReplica)
    usual, ownership._lease_seconds = ownership._lease_seconds, seconds
    assert await ownership.renew()
    ownership._lease_seconds = usual


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest) -> str:
    """The URL of the database that both share, empty for one in memory."""
    if request.param == "memory":
        return ""
    url: str = request.getfixturevalue("migrated_url")
    return url


@pytest.fixture
async def replicas(shared: str, migrations: Path) -> AsyncIterator[Replicas]:
    opened = on_a_server(shared, migrations) if shared else in_memory(migrations)
    async with opened as both:
        yield both


@asynccontextmanager
async def on_a_server(url: str, migrations: Path) -> AsyncIterator[Replicas]:
    limits = PostgresLimits(lease_seconds=SERVER_LEASE_SECONDS)
    a, b = (PostgresStore(url, migrations=[migrations], limits=limits) for _ in range(2))
    for store in (a, b):
        await store.open()
    assert await a.ownership.renew()
    await a.transact(inserting("s", running("s")))
    yield PostgresReplicas(a, b, HandClock())
    for store in (a, b):
        await store.close()


@asynccontextmanager
async def in_memory(migrations: Path) -> AsyncIterator[Replicas]:
    clock, database = HandClock(), MemoryDatabase([migrations])
    a, b = (
        MemoryStore(database=database, exclusive=False, clock=clock, lease_seconds=LEASE_SECONDS)
        for _ in range(2)
    )
    for store in (a, b):
        await store.open()
    await a.transact(inserting("s", running("s")))
    yield Replicas(a, b, clock)
    for store in (a, b):
        await store.close()
    database.discard()


def running(saga_id: str, due_at: float = AT + 60) -> SagaRow:
    """The row of a saga that runs."""
    return row(saga_id, due_at=due_at)


async def take(store: Store, saga_id: str = "s") -> SagaRow | None:
    """Take a saga in a unit of its own."""
    return await store.transact(lambda unit: unit.take(saga_id))


async def save(
    store: Store, before: SagaRow, *, epoch: int = 1, due_at: float | None = AT + 60
) -> None:
    """Add two entries."""
    after = replace(longer(before, 2), epoch=epoch, due_at=due_at)
    await store.transact(lambda unit: unit.save(after, parked(), epoch=before.epoch))


# --- alone on its database: everything is its own --------------------------------------------


async def test_alone_every_saga_may_be_taken(sqlite_store: Store) -> None:
    """`take` is `load`, however often."""
    await sqlite_store.transact(inserting("s", running("s")))
    assert running("s") == await take(sqlite_store) == await take(sqlite_store)
    assert await take(sqlite_store, "never seen") is None


async def test_alone_the_first_claim_finds_all_that_is_unfinished(sqlite_store: Store) -> None:
    """Everything that ran before is due at once; later claims find what is due."""
    await sqlite_store.transact(inserting("later", running("later", AT + 60)))
    await sqlite_store.transact(inserting("now", running("now", AT)))
    await sqlite_store.transact(inserting("never", row("never", due_at=None)))
    assert ["now", "later"] == list(await sqlite_store.ownership.claim(AT, 10))
    assert ["now"] == list(await sqlite_store.ownership.claim(AT, 10))
    await sqlite_store.ownership.leave()
    assert ["now", "later"] == list(await sqlite_store.ownership.claim(AT, 10))


async def test_alone_nothing_is_held_elsewhere(sqlite_store: Store) -> None:
    """There is nobody to wait for, to write to, or to be declared dead by."""
    await sqlite_store.transact(inserting("s", running("s")))
    ownership = sqlite_store.ownership
    assert ownership.sure and ownership.renew_seconds is None and await ownership.renew()
    await ownership.assured()
    until = asyncio.get_running_loop().time() + 60.0
    assert not await ownership.changed("s", 1, until)
    assert not await ownership.post("s", AnswerDeferred(at=AT))
    assert [] == await ownership.mail()
    await ownership.release({"s": 1})
    assert await take(sqlite_store) is not None


# --- 1, 2, 4: one owner ----------------------------------------------------------------------


async def test_a_saga_of_a_live_replica_is_held_elsewhere(replicas: Replicas) -> None:
    """For the other one alone, and for `claim` too."""
    with pytest.raises(HeldElsewhere):
        await take(replicas.b)
    assert await take(replicas.a) == running("s")
    assert {} == await replicas.b.ownership.claim(AT + 3600, 10)


async def test_a_saga_that_needs_no_run_is_owned_by_nobody(replicas: Replicas) -> None:
    """Any replica may go on with it, and owns it from then on."""
    await save(replicas.a, running("s"), due_at=None)
    found = await take(replicas.b)
    assert found is not None
    await save(replicas.b, found, epoch=2)
    with pytest.raises(HeldElsewhere):
        await take(replicas.a)


async def test_a_unit_that_is_rolled_back_changes_no_owner(replicas: Replicas) -> None:
    """A take within it leaves the saga where it was, and so does an attempt."""
    await replicas.a.ownership.release({"s": 1})

    async def unit(unit: Unit) -> None:
        await unit.take("s")
        raise LookupError

    with pytest.raises(LookupError):
        await replicas.b.transact(unit)
    assert await take(replicas.a) is not None
    with pytest.raises(HeldElsewhere):
        await take(replicas.b)


async def test_a_released_saga_belongs_to_the_replica_that_claims_it_when_due(
    replicas: Replicas,
) -> None:
    """Not before: it rests."""
    await replicas.a.ownership.release({"s": 1, "not ours": 1})
    assert {} == await replicas.b.ownership.claim(AT, 10)
    assert {"s": 1} == await replicas.b.ownership.claim(AT + 60, 10)
    with pytest.raises(HeldElsewhere):
        await take(replicas.a)


async def test_only_ones_own_is_released(replicas: Replicas) -> None:
    """Another replica's sagas stay with it."""
    await replicas.b.ownership.release({"s": 1})
    with pytest.raises(HeldElsewhere):
        await take(replicas.b)


async def test_a_saga_that_runs_here_again_is_not_released(replicas: Replicas) -> None:
    """It was opened after it had been laid aside: given away, two replicas would run it."""
    await save(replicas.a, running("s"))
    await replicas.a.ownership.release({"s": 1})
    with pytest.raises(HeldElsewhere):
        await take(replicas.b)
    await replicas.a.ownership.release({"s": 3})
    assert await take(replicas.b) is not None


async def test_a_saga_that_this_release_cannot_read_is_released_whatever_it_holds(
    replicas: Replicas,
) -> None:
    """Nobody here knows how far it is."""
    await save(replicas.a, running("s"))
    await replicas.a.ownership.release({"s": None})
    assert await take(replicas.b) is not None


async def test_a_saga_that_this_release_cannot_read_is_released_behind_a_look_of_another(
    migrated_url: str, migrations: Path
) -> None:
    """The look has its row at that moment, and nothing here asks again before it is due."""
    async with on_a_server(migrated_url, migrations) as replicas:
        other = await asyncpg.connect(migrated_url)
        look = other.transaction()
        await look.start()
        await other.execute("SELECT FROM stage.saga WHERE id = 's' FOR UPDATE")
        releasing = asyncio.ensure_future(replicas.a.ownership.release({"s": None}))
        await asyncio.wait({releasing}, timeout=0.2)
        await look.rollback()
        await other.close()
        await releasing
        assert await take(replicas.b) is not None


# --- 3: leases -------------------------------------------------------------------------------


async def test_after_its_lease_a_replica_has_lost_everything(replicas: Replicas) -> None:
    """Its sagas are due at once, its late write is refused, and `renew` says so, once."""
    a, b = replicas.a, replicas.b
    await replicas.outlive_a()
    assert not a.ownership.sure and b.ownership.sure
    assert {"s": 1} == await b.ownership.claim(replicas.clock.at, 10)
    with pytest.raises(StaleEpoch):
        await save(a, running("s"))
    assert 1 == len(await a.entries("s"))
    assert not await a.ownership.renew()
    with pytest.raises(StaleEpoch):  # nor can its new registration renew the old one
        await save(a, running("s"))
    assert await a.ownership.renew() and a.ownership.sure


async def test_a_lease_that_nobody_saw_end_is_renewed(replicas: Replicas) -> None:
    """A pause that no other replica noticed has lost nothing."""
    await replicas.outlive_a()
    assert await replicas.a.ownership.renew()
    with pytest.raises(HeldElsewhere):
        await take(replicas.b)


async def test_a_saga_of_a_dead_replica_is_taken_at_once(replicas: Replicas) -> None:
    """By a request as well, and the stale epoch is refused from then on."""
    await replicas.outlive_a()
    found = await take(replicas.b)
    assert found is not None
    await save(replicas.b, found, epoch=2)
    with pytest.raises(StaleEpoch):
        await save(replicas.a, running("s"))


async def test_a_saga_of_a_dead_replica_is_taken_and_written_in_one_unit(
    replicas: Replicas,
) -> None:
    """As a request opens it: thousands may wait for their turn in the recovery of the survivor."""
    await replicas.outlive_a()

    async def unit(unit: Unit) -> None:
        found = await unit.take("s")
        assert found is not None
        await unit.save(replace(longer(found, 2), epoch=2), parked(), epoch=1)

    await replicas.b.transact(unit)
    assert 3 == len(await replicas.b.entries("s"))
    with pytest.raises(HeldElsewhere):
        await take(replicas.a)


async def test_a_take_that_is_undone_lets_nothing_be_written(replicas: Replicas) -> None:
    """The attempt that took it failed, and the owner lives by then."""
    await replicas.outlive_a()

    async def taking(unit: Unit) -> None:
        await unit.take("s")
        raise LookupError

    async def unit(unit: Unit) -> None:
        with suppress(LookupError):
            await unit.attempt(lambda: taking(unit))
        await unit.save(replace(longer(running("s"), 2), epoch=2), parked(), epoch=1)

    with pytest.raises(StaleEpoch):
        await replicas.b.transact(unit)
    assert 1 == len(await replicas.b.entries("s"))


async def test_a_death_is_heard_of_though_the_database_goes_away_meanwhile(
    migrated_url: str, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by reading: the next renewal said that all is well, and stale sagas went on sending."""
    async with on_a_server(migrated_url, migrations) as replicas:
        await replicas.outlive_a()
        assert {"s": 1} == await replicas.b.ownership.claim(AT, 10)
        ownership = replicas.a.ownership
        assert isinstance(ownership, PostgresReplica)
        fetch = Pool.fetch

        async def without_registration(pool: Pool, name: str, *arguments: Any) -> Any:
            if name == "register":
                raise StoreUnavailable("the database is away")
            return await fetch(pool, name, *arguments)

        with monkeypatch.context() as away:
            away.setattr(Pool, "fetch", without_registration)
            with pytest.raises(StoreUnavailable):
                await ownership.renew()
        assert {} == await ownership.claim(AT, 10)  # which registers anew
        seen = [ownership.sure, await ownership.renew(), ownership.sure, await ownership.renew()]
        assert [False, False, True, True] == seen


@pytest.mark.parametrize("answered", ["claim_dead", "claim_due"])
async def test_the_sagas_of_a_claim_whose_answer_was_lost_are_found(
    migrated_url: str, migrations: Path, monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    """By the next claim; otherwise it waits until it is due, and its owner knows nothing of it."""
    async with on_a_server(migrated_url, migrations) as replicas:
        await replicas.outlive_a()
        ownership = replicas.b.ownership
        assert isinstance(ownership, PostgresReplica)
        pool, fetch = ownership._pool, ownership._pool.fetch
        lost: list[int] = []

        async def lose(name: str, *parameters: object) -> list[Row]:
            found = await fetch(name, *parameters)
            if name == answered and not lost:
                lost.append(1)
                raise StoreUnavailable("the connection broke")
            return found

        monkeypatch.setattr(pool, "fetch", lose)
        with pytest.raises(StoreUnavailable):
            await ownership.claim(AT, 10)
        assert {"s": 1} == await ownership.claim(AT, 10)
        assert {} == await ownership.claim(AT, 10)


async def test_nothing_is_assured_while_the_lease_is_over(replicas: Replicas) -> None:
    """The last look before a send returns after the renewal."""
    await replicas.outlive_a()
    assured = asyncio.ensure_future(replicas.a.ownership.assured())
    await asyncio.sleep(0.1)
    assert not assured.done()
    await replicas.a.ownership.renew()
    await asyncio.wait_for(assured, HANG_SECONDS)


async def test_leaving_gives_up_everything_at_once(replicas: Replicas) -> None:
    """Without waiting for the lease."""
    await replicas.a.ownership.leave()
    assert {"s": 1} == await replicas.b.ownership.claim(AT, 10)


# --- waiting ---------------------------------------------------------------------------------


async def test_a_wait_ends_with_a_change_of_the_saga_it_asked_for(replicas: Replicas) -> None:
    """And not with that of another one: a wait that many share judges only what it was asked."""
    await replicas.a.transact(inserting("other", running("other")))
    until = asyncio.get_running_loop().time() + 30.0
    waiting = asyncio.ensure_future(replicas.b.ownership.changed("s", 1, until))
    await asyncio.sleep(0.1)
    await save(replicas.a, running("other"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await save(replicas.a, running("s"))
    assert await asyncio.wait_for(waiting, HANG_SECONDS)


async def test_a_wait_ends_at_its_time(replicas: Replicas) -> None:
    """The saga is still held elsewhere then."""
    until = asyncio.get_running_loop().time() + 0.1
    assert await asyncio.wait_for(replicas.b.ownership.changed("s", 1, until), HANG_SECONDS)


@pytest.mark.parametrize("how", ["ended", "released", "left", "dead"])
async def test_a_wait_ends_when_nobody_owns_the_saga_any_more(replicas: Replicas, how: str) -> None:
    """Then it may be taken."""
    until = asyncio.get_running_loop().time() + 30.0
    waiting = asyncio.ensure_future(replicas.b.ownership.changed("s", 1, until))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    match how:
        case "ended":
            ended = replace(longer(running("s"), 2), state=SagaState.COMPLETED, due_at=None)
            await replicas.a.transact(lambda unit: unit.save(ended, parked(), epoch=1))
        case "released":
            await replicas.a.ownership.release({"s": 1})
        case "left":
            await replicas.a.ownership.leave()
        case _:
            await replicas.outlive_a()
    assert not await asyncio.wait_for(waiting, HANG_SECONDS)
    assert await take(replicas.b) is not None


async def test_a_wait_that_begins_while_the_look_of_the_others_fails_is_served(
    migrated_url: str, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look is shared: its failure ends the waits that it was for, and no other."""
    async with on_a_server(migrated_url, migrations) as replicas:
        ownership = replicas.b.ownership
        assert isinstance(ownership, PostgresReplica)
        looking, fail = asyncio.Event(), asyncio.Event()
        lengths = ownership.lengths

        async def away(saga_ids: list[str]) -> Any:
            looking.set()
            await fail.wait()
            monkeypatch.setattr(ownership, "lengths", lengths)
            raise StoreUnavailable("the database is away")

        monkeypatch.setattr(ownership, "lengths", away)
        until = asyncio.get_running_loop().time() + 30.0
        first = asyncio.ensure_future(ownership.changed("s", 1, until))
        await looking.wait()
        second = asyncio.ensure_future(ownership.changed("s", 1, until))
        await asyncio.sleep(0)
        fail.set()
        with pytest.raises(StoreUnavailable):
            await first
        await replicas.a.ownership.release({"s": 1})
        assert not await asyncio.wait_for(second, HANG_SECONDS)


# --- 5: mail ---------------------------------------------------------------------------------


async def receive(store: Store, before: SagaRow, numbers: list[int], *events: Event) -> None:
    """Journal what came in the mail."""
    after = longer(before, len(events))

    async def unit(unit: Unit) -> None:
        await unit.save(after, events, epoch=before.epoch)
        await unit.received(numbers)

    await store.transact(unit)


async def test_mail_waits_for_the_owner_until_it_is_journaled(replicas: Replicas) -> None:
    """In order; a unit that is rolled back has received nothing."""
    first, second = AnswerDeferred(at=AT), AnswerDeferred(at=AT + 1)
    assert await replicas.b.ownership.post("s", first)
    assert await replicas.b.ownership.post("s", second)
    mail = await replicas.a.ownership.mail()
    assert [("s", first), ("s", second)] == [(each.saga_id, each.event) for each in mail]
    assert [] == await replicas.b.ownership.mail()

    with pytest.raises(ValueError, match="length"):
        await receive(replicas.a, longer(running("s"), 5), [mail[0].number], first)
    assert mail == await replicas.a.ownership.mail()
    assert [True, True] == [await replicas.b.ownership.unreceived(each.number) for each in mail]
    await receive(replicas.a, running("s"), [mail[0].number], first)
    assert mail[1:] == await replicas.a.ownership.mail()
    assert [False, True] == [await replicas.b.ownership.unreceived(each.number) for each in mail]


async def test_there_is_no_mail_for_a_saga_without_a_live_other_owner(replicas: Replicas) -> None:
    """It is to be taken instead."""
    event = AnswerDeferred(at=AT)
    assert not await replicas.a.ownership.post("s", event)
    assert not await replicas.b.ownership.post("never seen", event)
    await replicas.outlive_a()
    assert not await replicas.b.ownership.post("s", event)


@pytest.mark.parametrize("how", ["came to rest", "released"])
async def test_mail_of_a_run_that_is_over_is_not_for_the_next_one(
    replicas: Replicas, how: str
) -> None:
    """Left in the instant in which its owner let go: its sender has done it by itself since.

    It lay there until the former owner had the saga again, and was done a second time.
    """
    a, b = replicas.a, replicas.b
    first = await b.ownership.post("s", AnswerDeferred(at=AT))
    assert first is not None and 1 == first.epoch
    if how == "came to rest":
        await save(a, running("s"), due_at=None)
    else:
        await own_by_nobody(a)
    for epoch, store in ((2, b), (3, a)):
        found = await take(store)
        assert found is not None
        await save(store, found, epoch=epoch)
        if store is b:
            await b.ownership.release({"s": found.length + 2})
    assert [] == await a.ownership.mail()
    second = await b.ownership.post("s", AnswerDeferred(at=AT + 9))
    assert second is not None and 3 == second.epoch
    assert [AT + 9] == [each.event.at for each in await a.ownership.mail()]


async def own_by_nobody(store: Store) -> None:
    """As a release whose snapshot is older than some mail leaves the saga: with the mail."""
    if isinstance(store, MemoryStore):
        del store._database.owners["s"]
        return
    assert isinstance(store, PostgresStore)
    link = await connect(store._server)
    await link.raw.execute("UPDATE stage.saga SET owner = NULL WHERE id = 's'")
    await link.close()


async def test_mail_for_a_run_that_is_over_is_dropped(migrated_url: str, migrations: Path) -> None:
    """By the next claim of any replica: nothing would ever take it."""
    async with on_a_server(migrated_url, migrations) as replicas:
        assert await replicas.b.ownership.post("s", AnswerDeferred(at=AT))
        link = await connect(DatabaseServer(url=migrated_url))
        try:
            await replicas.b.ownership.claim(AT, 10)
            assert 1 == len(await link.raw.fetch("SELECT FROM stage.signal"))
            await save(replicas.a, running("s"), due_at=None)
            await replicas.b.ownership.claim(AT, 10)
            assert 0 == len(await link.raw.fetch("SELECT FROM stage.signal"))
        finally:
            await link.close()


async def test_mail_is_for_one_owner(replicas: Replicas) -> None:
    """It is gone with the takeover: its sender sees that, and writes to the next one."""
    assert await replicas.b.ownership.post("s", AnswerDeferred(at=AT))
    await replicas.a.ownership.release({"s": 1})
    assert await take(replicas.b) is not None
    assert [] == await replicas.b.ownership.mail() == await replicas.a.ownership.mail()


async def test_replicas_know_how_many_share_and_which_is_the_first(replicas: Replicas) -> None:
    """As of their last renewal; when the first one is gone, the next one takes its part."""
    for each in (replicas.a, replicas.b):
        assert await each.ownership.renew()
    assert Share(replicas=2, first=True) == replicas.a.ownership.share
    assert Share(replicas=2, first=False) == replicas.b.ownership.share
    await replicas.a.ownership.leave()
    assert await replicas.b.ownership.renew()
    assert Share(replicas=1, first=True) == replicas.b.ownership.share


async def test_a_frozen_replica_shares_nothing_any_more(replicas: Replicas) -> None:
    """Its part falls to the others once its lease is over, whether or not it was buried."""
    await replicas.outlive_a()
    assert await replicas.b.ownership.renew()
    assert Share(replicas=1, first=True) == replicas.b.ownership.share
