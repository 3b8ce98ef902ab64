"""The store on PostgreSQL where it differs from others: doubt, collisions, poolers, identity."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.core.errors import ConfigurationError, StaleEpoch, StoreUnavailable
from stage.core.states import SagaState
from stage.demo.postgres_server import Server
from stage.engine.clock import SteadyClock, wall_of
from stage.ports.store import Filter, LostSaga, Row, Unit
from stage.store.errors import Contended
from stage.store.lanes import Lanes
from stage.store.postgres import identity, scrub
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.link import Link, connect
from stage.store.postgres.pool import Pool
from stage.store.postgres.replica import ServerTime
from stage.store.postgres.statements import statement
from stage.store.postgres.store import Listeners, PostgresLimits, PostgresStore
from stage.store.queue import Waiting
from tests.unit.store.given import AT, accepted, in_one_batch, inserting, paying, payments, row
from tests.waits import HANG_SECONDS, until

KINDS = ("postgres",)
"""The kinds that the fixture `store` opens here."""
DEADLINE_SECONDS = 60
"""No test waits as long, unless something is wrong."""


@pytest.mark.parametrize("landed", [True, False])
async def test_a_commit_whose_answer_is_lost_is_settled_by_its_number(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """The unit is durable once, whether the server had committed it or not."""
    real = Link.commit
    cut: list[bool] = []

    async def commit(link: Link) -> str:
        if cut:
            return await real(link)
        cut.append(landed)
        if landed:
            await real(link)
        link.raw.terminate()
        raise ConnectionResetError("cut")

    monkeypatch.setattr(Link, "commit", commit)
    assert "a" == await store.transact(inserting("a"))
    assert [landed] == cut
    assert row("a") == await store.get("a") and 1 == len(await store.entries("a"))


async def test_the_number_is_not_read_past_a_transaction_that_still_commits(
    store: PostgresStore, other: Link
) -> None:
    """The read waits for the transaction that holds the row of the number."""
    writer = store._timeline.writer
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE stage.writer_batch SET number = 77 WHERE writer = $1", writer)
    asking = asyncio.ensure_future(store._pool.fetch("settle_batch", writer))
    await asyncio.sleep(0.2)
    assert not asking.done()
    await other.raw.execute("COMMIT")
    assert [(77,)] == await asking


WARN = """
CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE WARNING 'canceling wait for synchronous replication'; RETURN NEW; END $$;
CREATE TRIGGER warn BEFORE INSERT OR UPDATE ON stage.writer_batch
    FOR EACH ROW EXECUTE FUNCTION warn()
"""
"""Warns as a server whose wait for a standby was cancelled, behind the COMMIT of that statement."""


async def test_a_number_that_a_standby_may_lack_settles_nothing(
    store: PostgresStore, other: Link
) -> None:
    """A commit on the primary alone may be lost with it: it stays in doubt."""
    home = await store._connections.reopen()
    await other.raw.execute(WARN)
    with pytest.raises(StoreUnavailable, match="canceling wait"):
        await home.run(lambda connection: connection.landed(0))
    with pytest.raises(StoreUnavailable, match="canceling wait"):
        await store._timeline.check(other)

    await other.raw.execute("DROP FUNCTION warn() CASCADE")
    assert await home.run(lambda connection: connection.landed(0))


async def test_a_row_that_another_holds_for_a_moment_parts_the_batch(
    store: PostgresStore, other: Link
) -> None:
    """Its units are run one by one, and each waits its own time; all become durable."""
    await store.transact(paying("held"))
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE payment SET amount = 2 WHERE saga_id = 'held'")

    async def waits(unit: Unit) -> None:
        await unit.tx.execute("UPDATE payment SET amount = amount + 1 WHERE saga_id = 'held'")

    async def end() -> None:
        await asyncio.sleep(0.3)
        await other.raw.execute("COMMIT")

    ending = asyncio.ensure_future(end())
    done = await in_one_batch(store, paying("a"), waits, paying("b"))
    await ending
    assert [1, None, 1] == done
    assert ["a", "b", "held"] == await payments(store)

    async def read(unit: Unit) -> Any:
        return await unit.tx.fetchval("SELECT amount FROM payment WHERE saga_id = 'held'")

    assert 3 == await store.transact(read)
    assert store.available


class Lane:
    """Records which units a lane takes and when it begins; no busy machine ends its wait."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.began = asyncio.Event()
        """A unit of a lane has its transaction."""
        self.taken: asyncio.Queue[bool] = asyncio.Queue()
        """For each unit that met a lock, whether a lane took it."""
        script, take = Link.script, Lanes.take

        async def begin(link: Link, name: str) -> None:
            if name != "begin_patient":
                return await script(link, name)
            await link.raw.execute(statement(name).replace("'2s'", f"'{DEADLINE_SECONDS}s'"))
            self.began.set()

        def asked(lanes: Lanes, waiting: Waiting) -> bool:
            took = take(lanes, waiting)
            self.taken.put_nowait(took)
            return took

        patch.setattr(Link, "script", begin)
        patch.setattr(Lanes, "take", asked)


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    """The lanes of the stores that are made later."""
    return Lane(monkeypatch)


