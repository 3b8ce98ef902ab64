"""An older state of the database, once it was found: refused until the newer one is back (0111).

No test here ends a connection, as behind a pooler, whose clients keep theirs through a failover.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from stage.core.errors import StoreUnavailable
from stage.ports.store import Filter
from stage.store.postgres import identity
from stage.store.postgres.link import Link
from stage.store.postgres.store import PostgresStore
from stage.store.writer import WriterLimits
from tests.unit.store.given import AT, inserting
from tests.waits import until

KINDS = ("postgres",)
"""The kinds that the fixture `store` opens here."""
LOSE_RENEWAL = "UPDATE stage.replica SET lease_until = lease_until - interval '1 s'"
LOSE_BATCHES = "UPDATE stage.writer_batch SET number = 0"
PUT_RENEWAL_BACK = "UPDATE stage.replica SET lease_until = lease_until + interval '1 s'"
HOURS = datetime.timedelta(hours=2)
PUT_DUMP_BACK = """
DELETE FROM stage.replica;
ALTER TABLE stage.replica ALTER COLUMN id RESTART WITH 1
"""
"""A logical dump of a time when no replica was there yet, over tables that stay."""
REGISTER_AS_BEFORE = """
INSERT INTO stage.replica (name, lease_until)
VALUES ('before', clock_timestamp() + interval '1 hour') RETURNING id, lease_until
"""
"""As a release did that wrote no name of its process."""
RENEW_AS_BEFORE = """
UPDATE stage.replica SET lease_until = clock_timestamp() + interval '2 hours'
WHERE id = $1 AND NOT dead AND lease_until >= $2 RETURNING id
"""


async def assert_refused(store: PostgresStore, match: str = "older state") -> None:
    """Nothing is read, written or claimed, and the stage is not ready and sends nothing."""
    works: list[Callable[[], Awaitable[object]]] = [
        lambda: store.get("a"),
        lambda: store.page(Filter()),
        lambda: store.transact(inserting("unknown")),
        lambda: store.ownership.claim(AT, 10),
    ]
    for work in works:
        with pytest.raises(StoreUnavailable, match=match):
            await work()
    assert not store.available and not store.ownership.sure
    assert match in store.trouble


async def test_a_renewal_that_is_missing_stops_connections_that_stand(
    store: PostgresStore, other: Link
) -> None:
    """Every connection is refused with it, until the newer database is back."""
    await store.transact(inserting("a"))
    assert await store.get("a")
    await other.raw.execute(LOSE_RENEWAL)
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()

    await assert_refused(store)
    assert not store._pool._idle
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()

    await other.raw.execute(PUT_RENEWAL_BACK)
    assert await store.ownership.renew()
    await until(lambda: store.available)
    assert store.ownership.sure and await store.get("a")
    assert "b" == await store.transact(inserting("b"))


async def test_a_replica_leaves_also_an_older_state(store: PostgresStore, other: Link) -> None:
    """Its operator stops all replicas, and accepts the database then: nobody serves it any more."""
    await other.raw.execute(LOSE_RENEWAL)
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()

    await store.ownership.leave()
    rows = await other.raw.fetch("SELECT dead FROM stage.replica")
    assert [True] == [row["dead"] for row in rows]


async def test_a_batch_finds_that_the_one_before_is_missing(
    store: PostgresStore, other: Link
) -> None:
    """It is not written, and with it every other connection is refused."""
    await store.transact(inserting("a"))
    await other.raw.execute(LOSE_BATCHES)
    with pytest.raises(StoreUnavailable, match="1 batches of this process are missing"):
        await store.transact(inserting("b"))

    await assert_refused(store)
    assert not await other.raw.fetch("SELECT id FROM stage.saga WHERE id = 'b'")


async def test_a_refusal_of_a_missing_renewal_does_not_end_with_time(
    store: PostgresStore, other: Link
) -> None:
    """An hour behind the failover the replica does not register anew in the older state."""
    await other.raw.execute(LOSE_RENEWAL)
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()
    assert store._replica._lease_until is not None
    store._replica._lease_until -= HOURS

    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()
    await assert_refused(store)
    assert [(1,)] == [
        tuple(each) for each in await other.raw.fetch("SELECT count(*) FROM stage.replica")
    ]


async def test_a_refusal_of_a_missing_batch_does_not_end_with_time(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day behind the failover the number of the batch is the same proof."""
    await store.transact(inserting("a"))
    await other.raw.execute(LOSE_BATCHES)
    with pytest.raises(StoreUnavailable, match="older state"):
        await store._timeline.check_reader(other)
    monkeypatch.setattr(store._timeline, "_landed_at", time.monotonic() - identity.NUMBER_SECONDS)

    await assert_refused(store)
    await asyncio.sleep(2 * WriterLimits().retry_seconds)  # the writer looks by new connections
    await assert_refused(store)


