"""Damaged pages and a disk that hangs: seen, said, and not forgotten (case 15)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stage.store.sqlite import watch
from tests.scenario.chain import Chain, running_chain
from tests.waits import until


async def ready(chain: Chain) -> int:
    """The code of the readiness probe."""
    return (await chain.request("GET", f"{chain.stage}/readyz"))[0]


async def value(chain: Chain, name: str) -> str:
    """A sample of the metrics; empty for none."""
    _, _, body = await chain.request("GET", f"{chain.stage}/metrics")
    found = [line for line in body.decode().splitlines() if line.startswith(name + " ")]
    return found[0].split()[1] if found else ""


async def until_counted(chain: Chain, count: str) -> None:
    """Return when so many sagas count as completed: a query that had begun knows none of later."""

    async def counted() -> bool:
        return count == await value(chain, 'stage_sagas{state="completed"}')

    await until(counted)


async def until_ready(chain: Chain, code: int) -> None:
    """Return when the readiness probe answers with that code."""

    async def answered() -> bool:
        return code == await ready(chain)

    await until(answered)


def damage(path: Path) -> None:
    """Overwrite every page behind the schema, as a broken disk does."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        roots = connection.execute("SELECT rootpage FROM sqlite_master WHERE rootpage > 0")
        pages = [page for (page,) in roots]
    descriptor = os.open(path, os.O_WRONLY)
    for page in pages:
        os.pwrite(descriptor, b"\xff" * size, (page - 1) * size)
    os.close(descriptor)


@pytest.mark.blocking
async def test_damaged_pages_make_it_not_ready_for_good(tmp_path: Path) -> None:
    """Found by the first statement that meets one; the gauges keep the last known values.

    The rest of the file may still be written to: that does not make it ready again.
    """
    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        # The answer does not wait for the last commit (decision 0011).
        await until_counted(chain, "1.0")
        assert 200 == await ready(chain)
        damage(tmp_path / "payment.db")
        for number in range(3):
            await chain.send(f"s-2{number}")
            await chain.request("GET", f"{chain.stage}/sagas")
        await until_ready(chain, 503)
        assert "1.0" == await value(chain, 'stage_sagas{state="completed"}')
        assert "1.0" == await value(chain, "stage_database_error")
        await asyncio.sleep(2 * watch.LOOK_SECONDS)
        assert 503 == await ready(chain)
        assert "0.0" == await value(chain, "stage_ready")


@pytest.mark.blocking
async def test_a_file_that_is_damaged_at_start_is_found_by_reading_all_of_it(
    tmp_path: Path,
) -> None:
    """Also where no statement has met the page: the whole file is checked once."""
    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1"))[0]
    with closing(sqlite3.connect(tmp_path / "payment.db")) as connection:
        connection.execute("CREATE TABLE archive (text TEXT)")
        connection.execute("INSERT INTO archive VALUES (?)", ("x" * 50_000,))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = "SELECT rootpage FROM sqlite_master WHERE name = 'archive'"
        (root,) = connection.execute(page).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    descriptor = os.open(tmp_path / "payment.db", os.O_WRONLY)
    os.pwrite(descriptor, b"\xff" * size, (root - 1) * size)
    os.close(descriptor)
    async with running_chain(tmp_path) as chain:
        await until_ready(chain, 503)


@pytest.mark.blocking
async def test_an_idle_stage_finds_out_that_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readiness comes from a write that was made, not from the last request: no sagas needed."""
    monkeypatch.setattr(watch, "PROBE_SECONDS", 0.1)
    async with running_chain(tmp_path) as chain:
        assert 200 == await ready(chain)
        with closing(sqlite3.connect(tmp_path / "payment.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            await until_ready(chain, 503)
            holder.execute("ROLLBACK")
        await until_ready(chain, 200)
