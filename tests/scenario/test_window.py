"""The compensation window: after it the undo data is gone and a small tombstone stays (rule 21)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from tests.scenario.chain import running_chain
from tests.waits import until


async def closed(path: Path) -> None:
    """Return when a saga is: nobody is notified of it, for it is housekeeping."""

    def count() -> int:
        with closing(sqlite3.connect(path)) as database:
            sql = "SELECT count(*) FROM saga WHERE closed_at IS NOT NULL"
            return int(database.execute(sql).fetchone()[0])

    await until(count)


async def test_after_the_window_it_cannot_be_undone_and_still_answers(tmp_path: Path) -> None:
    """Duplicates get the stored bytes, compensate gets 409, journal and payload are gone."""
    async with running_chain(tmp_path, compensation_window_seconds=0.0) as chain:
        first = await chain.send("s-1")
        await closed(tmp_path / "payment.db")
        again = await chain.send("s-1")
        assert (first[0], first[2], "true") == (
            again[0],
            again[2],
            again[1]["Idempotency-Replayed"],
        )
        assert (
            422 == (await chain.send("s-1", {"order_id": "x", "amount": 1, "currency": "KRW"}))[0]
        )
        status, _, body = await chain.compensate("s-1")
        assert (409, "executed") == (status, msgspec.json.decode(body)["outcome"])
        assert (1, 1) == await chain.charges()
        assert "completed" == (await chain.view("s-1"))["state"]
    with closing(sqlite3.connect(tmp_path / "payment.db")) as database:
        assert [(0,)] == database.execute("SELECT count(*) FROM journal").fetchall()


async def test_within_the_window_nothing_is_closed(tmp_path: Path) -> None:
    """Completed long ago is still compensable while the window lasts."""
    async with running_chain(tmp_path, compensation_window_seconds=60.0) as chain:
        await chain.send("s-1")
        assert 200 == (await chain.compensate("s-1"))[0]
        assert (1, 0) == await chain.charges()