async def test_nobody_else_waits_for_a_row_that_another_holds(
    lane: Lane, store: PostgresStore, other: Link
) -> None:
    """The unit that needs the row waits in a lane of its own; the writer goes on at once."""
    await store.transact(paying("held"))
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE payment SET amount = 2 WHERE saga_id = 'held'")
    blocked = asyncio.ensure_future(store.transact(adding_to("held")))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await lane.began.wait()
        for number in range(3):
            await store.transact(paying(f"free-{number}"))
        assert not blocked.done() and store.available
        await other.raw.execute("COMMIT")
        await blocked

    async def read(unit: Unit) -> Any:
        return await unit.tx.fetchval("SELECT amount FROM payment WHERE saga_id = 'held'")

    assert 3 == await store.transact(read)


async def test_a_row_that_is_held_too_long_fails_its_unit_alone(
    store: PostgresStore, other: Link
) -> None:
    """As if the database were away for it; the store itself stays available."""
    await store.transact(paying("held"))
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE payment SET amount = 2 WHERE saga_id = 'held'")
    with pytest.raises(Contended):
        await asyncio.wait_for(store.transact(adding_to("held")), HANG_SECONDS)
    assert store.available and 1 == await store.transact(paying("a"))
    await other.raw.execute("ROLLBACK")


async def test_a_lane_that_is_full_refuses_more_units(
    lane: Lane, migrated_url: str, migrations: Path
) -> None:
    """The wait is bounded: the next one fails at once, and others go on."""
    limits = PostgresLimits(lanes=1, lane_units_max=1)
    store = PostgresStore(migrated_url, migrations=[migrations], limits=limits)
    await store.open()
    other = await connect(DatabaseServer(url=migrated_url))
    await store.transact(paying("held"))
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE payment SET amount = 2 WHERE saga_id = 'held'")
    waiting = []
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            for _ in range(2):  # one of them has the lane, the other one its only place
                waiting.append(asyncio.ensure_future(store.transact(adding_to("held"))))
                assert await lane.taken.get()
                await lane.began.wait()
            with pytest.raises(Contended):
                await store.transact(adding_to("held"))
            assert not await lane.taken.get()
            assert 1 == store.queued and not any(each.done() for each in waiting)
            await store.transact(paying("free"))
    finally:
        await other.raw.execute("ROLLBACK")
        await asyncio.gather(*waiting)
        await other.close()
        await store.close()


def adding_to(saga_id: str) -> Callable[[Unit], Awaitable[None]]:
    """A unit that needs the author's row of that saga."""

    async def unit(unit: Unit) -> None:
        sql = "UPDATE payment SET amount = amount + 1 WHERE saga_id = $1"
        await unit.tx.execute(sql, saga_id)

    return unit


