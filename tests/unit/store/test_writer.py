"""Group commit and rule 8: a commit in doubt is settled before any caller is answered."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.ports.store import Filter, Unit
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.connection import SqliteConnection, SqliteHome
from stage.store.sqlite.connections import Check, SqliteConnections
from stage.store.sqlite.store import SqliteLimits, SqliteStore
from tests.unit.store.conftest import Faulty
from tests.unit.store.given import accepted, in_one_batch, inserting, row, until
from tests.waits import HANG_SECONDS


@asynccontextmanager
async def opened(path: Path, factory: type[Faulty], **limits: float) -> AsyncIterator[SqliteStore]:
    """A store on a file whose connections fail by a plan."""
    store = SqliteStore(
        path / "stage.db",
        factory=factory,
        limits=msgspec.convert({"retry_seconds": 0.01} | limits, SqliteLimits),
    )
    await store.open()
    factory.commits = 0
    try:
        yield store
    finally:
        await store.close()


def counting(saga_id: str, runs: list[str]) -> Callable[[Unit], Awaitable[str]]:
    """A unit that inserts a saga and counts how often it was run."""

    async def unit(unit: Unit) -> str:
        runs.append(saga_id)
        await unit.insert(row(saga_id), accepted())
        return saga_id

    return unit


async def test_concurrent_units_share_commits(tmp_path: Path, faulty: type[Faulty]) -> None:
    """Units that come while the writer is at work share the next commit."""
    async with opened(tmp_path, faulty) as store:
        await in_one_batch(store, *(inserting(f"s{n}") for n in range(50)))
        assert faulty.commits == 1
        assert sum((await store.count()).values()) == 50


async def test_a_deferrable_unit_goes_with_the_next_one(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """However many are deferrable, they share the commit of the first that is not."""
    async with opened(tmp_path, faulty, deferral_seconds_max=60.0) as store:
        deferrable = [
            asyncio.ensure_future(store.transact(inserting(f"p{n}"), deferrable=True))
            for n in range(3)
        ]
        await asyncio.sleep(0)
        await store.transact(inserting("s"))
        assert faulty.commits == 1
        assert await asyncio.gather(*deferrable) == ["p0", "p1", "p2"]


async def test_a_deferrable_unit_is_not_held_for_ever(tmp_path: Path, faulty: type[Faulty]) -> None:
    """Alone it is written after `deferral_seconds_max`."""
    async with opened(tmp_path, faulty) as store:
        assert await store.transact(inserting("p"), deferrable=True) == "p"
        assert faulty.commits == 1


async def test_units_left_after_trouble_are_not_held_any_more(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """Deferrable units behind one whose commit was in doubt are written when that is settled."""

    async def bad(unit: Unit) -> None:
        await unit.insert(row("bad"), accepted())
        raise LookupError("the batch is dropped, and repeated unit by unit")

    async with opened(tmp_path, faulty, deferral_seconds_max=60.0) as store:
        at_work, sent = threading.Event(), threading.Event()

        async def hold(unit: Unit) -> None:
            at_work.set()
            sent.wait(HANG_SECONDS)
            raise LookupError("this one writes nothing")

        holding = asyncio.ensure_future(store.transact(hold))
        await asyncio.to_thread(at_work.wait, HANG_SECONDS)
        faulty.plan = ["landed"]
        waiting = [asyncio.ensure_future(store.transact(each)) for each in (bad, inserting("a"))]
        deferrable = asyncio.ensure_future(store.transact(inserting("p"), deferrable=True))
        await asyncio.sleep(0)
        sent.set()
        async with asyncio.timeout(HANG_SECONDS):
            assert await deferrable == "p"
        assert await waiting[1] == "a"
        for failed in (holding, waiting[0]):
            with pytest.raises(LookupError):
                await failed


async def test_closing_does_not_hold_deferrable_units(tmp_path: Path, faulty: type[Faulty]) -> None:
    """Deferrable units are written at once when no others can come any more."""
    async with opened(tmp_path, faulty, deferral_seconds_max=60.0) as store:
        deferrable = asyncio.ensure_future(store.transact(inserting("p"), deferrable=True))
        await asyncio.sleep(0)
    assert await deferrable == "p"


async def test_a_batch_has_a_limit(tmp_path: Path, faulty: type[Faulty]) -> None:
    """Fifty units in batches of at most ten need five commits."""
    async with opened(tmp_path, faulty, units_per_batch_max=10) as store:
        await in_one_batch(store, *(inserting(f"s{n}") for n in range(50)))
        assert faulty.commits == 5


async def test_a_full_queue_is_refused_at_once(tmp_path: Path, faulty: type[Faulty]) -> None:
    """Beyond the limit a unit is refused and not run; those that wait are."""
    async with opened(tmp_path, faulty, queue_units_max=5) as store:
        done = await in_one_batch(store, *(inserting(f"s{n}") for n in range(8)))
        refused = [error for error in done if isinstance(error, StoreUnavailable)]
        assert len(refused) == 3
        assert "queue is full" in str(refused[0])
        assert sum((await store.count()).values()) == 5
        assert store.available


async def test_a_batch_that_failed_whole_is_not_committed(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """Where no unit wrote anything there is nothing to sync."""

    async def bad(unit: Unit) -> None:
        raise LookupError

    async with opened(tmp_path, faulty) as store:
        with pytest.raises(LookupError):
            await store.transact(bad)
        assert faulty.commits == 0


async def test_a_commit_that_landed_stands(tmp_path: Path, faulty: type[Faulty]) -> None:
    """COMMIT raises, but the batch is there: every unit returns, and none is run again."""
    runs: list[str] = []
    async with opened(tmp_path, faulty) as store:
        faulty.plan[:] = ["landed"]
        ids = [f"s{n}" for n in range(5)]
        done = await in_one_batch(store, *(counting(one, runs) for one in ids))
        assert faulty.struck == ["landed"]
        assert done == ids
        assert runs == ids
        assert [found.id for found in await store.page(Filter())] == ids
        assert store.available


async def test_a_commit_that_did_not_land_is_repeated(tmp_path: Path, faulty: type[Faulty]) -> None:
    """COMMIT raises and the batch is gone: every unit is run once more, by itself."""
    runs: list[str] = []
    async with opened(tmp_path, faulty) as store:
        faulty.plan[:] = ["lost"]
        ids = [f"s{n}" for n in range(5)]
        done = await in_one_batch(store, *(counting(one, runs) for one in ids))
        assert faulty.struck == ["lost"]
        assert done == ids
        assert runs == ids * 2
        assert faulty.commits == 1 + 5
        assert store.available


async def test_a_poisoned_unit_fails_alone(tmp_path: Path, faulty: type[Faulty]) -> None:
    """A unit that makes every COMMIT fail raises StoreUnavailable; its neighbours are durable."""
    faulty.poison = "s2"
    async with opened(tmp_path, faulty) as store:
        done = await in_one_batch(store, *(inserting(f"s{n}") for n in range(5)))
        assert len(faulty.struck) >= 2
        assert isinstance(done[2], StoreUnavailable)
        assert [done[n] for n in (0, 1, 3, 4)] == ["s0", "s1", "s3", "s4"]
        assert await store.get("s2") is None
        assert await store.get("s4") == row("s4")


async def test_units_behind_a_poisoned_one_fail_while_the_file_is_away(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """The poisoned one is held until the file is back; those behind it were not written."""
    path = tmp_path / "stage.db"
    away = path.with_name("away.db")
    ids = [f"s{n}" for n in range(5)]
    refused = asyncio.Event()
    async with opened(tmp_path, faulty) as store:
        reopen = store._connections.reopen

        async def noted() -> SqliteHome:
            try:
                return await reopen()
            except StoreUnavailable:
                refused.set()
                raise

        store._connections.reopen = noted  # type: ignore[method-assign]
        faulty.plan[:] = ["lost", "ok", "lost"]
        faulty.gates.extend([lambda: path.rename(away), lambda: None])
        sending = asyncio.ensure_future(in_one_batch(store, *(inserting(one) for one in ids)))
        await asyncio.wait_for(refused.wait(), HANG_SECONDS)
        assert away.exists() and not sending.done()
        away.rename(path)
        done = await asyncio.wait_for(sending, HANG_SECONDS)
        assert faulty.struck == ["lost", "lost"]
        assert done[0] == "s0"
        assert all(isinstance(error, StoreUnavailable) for error in done[1:])
        assert [found.id for found in await store.page(Filter())] == ["s0"]


async def test_units_behind_a_poisoned_one_still_fill_the_queue(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """Units that were taken from the queue and not written still count as waiting."""
    waiting: list[int] = []
    async with opened(tmp_path, faulty) as store:
        faulty.plan[:] = ["lost", "ok", "lost"]
        reopen = store._connections.reopen

        async def counted() -> SqliteHome:
            waiting.append(store.queued)
            return await reopen()

        store._connections.reopen = counted  # type: ignore[method-assign]
        await in_one_batch(store, *(inserting(f"s{n}") for n in range(5)))
        assert waiting == [0, 3]


@pytest.mark.parametrize("where", ["begin", "number", "run_units"])
async def test_an_error_that_is_none_of_the_database_does_not_end_the_writer(
    tmp_path: Path, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """No memory for a moment: its batch is in doubt, and the stage is not ready until it is over.

    The writer ended for good, and the stage was ready all the same.
    """
    async with opened(tmp_path, faulty) as store:
        assert "s-0" == await store.transact(inserting("s-0"))
        with monkeypatch.context() as patched:

            async def without_memory(*_: object, **__: object) -> None:
                raise MemoryError("for a test")

            patched.setattr(SqliteConnection, where, without_memory)
            with pytest.raises(CommitInDoubt, match="MemoryError: for a test"):
                await store.transact(inserting("s-1"))
            assert not store.available and "MemoryError" in store.trouble
        await until(lambda: store.available)
        assert "s-1" == await store.transact(inserting("s-1"))
        assert ["s-0", "s-1"] == [found.id for found in await store.page(Filter())]


async def test_an_error_among_units_that_run_one_by_one_answers_each_of_them_once(
    tmp_path: Path, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It strikes the second of a batch that was lost: none is said to be written that is not.

    And none is written behind its answer.
    """
    runs: list[str] = []
    strikes = [MemoryError("for a test")]
    async with opened(tmp_path, faulty) as store:
        number = SqliteConnection.number

        async def struck(self: SqliteConnection, given: int) -> None:
            if strikes and runs.count("s1") == 2:
                raise strikes.pop()
            await number(self, given)

        monkeypatch.setattr(SqliteConnection, "number", struck)
        faulty.plan[:] = ["lost"]
        done = await in_one_batch(store, *(counting(f"s{n}", runs) for n in range(4)))
        assert [] == strikes and all(isinstance(error, CommitInDoubt) for error in done)
        await until(lambda: store.available)
        assert ["s0"] == [found.id for found in await store.page(Filter())]
        assert ["s0", "s1", "s2", "s3", "s0", "s1"] == runs


