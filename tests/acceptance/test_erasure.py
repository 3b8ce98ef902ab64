"""F31: of erased sagas no byte is left in the files of the database, nor in a backup of them."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import msgspec
import pytest

from stage.demo.postgres_server import Server
from stage.store.postgres import scrub
from stage.store.sqlite import connection
from tests.kits import Strikes
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.scenario.test_operator import WHO, do
from tests.sizes import SIZES

TABLES = ("saga", "journal", "saga_term", "signal", "lost_saga")
AT_ONCE = 8
RATE = 200.0
SWEPT_SECONDS_MAX = 90.0
CANARY = re.compile(rb"canary-[0-9]{6}-[a-z]+")


async def lived(chain: Chain, count: int) -> list[str]:
    """Sagas with a canary in the payload; every second was undone, with another in the words."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            data = {**ORDER, "customer": f"canary-{number:06}-data"}
            assert 200 == (await chain.send(f"s-{number}", data))[0]
            if number % 2:
                reason = f"canary-{number:06}-words"
                assert 200 == (await chain.compensate(f"s-{number}", reason=reason))[0]

    await asyncio.gather(*(one(number) for number in range(count)))
    return [f"s-{number}" for number in range(count)]


async def erased(chain: Chain, ids: list[str]) -> None:
    """Erase them by one sweep, and wait for its end."""
    order = {**WHO, "verb": "erase", "saga_ids": ids, "rate_per_second": RATE}
    url = f"{chain.stage}/sweeps"
    status, _, body = await chain.request("POST", url, msgspec.json.encode(order))
    assert 200 == status, body
    number = msgspec.json.decode(body)["number"]
    async with asyncio.timeout(SWEPT_SECONDS_MAX):
        while True:
            sweep = await chain.get(f"{url}/{number}")
            if sweep["state"] == "done":
                break
            await asyncio.sleep(0.1)  # nobody tells that it is
    assert (len(ids), 0) == (sweep["done"], sweep["refused"])


async def answered(chain: Chain, ids: list[str]) -> None:
    """Duplicates get what they got before, without contents, and nothing is charged again."""
    before = await chain.charges()
    for number, saga_id in enumerate(ids[:10]):
        status, _, body = await chain.send(saga_id, ORDER)
        assert (410 if number % 2 else 200) == status
        assert not CANARY.search(body)
    assert before == await chain.charges()


def beside(database: Path) -> list[Path]:
    """The file, its log, and whatever else has its name."""
    return sorted(database.parent.glob(f"{database.name}*"))


def found(*files: Path) -> set[bytes]:
    """The canaries in the bytes of these files."""
    return {each for file in files for each in CANARY.findall(file.read_bytes())}


@pytest.mark.kit("F31")
@pytest.mark.timeout(600)
@pytest.mark.blocking
async def test_a_file_and_its_backup_hold_no_erased_byte(tmp_path: Path, strikes: Strikes) -> None:
    """SQLite: the file, its log, and a copy of its pages that is made afterwards."""
    database, backup = tmp_path / "payment.db", tmp_path / "backup.db"
    async with running_chain(tmp_path) as chain:
        ids = await lived(chain, SIZES.erasures)
        held = found(*beside(database))
        assert len(held) >= len(ids)
        await erased(chain, ids)
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        left = found(*beside(database), backup)
        await answered(chain, ids)
    strikes.report("sagas", len(ids), violations=len(left), note=f"{len(held)} canaries on SQLite")
    assert set() == left


@pytest.mark.blocking
async def test_the_search_finds_what_a_scrub_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted defect: the log is not emptied."""
    monkeypatch.setattr(connection, "_EMPTY_LOG", "SELECT 0")
    async with running_chain(tmp_path) as chain:
        await erased(chain, await lived(chain, 2))
        assert found(*beside(tmp_path / "payment.db"))


@pytest.mark.kit("F31")
@pytest.mark.timeout(600)
@pytest.mark.blocking
async def test_the_tables_of_a_server_hold_no_erased_byte(
    tmp_path: Path, postgres: Server, postgres_url: str, strikes: Strikes
) -> None:
    """PostgreSQL: the files of the tables and of their indexes, and a dump of all rows."""
    name = postgres_url.rsplit("/", 1)[1]
    count = max(10, SIZES.erasures // 10)
    async with running_chain(tmp_path, database=postgres_url) as chain:
        ids = await lived(chain, count)
        postgres.sql("CHECKPOINT", name)
        held = found(*_files(postgres, name))
        assert len(held) >= count
        await erased(chain, ids)
        postgres.sql("CHECKPOINT", name)
        left = found(*_files(postgres, name))
        dumped = "".join(postgres.sql(f"SELECT * FROM stage.{table}", name) for table in TABLES)
        left |= set(CANARY.findall(dumped.encode()))
        await answered(chain, ids)
    strikes.report("sagas", count, violations=len(left), note=f"{len(held)} on PostgreSQL")
    assert set() == left


@pytest.mark.blocking
async def test_erased_is_not_said_while_a_dump_keeps_the_bytes(
    tmp_path: Path, postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer names the session; erased again after its end, no byte is left."""
    monkeypatch.setattr(scrub, "SNAPSHOTS_SECONDS_MAX", 0.0)
    name = postgres_url.rsplit("/", 1)[1]
    async with running_chain(tmp_path, database=postgres_url) as chain:
        (saga_id,) = await lived(chain, 1)
        dump = await asyncpg.connect(postgres_url)
        await dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class")
        status, problem = await do(chain, saga_id, "erase")
        await dump.close()
        assert (500, True) == (status, "keeps deleted rows for session" in problem["detail"])
        monkeypatch.undo()
        assert 200 == (await do(chain, saga_id, "erase"))[0]
        postgres.sql("CHECKPOINT", name)
        assert set() == found(*_files(postgres, name))


def _files(postgres: Server, name: str) -> list[Path]:
    """The files of our tables, of what is stored apart of their rows, and of their indexes."""
    folder = Path(postgres.sql("SHOW data_directory", name).strip())
    paths = postgres.sql(
        "SELECT pg_relation_filepath(c.oid) FROM pg_class c WHERE c.oid IN ("
        " SELECT t.oid FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE n.nspname = 'stage' UNION"
        " SELECT t.reltoastrelid FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE n.nspname = 'stage') AND c.relkind IN ('r', 'i', 't')",
        name,
    )
    return [file for path in paths.split() for file in folder.glob(f"{path}*") if file.is_file()]