async def test_readers_share_a_bounded_number_of_connections(postgres_url: str) -> None:
    """The third statement waits for one of two; how long is a metric."""
    waits: list[float] = []
    pool = Pool(DatabaseServer(url=postgres_url), 2, waits.append)
    busy: list[int] = []
    fetch = Link.fetch

    async def slow(link: Link, name: str, *parameters: object) -> list[Row]:
        busy.append(1)
        assert len(busy) <= 2
        await asyncio.sleep(0.2)
        busy.pop()
        return await fetch(link, name, *parameters)

    pool.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "fetch", slow)
        await asyncio.gather(*(pool.fetch("has_migrations") for _ in range(3)))
    await pool.close()
    assert max(waits[:2]) < 0.1 < waits[2] and 3 == len(waits)


async def test_a_saga_that_another_inserts_meanwhile_is_seen_by_the_unit_that_runs_again(
    store: PostgresStore, migrated_url: str, migrations: Path
) -> None:
    """Both looked and saw nothing: the second one is run again, and sees the first."""
    second = PostgresStore(migrated_url, migrations=[migrations])
    await second.open()
    looked: list[bool] = []
    gate = asyncio.Event()

    async def unit(unit: Unit) -> str:
        found = await unit.load("a")
        looked.append(found is not None)
        if found is None:
            if len(looked) == 1:
                racing.append(asyncio.run_coroutine_threadsafe(first(), loop))
                while await unit.load("a") is None:
                    await unit.tx.fetchval("SELECT pg_sleep(0.01)")
            await unit.insert(row("a"), accepted())
            return "inserted"
        return "seen"

    async def first() -> None:
        await store.transact(inserting("a"))
        gate.set()

    racing: list[Any] = []
    loop = asyncio.get_running_loop()
    assert "seen" == await second.transact(unit)
    assert [False, True] == looked and gate.is_set()
    await second.close()


@pytest.mark.parametrize("lanes", [0, 2])
async def test_a_unit_that_met_a_lock_may_still_meet_an_insert(
    store: PostgresStore, other: Link, migrated_url: str, migrations: Path, lanes: int
) -> None:
    """It was run again for the lock, and failed with a bare KeyError for the saga behind it."""
    limits = PostgresLimits(lanes=lanes)
    second = PostgresStore(migrated_url, migrations=[migrations], limits=limits)
    await second.open()
    await store.transact(paying("held"))
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE payment SET amount = 2 WHERE saga_id = 'held'")
    locks = 1 + bool(lanes)  # at the writer, and then in its lane
    runs: list[str] = []
    racing: list[Any] = []

    async def unit(unit: Unit) -> str:
        if await unit.load("a") is not None:
            runs.append("seen")
            return "seen"
        if len(runs) < locks:
            runs.append("lock")
            sql = "SELECT 1 FROM payment WHERE saga_id = 'held' FOR UPDATE NOWAIT"
            await unit.tx.fetchval(sql)
        runs.append("insert")
        racing.append(asyncio.run_coroutine_threadsafe(store.transact(inserting("a")), loop))
        while await unit.load("a") is None:
            await unit.tx.fetchval("SELECT pg_sleep(0.01)")
        await unit.insert(row("a"), accepted())
        return "inserted"

    loop = asyncio.get_running_loop()
    try:
        assert "seen" == await asyncio.wait_for(second.transact(unit), DEADLINE_SECONDS)
    finally:
        await other.raw.execute("ROLLBACK")
        await second.close()
    assert [*["lock"] * locks, "insert", "seen"] == runs
    assert 1 == len(await store.entries("a"))