async def test_a_refusal_says_that_the_older_state_was_accepted_meanwhile(
    store: PostgresStore, other: Link
) -> None:
    """A generation that began under a stage that was not stopped: a restart is the way out."""
    await other.raw.execute(LOSE_RENEWAL)
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()
    await other.raw.execute("UPDATE stage.identity SET generation = generation + 1")
    await other.raw.execute(PUT_RENEWAL_BACK)

    with pytest.raises(StoreUnavailable, match="was restored under the running stage"):
        await store.ownership.renew()
    await assert_refused(store, "was restored under the running stage")


@asynccontextmanager
async def started_on_a_dump(store: PostgresStore, other: Link) -> AsyncIterator[PostgresStore]:
    """A replica that is started on a dump, under `store`, whose number it is given there."""
    number = await store._replica.registered()
    await other.raw.execute(PUT_DUMP_BACK)
    started = PostgresStore(store._server, migrations=store._migrations)
    await started.open()
    assert number == await started._replica.registered()
    yield started
    await started.close()


@pytest.fixture
async def namesake(store: PostgresStore, other: Link) -> AsyncIterator[PostgresStore]:
    """One that was started before `store` looked at the database again."""
    async with started_on_a_dump(store, other) as started:
        yield started


async def test_the_lease_of_another_process_with_the_same_number_is_not_ours(
    store: PostgresStore, namesake: PostgresStore
) -> None:
    """A renewal extends nothing of another process, and every connection is refused with it."""
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()

    await assert_refused(store)
    assert await namesake.ownership.renew() and namesake.ownership.sure


async def test_a_new_connection_is_held_to_the_lease_of_this_process(
    store: PostgresStore, namesake: PostgresStore, other: Link
) -> None:
    """A lease of another one with the same number is no proof that nothing is missing."""
    with pytest.raises(StoreUnavailable, match="older state"):
        await store._check_reader(other)
    await assert_refused(store)


async def test_another_process_with_the_same_number_lifts_no_refusal(
    store: PostgresStore, other: Link
) -> None:
    """The refusal was there when the other one was started on the older state."""
    await other.raw.execute(LOSE_RENEWAL)
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()

    async with started_on_a_dump(store, other) as namesake:
        with pytest.raises(StoreUnavailable, match="older state"):
            await store.ownership.renew()
        await assert_refused(store)
        assert await namesake.ownership.renew() and namesake.ownership.sure


@pytest.mark.parametrize("refused", [True, False])
async def test_a_process_that_ends_leaves_another_one_with_its_number_its_lease(
    store: PostgresStore, namesake: PostgresStore, refused: bool
) -> None:
    """Otherwise its sagas were claimed by others while it goes on with them."""
    if refused:
        with pytest.raises(StoreUnavailable, match="older state"):
            await store.ownership.renew()
    await store.ownership.leave()
    assert await namesake.ownership.renew() and namesake.ownership.sure


async def test_a_replica_of_the_release_before_is_no_proof_and_goes_on(
    store: PostgresStore, other: Link
) -> None:
    """It writes no name of its process, on the dump as in a rolling update."""
    number = await store._replica.registered()
    await other.raw.execute(PUT_DUMP_BACK)
    ((before, until_then),) = await other.raw.fetch(REGISTER_AS_BEFORE)
    assert number == before
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()
    await store.ownership.leave()
    assert [(before,)] == [
        tuple(each) for each in await other.raw.fetch(RENEW_AS_BEFORE, before, until_then)
    ]
