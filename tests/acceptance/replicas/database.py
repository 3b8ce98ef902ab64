"""The books of a stage on PostgreSQL: whether it rests, and a copy that the kills' books read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

RESTLESS = """
SELECT count(*) FROM stage.saga
WHERE due_at IS NOT NULL OR state IN ('active', 'compensating')
"""
COPIED = {
    "saga": "SELECT id, state, parked, epoch, due_at, fingerprint, traceparent FROM stage.saga",
    "journal": "SELECT saga_id, number, epoch, at, name, event FROM stage.journal",
    "ledger": "SELECT number, saga_id, step, direction FROM ledger",
}


async def resting(url: str) -> bool:
    """True when no saga needs a run."""
    connection = await asyncpg.connect(url)
    try:
        return not await connection.fetchval(RESTLESS)
    finally:
        await connection.close()


async def steps(url: str) -> dict[str, int]:
    """How often each step was executed, by the author's rows."""
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT step, count(*) FROM ledger WHERE direction = 1 GROUP BY 1"
        return {row[0]: row[1] for row in await connection.fetch(query)}
    finally:
        await connection.close()


async def copy(url: str, into: Path) -> None:
    """Copy what the books need into a SQLite file of that name."""
    connection = await asyncpg.connect(url)
    try:
        with closing(sqlite3.connect(into)) as books:
            for table, query in COPIED.items():
                _fill(books, table, await connection.fetch(query), query)
            books.commit()
    finally:
        await connection.close()


def _fill(books: sqlite3.Connection, table: str, rows: list[Any], query: str) -> None:
    columns = query.split(" FROM ")[0].removeprefix("SELECT ")
    books.execute(f"CREATE TABLE {table} ({columns})")
    marks = ", ".join("?" for _ in columns.split(","))
    values = (
        tuple(value.decode() if isinstance(value, bytes) else value for value in row)
        for row in rows
    )
    books.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