async def test_a_unit_that_met_an_insert_still_goes_aside_for_a_lock(
    lane: Lane, store: PostgresStore, other: Link, migrated_url: str, migrations: Path
) -> None:
    """It stayed with the writer otherwise, and all sagas of the process waited with it."""
    second = PostgresStore(migrated_url, migrations=[migrations])
    await second.open()
    await store.transact(paying("held"))
    await other.raw.execute("BEGIN")
    await other.raw.execute("UPDATE payment SET amount = 2 WHERE saga_id = 'held'")
    racing: list[Any] = []

    async def unit(unit: Unit) -> None:
        if await unit.load("a") is not None:
            return await adding_to("held")(unit)
        racing.append(asyncio.run_coroutine_threadsafe(store.transact(inserting("a")), loop))
        while await unit.load("a") is None:
            await unit.tx.fetchval("SELECT pg_sleep(0.01)")
        await unit.insert(row("a"), accepted())

    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(second.transact(unit))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await lane.taken.get()
            await second.transact(paying("free"))
            assert not waiting.done()
    finally:
        await other.raw.execute("COMMIT")
    await waiting
    await second.close()


async def test_a_lost_connection_is_replaced(store: PostgresStore, postgres: Server) -> None:
    """Every session of the store is ended; the next units find the server again."""
    await store.transact(inserting("a"))
    name = postgres_name(store)
    ended = (
        f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    assert int(await asyncio.to_thread(postgres.sql, ended)) > 1

    async def written() -> bool:
        try:
            return "b" == await store.transact(inserting("b"))
        except StoreUnavailable:
            return False

    await until(written)
    assert await store.get("b") == row("b")
    assert store.available


async def test_a_unit_that_swallows_a_failed_statement_fails_alone(store: PostgresStore) -> None:
    """PostgreSQL has given up what stands with it; the neighbours in the batch have not."""

    async def swallows(unit: Unit) -> None:
        try:
            await unit.tx.execute("INSERT INTO nowhere VALUES (1)")
        except Exception:
            await unit.insert(row("swallowed"), accepted())

    done = await in_one_batch(store, paying("a"), swallows, paying("b"))
    assert "ON CONFLICT" in str(done[1])
    assert ["a", "b"] == await payments(store) and await store.get("swallowed") is None


async def test_a_session_keeps_nothing(migrated_url: str, migrations: Path) -> None:
    """With `statement_cache=0` no prepared statement is left, as a pooler needs it."""
    store = PostgresStore(migrated_url + "?statement_cache=0", migrations=[migrations])
    await store.open()
    await store.transact(paying("a"))

    async def prepared(unit: Unit) -> Any:
        return await unit.tx.fetchval("SELECT count(*) FROM pg_prepared_statements")

    assert 0 == await store.transact(prepared)
    await store.close()


async def test_the_database_of_another_stage_is_refused(postgres_url: str) -> None:
    """With both names and the fix."""
    first = PostgresStore(DatabaseServer(url=postgres_url, stage="payment"))
    await first.open()
    assert first.made and "payment" == first.identity.stage
    await first.close()
    again = PostgresStore(DatabaseServer(url=postgres_url, stage="payment"))
    await again.open()
    assert not again.made and again.identity == first.identity
    await again.close()
    with pytest.raises(ConfigurationError, match="is that of stage 'payment'"):
        await PostgresStore(DatabaseServer(url=postgres_url, stage="stock")).open()


async def test_an_empty_database_is_refused_where_one_must_exist(postgres_url: str) -> None:
    """Nothing is made in it."""
    with pytest.raises(ConfigurationError, match="stage db init"):
        await PostgresStore(DatabaseServer(url=postgres_url, must_exist=True)).open()


async def test_an_open_that_fails_behind_its_writer_leaves_no_task(
    migrated_url: str, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may live on, and open another store: nothing of this one writes or waits."""
    real = Link.fetch

    async def fetch(link: Link, name: str, *parameters: object) -> list[Row]:
        if name == "drop_old_writers":
            raise StoreUnavailable("the server went away")
        return await real(link, name, *parameters)

    monkeypatch.setattr(Link, "fetch", fetch)
    before = asyncio.all_tasks()
    store = PostgresStore(migrated_url, migrations=[migrations])
    with pytest.raises(ConfigurationError, match="the server went away"):
        await store.open()
    assert before == asyncio.all_tasks()


async def test_an_older_state_of_the_database_is_not_written_to(
    store: PostgresStore, other: Link
) -> None:
    """As after a failover that lost the last commits: our own number has gone back."""
    await store.transact(inserting("a"))
    await other.raw.execute("UPDATE stage.writer_batch SET number = 0")
    await other.raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    with pytest.raises(StoreUnavailable):
        await store.transact(inserting("b"))
    async with asyncio.timeout(HANG_SECONDS):
        while "older state" not in store.trouble:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)
    assert not store.available


async def test_an_older_state_of_the_database_is_not_read(
    store: PostgresStore, other: Link
) -> None:
    """A saga that it lacks is not unknown, a list without it not whole, and none is claimed."""
    await store.transact(inserting("a"))
    await other.raw.execute("UPDATE stage.writer_batch SET number = 0; DELETE FROM stage.saga")
    await other.raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )

    for read in (store.get("a"), store.page(Filter()), store.ownership.claim(1e12, 10)):
        with pytest.raises(StoreUnavailable):
            await read
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.get("a")


async def test_a_number_that_was_forgotten_in_order_proves_nothing(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that nobody needed for a week has no row any more, and is no older state."""
    await store.transact(inserting("a"))
    await other.raw.execute("DELETE FROM stage.writer_batch")
    with pytest.raises(StoreUnavailable, match="batches of this process"):
        await store._timeline.check_reader(other)

    monkeypatch.setattr(store._timeline, "_landed_at", time.monotonic() - identity.NUMBER_SECONDS)

    await store._timeline.check_reader(other)
    await store._timeline.check(other)


async def test_an_older_state_is_noticed_by_a_replica_that_wrote_nothing(
    store: PostgresStore, other: Link
) -> None:
    """A failover lost what others wrote, and of ours no more than a renewal of the lease."""
    await store.ownership.renew()
    await other.raw.execute("UPDATE stage.replica SET lease_until = lease_until - interval '1 s'")
    with pytest.raises(StoreUnavailable, match="older state"):
        await store.ownership.renew()
    await other.raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    with pytest.raises(StoreUnavailable):
        await store.transact(inserting("a"))
    async with asyncio.timeout(HANG_SECONDS):
        while "older state" not in store.trouble:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)
    assert not store.available


async def test_two_upgrades_at_once_apply_each_file_once(
    postgres_url: str, migrations: Path
) -> None:
    """Replicas that start together: one of them waits for the other."""
    stores = [PostgresStore(postgres_url, migrations=[migrations]) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert 1 == sum(store.made for store in stores)
    assert 1 == len({store.identity.id for store in stores})
    for store in stores:
        await store.close()


async def test_a_stale_write_of_a_replica_is_refused_by_its_owner_column(
    store: PostgresStore, other: Link
) -> None:
    """Epoch and length fit, and yet another registration owns the saga."""
    held = row("a", due_at=1.0)
    await store.transact(inserting("a", held))
    await other.raw.execute("UPDATE stage.saga SET owner = owner + 1")
    with pytest.raises(StaleEpoch, match="another replica"):
        await store.transact(lambda unit: unit.save(held, [], epoch=1))


def postgres_name(store: PostgresStore) -> str:
    """The name of its database."""
    return store.place.rpartition("/")[2]


async def test_the_time_is_that_of_the_server(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica whose machine is 20 minutes ahead goes by the same time as the others (rule 34)."""
    machine = time.time
    monkeypatch.setattr(time, "time", lambda: machine() + 1_200.0)
    store = PostgresStore(migrated_url)
    assert store.ownership.time is None
    await store.open()
    try:
        clock = SteadyClock(wall_of(store.ownership))
        assert machine() == pytest.approx(clock.now(), abs=0.5)
        assert await store.ownership.renew()
        assert machine() == pytest.approx(clock.now(), abs=0.5)
        assert 0.0 == clock.jump
    finally:
        await store.close()


@pytest.mark.parametrize(
    "second_host, query, reason",
    [
        (False, "", ""),
        (False, "?synchronous_commit=off", "synchronous_commit is off"),
        (True, "", "no standby is synchronous"),
    ],
)
async def test_commits_that_may_be_lost_are_said_at_start(
    postgres: Server, migrated_url: str, second_host: bool, query: str, reason: str
) -> None:
    """With the setting that keeps them; a lone server with its defaults says nothing."""
    host = f"127.0.0.1:{postgres.port}"
    url = migrated_url.replace(host, f"{host},{host}" if second_host else host) + query
    said: list[str] = []
    store = PostgresStore(url, listeners=Listeners(unpromised=said.append))
    await store.open()
    await store.close()
    assert bool(reason) == bool(said) and all(reason in each for each in said)


def test_slow_answers_do_not_make_the_time_of_the_server_jump() -> None:
    """Each answer proves bounds; one that contradicts them shows that the clock there was set."""
    server = ServerTime()
    server.learn(1_000.0, 0.0, 0.25)
    first = server.at(0.0)
    assert 999.875 == first
    server.learn(1_010.0, 10.0, 18.0)  # read at once, answered late: nothing new
    assert first == server.at(0.0)
    server.learn(1_019.9375, 20.0, 20.125)  # a quick one: closer
    assert 999.875 == server.at(0.0)
    server.learn(1_025.0, 20.0, 20.25)
    assert 1_004.875 == server.at(0.0)


async def test_a_scrub_is_refused_while_a_snapshot_keeps_what_is_gone(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VACUUM FULL would keep the rows that it sees, and say nothing."""
    monkeypatch.setattr(scrub, "SNAPSHOTS_SECONDS_MAX", 0.0)
    await store.transact(inserting("a"))
    await other.raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
    await store.transact(inserting("b"))
    with pytest.raises(StoreUnavailable, match=r"keeps deleted rows for .*session \d+ of"):
        await store.scrub()
    await other.raw.execute("ROLLBACK")
    await other.raw.execute("BEGIN; SELECT pg_current_xact_id()")  # without a snapshot
    await store.transact(inserting("c"))
    with pytest.raises(StoreUnavailable, match=r"session \d+ of \w+"):
        await store.scrub()
    await other.raw.execute("ROLLBACK")
    monkeypatch.undo()
    await store.scrub()


async def test_a_table_that_was_not_copied_is_not_called_clean(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server leaves a table of another role as it is, and its warnings may be turned off."""
    monkeypatch.setattr(scrub, "LOCK_TRIES_MAX", 3)
    monkeypatch.setattr(
        "stage.store.postgres.link.statement",
        lambda name: "SELECT 1" if name == "copy_saga_anew" else statement(name),
    )
    with pytest.raises(StoreUnavailable, match="table saga is in use by"):
        await store.scrub()


async def test_a_session_that_may_not_be_looked_at_holds_up_a_scrub(
    postgres_url: str, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold an old snapshot: a role that sees no other ones is told what to grant."""
    monkeypatch.setattr(scrub, "SNAPSHOTS_SECONDS_MAX", 0.2)
    other = await connect(DatabaseServer(url=postgres_url))
    role = "app_" + postgres_url.rpartition("_")[2]
    await other.raw.execute(f"CREATE ROLE {role} LOGIN")
    await other.raw.execute(f"GRANT ALL ON DATABASE {postgres_url.rpartition('/')[2]} TO {role}")
    await other.raw.execute(f"GRANT ALL ON SCHEMA public TO {role}")
    store = PostgresStore(postgres_url.replace("stage@", f"{role}@"), migrations=[migrations])
    await store.open()
    with pytest.raises(StoreUnavailable, match="only a member of pg_read_all_stats may look at"):
        await store.scrub()
    await other.raw.execute(f"GRANT pg_read_all_stats TO {role}")
    await store.scrub()
    await other.close()
    await store.close()


async def test_a_scrub_does_not_queue_behind_a_long_reader(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a waiting lock of its kind everybody else would wait too."""
    monkeypatch.setattr(scrub, "LOCK_TRIES_MAX", 3)
    large = await other.fetch("file_of_table", "stage.journal")
    await other.raw.execute("BEGIN; LOCK TABLE stage.signal IN ACCESS SHARE MODE")
    with pytest.raises(StoreUnavailable, match=r"table signal is in use by session \d+"):
        await store.scrub()
    await other.raw.execute("ROLLBACK")
    assert large == await other.fetch("file_of_table", "stage.journal")  # for the next time
    monkeypatch.undo()
    await store.scrub()


async def test_a_scrub_that_is_asked_for_again_copies_no_table_twice(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try of a sweep copied the sagas, and then met the journal in use again.

    But that of orders, which come meanwhile: an order may name the number that was erased.
    """
    monkeypatch.setattr(scrub, "LOCK_TRIES_MAX", 3)
    clean: set[str] = set()
    await other.raw.execute("BEGIN; LOCK TABLE stage.journal IN ACCESS SHARE MODE")
    with pytest.raises(StoreUnavailable, match="table journal is in use"):
        await store.scrub(clean)
    assert set(scrub.TABLES) - {"act_key", "journal"} == clean
    await other.raw.execute("ROLLBACK")

    async def files() -> list[Any]:
        return [await other.fetch("file_of_table", f"stage.{name}") for name in scrub.TABLES]

    before = await files()
    monkeypatch.undo()
    await store.scrub(clean)
    copied = [a != b for a, b in zip(before, await files(), strict=True)]
    assert [name in ("act_key", "journal") for name in scrub.TABLES] == copied
    before = await files()
    await asyncio.gather(store.scrub(clean), store.scrub())  # the other one needs all of it
    assert not any(a == b for a, b in zip(before, await files(), strict=True))


WAITERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
LOOKS_MAX = 1_000
"""How often a waiter is looked for, 0.02 s apart."""


async def until_one_waits(unit: Unit) -> None:
    """Return once another transaction waits for an advisory lock, or after some seconds."""
    for _ in range(LOOKS_MAX):
        if await unit.tx.fetchval(WAITERS):
            break
        await unit.tx.fetchval("SELECT 1 FROM pg_sleep(0.02)")


@pytest.mark.parametrize("keeps_first", [True, False])
async def test_a_request_about_a_lost_saga_is_read_by_who_adopts_it_or_finds_the_saga(
    store: PostgresStore, migrated_url: str, migrations: Path, keeps_first: bool
) -> None:
    """The second one begins when it cannot see yet what the first one writes, and waits for it."""
    second = PostgresStore(migrated_url, migrations=[migrations])
    await second.open()
    lost = LostSaga(saga_id="a", requested_by="order", reason="", first_sent_at=None, asked_at=AT)
    loop = asyncio.get_running_loop()
    racing: list[Future[Any]] = []

    async def adopt(unit: Unit) -> Sequence[LostSaga]:
        assert await unit.load("a") is None
        found = await unit.lost_requests("a")
        await let_the_other_come(unit)
        await unit.insert(row("a"), accepted())
        return found

    async def keep(unit: Unit) -> bool:
        if await unit.take("a") is not None:
            return False
        kept = await unit.keep_lost(lost)
        await let_the_other_come(unit)
        return kept

    async def let_the_other_come(unit: Unit) -> None:
        if not racing:
            racing.append(asyncio.run_coroutine_threadsafe(other(), loop))
            await until_one_waits(unit)

    async def other() -> Any:
        work: Callable[[Unit], Awaitable[Any]] = adopt if keeps_first else keep
        return await second.transact(work)

    first = await store.transact(keep if keeps_first else adopt)
    then = await asyncio.wrap_future(racing[0])
    assert (True, [lost]) == (first, then) if keeps_first else ([], False) == (first, then)
    await second.close()


async def test_a_saga_of_a_replica_that_was_forgotten_is_claimed(
    store: PostgresStore, migrated_url: str, migrations: Path, other: Link
) -> None:
    """It slept for hours, or the clock of the server jumped, and it wrote before it knew of that.

    A live replica keeps its own, and the forgotten one hears that it is dead.
    """
    second = PostgresStore(migrated_url, migrations=[migrations])
    await second.open()
    running = msgspec.structs.replace(row("s"), state=SagaState.ACTIVE, due_at=AT)
    await store.transact(inserting("live", msgspec.structs.replace(running, id="live")))
    registration = await second._replica.registered()
    await other.raw.execute(
        "UPDATE stage.replica SET lease_until = lease_until - interval '2 hours' WHERE id = $1",
        registration,
    )
    assert {} == await store.ownership.claim(AT - 1, 10)  # the dead are forgotten
    assert [] == await other.raw.fetch("SELECT FROM stage.replica WHERE id = $1", registration)
    await second.transact(inserting("s", running))
    third = PostgresStore(migrated_url, migrations=[migrations])
    await third.open()
    assert {"s": 1} == await third.ownership.claim(AT - 1, 10)
    assert not await second.ownership.renew()
    assert await second.ownership.renew() and await third.ownership.renew()
    for each in (second, third):
        await each.close()


async def test_an_expansion_beside_a_stage_that_is_up_breaks_no_statement(
    store: PostgresStore, other: Link
) -> None:
    """A statement that was planned before the column was added is planned anew."""

    async def select(unit: Unit) -> Row | None:
        return await unit.tx.fetchone("SELECT * FROM payment WHERE saga_id = 'a'")

    async def write(unit: Unit) -> Row | None:
        sql = "UPDATE payment SET amount = amount WHERE saga_id = 'a' RETURNING *"
        return await unit.tx.fetchone(sql)

    await store.transact(paying("a"))
    before = [await store.transact(each) for each in (select, write)]
    await other.raw.execute("ALTER TABLE payment ADD COLUMN note text")
    after = await in_one_batch(store, paying("b"), select, write, paying("c"))
    assert [(*(row or ()), None) for row in before] == after[1:3]
    assert ["a", "b", "c"] == await payments(store)

    async def both(unit: Unit) -> list[Row | None]:
        return [await select(unit), await write(unit)]

    await other.raw.execute("ALTER TABLE payment ADD COLUMN more text")
    assert [(*row, None) for row in after[1:3]] == await store.transact(both)
    assert store.available


async def test_a_replica_that_slept_through_a_restore_serves_nothing(
    store: PostgresStore, other: Link
) -> None:
    """It was not there to be stopped, and no connection of it broke: a schema was put back."""
    await store.transact(inserting("a"))
    assert await store.get("a")
    await other.raw.execute("DELETE FROM stage.replica; UPDATE stage.identity SET generation = 2")
    assert store._replica._lease_until is not None
    store._replica._lease_until -= datetime.timedelta(hours=2)
    with pytest.raises(StoreUnavailable, match="was restored under the running stage"):
        await store.ownership.renew()
    for work in (store.transact(inserting("b")), store.get("b"), store.ownership.claim(AT, 10)):
        with pytest.raises(StoreUnavailable):
            await work
    async with asyncio.timeout(HANG_SECONDS):
        while "restored" not in store.trouble:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)
    assert not store.available and not store.ownership.sure


async def test_a_start_leaves_alone_what_an_operator_writes_about_the_database(
    store: PostgresStore, other: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new release writes its name, and `stage db restored` a generation at the same moment."""
    fetch = Link.fetch

    async def after_the_operator(link: Link, name: str, *parameters: object) -> list[Row]:
        if name in ("name_identity", "put_identity"):
            await other.raw.execute("UPDATE stage.identity SET generation = 2, restored_as_of = 5")
        return await fetch(link, name, *parameters)

    monkeypatch.setattr(Link, "fetch", after_the_operator)
    named, made = await identity.take(other, DatabaseServer(url="", stage="payment", release="9.9"))
    found = await identity.read_identity(other)
    assert found is not None and not made
    assert ("payment", "9.9", 1) == (named.stage, named.release, named.generation)
    assert ("payment", "9.9", 2, 5) == (
        found.stage,
        found.release,
        found.generation,
        found.restored_as_of,
    )