async def test_a_reopening_without_a_thread_is_tried_again(
    tmp_path: Path, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a limit of processes: the writer ended for good, and only a restart helped."""
    async with opened(tmp_path, faulty) as store:
        tries: list[int] = []
        connect = SqliteConnections._connect

        async def limited(self: SqliteConnections, check: Check) -> Bridge:
            tries.append(1)
            if len(tries) < 3:
                raise RuntimeError("can't start new thread")
            return await connect(self, check)

        monkeypatch.setattr(SqliteConnections, "_connect", limited)
        faulty.plan[:] = ["lost"]
        assert "s-0" == await store.transact(inserting("s-0"))
        assert 3 == len(tries) and store.available


async def test_a_reopening_without_a_thread_for_its_look_leaves_no_connection_open(
    tmp_path: Path, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one would believe it about the log, and a commit in doubt is settled by the log."""
    async with opened(tmp_path, faulty) as store:
        before = [store._connections._writer, *store._connections._readers]
        refused: list[int] = []
        with monkeypatch.context() as patched:

            async def no_thread(*_: object) -> None:
                refused.append(1)
                raise RuntimeError("can't start new thread")

            patched.setattr(asyncio, "to_thread", no_thread)
            faulty.plan[:] = ["lost"]
            assert "s-0" == await store.transact(inserting("s-0"))
        assert refused
        assert not any(each is not None and each._thread._thread.is_alive() for each in before)


async def test_the_thread_goes_when_the_task_of_the_writer_is_cancelled(tmp_path: Path) -> None:
    """As a loop does that is torn down in the middle of `close`: the unit at work is in doubt."""
    store = SqliteStore(tmp_path / "stage.db")
    await store.open()
    at_work, free = threading.Event(), threading.Event()

    async def slow(unit: Unit) -> None:
        at_work.set()
        free.wait(HANG_SECONDS)

    sending = asyncio.ensure_future(store.transact(slow))
    await asyncio.to_thread(at_work.wait, HANG_SECONDS)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    writer = store._writer._task
    assert writer is not None
    writer.cancel()
    with pytest.raises(CommitInDoubt):
        await sending
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(closing, HANG_SECONDS)


async def test_a_commit_that_never_lands_is_reported(tmp_path: Path, faulty: type[Faulty]) -> None:
    """After the second failure the caller gets StoreUnavailable, and nothing was written."""
    async with opened(tmp_path, faulty) as store:
        faulty.plan[:] = ["lost", "lost"]
        with pytest.raises(StoreUnavailable, match="disk I/O error"):
            await store.transact(inserting("a"))
        assert faulty.struck == ["lost", "lost"]
        assert await store.get("a") is None
        assert await store.transact(inserting("a")) == "a"


async def test_a_repeat_that_landed_in_doubt_stands(tmp_path: Path, faulty: type[Faulty]) -> None:
    """The first COMMIT is lost, that of the repeat raises and landed: the unit returns."""
    async with opened(tmp_path, faulty) as store:
        faulty.plan[:] = ["lost", "landed"]
        assert await store.transact(inserting("a")) == "a"
        assert faulty.struck == ["lost", "landed"]
        assert await store.get("a") == row("a")


async def test_a_full_disk_makes_the_store_unavailable(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """Units raise StoreUnavailable with the fix; it is available again by itself."""
    async with opened(tmp_path, faulty) as store:
        faulty.refuse = True
        with pytest.raises(StoreUnavailable, match=r"full.*make room"):
            await store.transact(inserting("a"))
        assert store.available is False
        faulty.refuse = False
        await until(lambda: store.available)
        assert faulty.struck
        assert await store.transact(inserting("a")) == "a"


async def test_a_disk_that_is_full_within_a_unit_fails_it_even_if_swallowed(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """A unit cannot succeed past an error that says the database is away."""

    async def greedy(unit: Unit) -> None:
        await unit.tx.execute("CREATE TABLE payment (id TEXT, body BLOB)")
        with suppress(StoreUnavailable):
            await unit.tx.execute(
                "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 9999)"
                " INSERT INTO payment SELECT 'x', zeroblob(4000) FROM n"
            )

    store = SqliteStore(
        tmp_path / "stage.db", factory=SmallDisk, limits=SqliteLimits(retry_seconds=0.01)
    )
    await store.open()
    try:
        with pytest.raises(StoreUnavailable, match="make room"):
            await store.transact(greedy)
        with pytest.raises(sqlite3.OperationalError, match="no such table: payment"):
            await store.transact(lambda unit: unit.tx.fetchall("SELECT id FROM payment"))
        assert await store.transact(inserting("a")) == "a"
        assert store.available
    finally:
        await store.close()


class SmallDisk(Faulty):
    """A connection to a file that may have a hundred pages and no more."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.execute("PRAGMA max_page_count = 100")


async def test_while_the_file_is_away_no_doubt_is_answered(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """A unit in doubt is held until the file is back, others are refused; then it is settled."""
    path = tmp_path / "stage.db"
    async with opened(tmp_path, faulty) as store:
        away = path.with_name("away.db")

        faulty.plan[:] = ["landed"]
        faulty.gates.append(lambda: path.rename(away))
        doubtful = asyncio.ensure_future(store.transact(inserting("a")))
        await until(lambda: away.exists() and not store.available)
        with pytest.raises(StoreUnavailable):
            await store.transact(inserting("b"))
        assert not doubtful.done()
        assert not path.exists()
        away.rename(path)
        assert await asyncio.wait_for(doubtful, HANG_SECONDS) == "a"
        assert await store.get("a") == row("a")
        assert await store.get("b") is None
