"""A transaction can await nothing but its own database (DESIGN 1.6, 2)."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import msgspec
import pytest

from stage import Saga, Stage, Tx
from stage.demo.payment import Order
from tests.scenario.chain import running_chain

MIGRATION = "CREATE TABLE note (saga_id TEXT PRIMARY KEY);"


def escaping(folder: Path, how: str) -> Stage[Order, Order]:
    """A stage whose transaction writes a row and then awaits something foreign."""
    (folder / "migrations").mkdir()
    (folder / "migrations" / "0001_note.sql").write_text(MIGRATION)
    stage: Stage[Order, Order] = Stage("payment", accepts=Order, migrations=folder / "migrations")

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        await tx.execute("INSERT INTO note VALUES (?)", saga.id)
        if how == "http":
            async with aiohttp.ClientSession() as session:
                await session.get("http://127.0.0.1:9/")
        else:
            await asyncio.sleep(0)

    return stage


@pytest.mark.parametrize("how", ["http", "sleep"])
async def test_it_is_stopped_with_the_reason_and_leaves_no_row(tmp_path: Path, how: str) -> None:
    """The answer names the function, the saga the rule; the database transaction is rolled back."""
    stage = escaping(tmp_path, how)
    async with running_chain(tmp_path, stage=stage) as chain:
        status, _, body = await chain.send("s-1")
        problem = msgspec.json.decode(body)
        assert (409, False) == (status, problem["retryable"])
        assert "reserve" in problem["detail"]
        reason = (await chain.view("s-1"))["reason"]
        assert "a transaction may only await its own database" in reason
        assert await chain.shipped("s-1") is None
    with closing(sqlite3.connect(tmp_path / "payment.db")) as database:
        assert [(0,)] == database.execute("SELECT count(*) FROM note").fetchall()
