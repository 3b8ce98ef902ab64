"""An older state of the database, once it was found: refused until the newer one is back (0111).

No test here ends a connection, as behind a pooler, whose clients keep theirs through a failover.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable

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
