"""The stage on a real PostgreSQL server, as its users run it."""

from __future__ import annotations

import asyncio
import datetime

import msgspec
import pytest

from stage.core.errors import StoreUnavailable
from stage.demo.payment import payment
from stage.demo.postgres_server import Server
from stage.store.postgres.store import PostgresStore
from tests.acceptance.test_demo import NAMES, demo
from tests.forked import stage

STAGE = "stage.demo.payment:payment"


async def db(word: str, url: str, *options: str) -> tuple[int, str]:
    """`stage db WORD`; its exit status and all it wrote."""
    done = await asyncio.to_thread(stage, "db", word, STAGE, "--database", url, *options)
    return done.status, done.out + done.err


@pytest.mark.timeout(110)
async def test_the_nine_stories_end_as_expected_on_postgresql() -> None:
    """One of them kills the stage; its successor takes over once the lease is over."""
    status, out, err = await demo("--json", "--database", "postgres")
    assert 0 == status, err.decode()
    document = msgspec.json.decode(out)
    assert NAMES == [story["name"] for story in document["stories"]]


async def test_a_database_is_made_upgraded_and_described(postgres_url: str) -> None:
    """`init` once, `upgrade` and `status` at any time; nothing is printed of the credentials."""
    assert "made postgresql://127.0.0.1" in (await db("init", postgres_url))[1]
    status, text = await db("init", postgres_url)
    assert 0 != status and "already" in text
    assert (0, "nothing is pending\n") == await db("upgrade", postgres_url)
    status, text = await db("status", postgres_url)
    assert 0 == status and "stage/0001_stage" in text and "migrations/0001_payment" in text
    assert "stage@" not in text


async def test_a_backup_that_is_put_back_begins_a_generation(
    postgres: Server, postgres_url: str
) -> None:
    """Not while a replica serves; then the next start answers for what may be lost."""
    name = postgres_url.rpartition("/")[2]
    assert 0 == (await db("init", postgres_url))[0]
    serves = (
        "INSERT INTO stage.replica (name, lease_until) VALUES ('here:1', now() + interval '1 h')"
    )
    await asyncio.to_thread(postgres.sql, serves, name)
    as_of = ("--as-of", "2026-11-23T02:30:00Z")
    status, text = await db("restored", postgres_url, *as_of)
    assert 0 != status and "here:1 still serves" in text
    await asyncio.to_thread(postgres.sql, "UPDATE stage.replica SET dead = true", name)
    assert "generation 2" in (await db("restored", postgres_url, *as_of))[1]
    asked = "INSERT INTO stage.lost_saga VALUES ('o-7', 'shipping', 'late', NULL, 1.0)"
    await asyncio.to_thread(postgres.sql, asked, name)
    release = ("released", postgres_url, "--reason", "alone", "--no-neighbours")
    status, text = await db(*release)
    assert 0 != status and "nothing of them stands: o-7" in text
    status, text = await db(*release, "--give-up", "o-7=the psp has no charge")
    assert 0 == status and "is released" in text


async def test_a_replica_that_slept_through_a_restore_is_restarted(
    postgres: Server, postgres_url: str
) -> None:
    """Its lease was over, so that nobody knew of it. It must not answer for the former state."""
    folder = payment.migrations
    assert folder is not None
    store = PostgresStore(postgres_url, migrations=[folder])
    await store.open()
    sleeps = "UPDATE stage.replica SET lease_until = lease_until - interval '1 minute'"
    await asyncio.to_thread(postgres.sql, sleeps, postgres_url.rpartition("/")[2])
    assert store._replica._lease_until is not None
    store._replica._lease_until -= datetime.timedelta(minutes=1)
    as_of = ("--as-of", "2026-11-23T02:30:00Z")
    assert 0 == (await db("restored", postgres_url, *as_of))[0]
    with pytest.raises(StoreUnavailable, match="restored under the running stage: restart it"):
        await store.ownership.renew()
    await store.close()
