"""`python -m benchmarks.bloat`: whether the tables of a stage stay as small as their rows.

python -m benchmarks.bloat [--minutes 60] [--rate 100] [--window-minutes 10] [--over-minutes 0]

So many virtual minutes of load go through the store of a stage: each saga is inserted, saved twice
with its journal, and closed once its window is over. The server has its defaults but for the sync
of the disk. Autovacuum looks once in a real minute. Without `--over-minutes` the load goes as fast
as the machine can, an hour in some four minutes, and autovacuum looks four times instead of sixty;
with it the load takes at least so many real minutes, evenly. At the end each table is written anew
(VACUUM FULL): the bloat is the size before against the size after.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
from msgspec.structs import replace

from benchmarks import report
from benchmarks.machine import facts
from benchmarks.replicas import EVIDENCE, ROOT
from stage.core.events import Accepted, Event
from stage.core.states import SagaState
from stage.demo import postgres_server
from stage.ports.store import SagaRow, Unit
from stage.store.postgres.store import PostgresStore

TABLES = ("saga", "journal", "writer_batch", "replica")
SAGAS_AT_A_TIME = 256
"""Batches hold up to 64 of their units."""
SAVES = (4, 4)
"""Entries of the two saves behind the first entry: nine, as the demo's stage writes them."""
CLOSE_SAGAS_MAX = 500
EPOCH = 1_800_000_000.0
SIZE = "SELECT pg_table_size($1::text::regclass), pg_indexes_size($1::text::regclass)"
COUNTS = """
SELECT n_tup_upd, n_tup_hot_upd, n_live_tup, n_dead_tup, autovacuum_count
FROM pg_stat_user_tables WHERE schemaname = 'stage' AND relname = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One table at one moment."""

    minute: int
    table: str
    heap: int
    """In bytes, as `indexes`."""
    indexes: int
    updates: int
    hot: int
    live: int
    dead: int
    autovacuums: int


def main() -> int:
    """Send the load, look each ten minutes, write the tables anew."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.bloat", description=__doc__)
    options.add_argument("--minutes", type=int, default=60)
    options.add_argument("--rate", type=int, default=100)
    options.add_argument("--window-minutes", type=int, default=10)
    options.add_argument("--over-minutes", type=float, default=0.0, help="real ones")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    given = options.parse_args()
    with postgres_server.running("fsync=off") as server:
        url = server.url()
        began = time.monotonic()
        pace = 60.0 * given.over_minutes / given.minutes
        sizes = asyncio.run(_load(url, given.minutes, given.rate, given.window_minutes, pace))
        took = time.monotonic() - began
        written_anew = asyncio.run(_written_anew(url, given.minutes))
    bloat = _bloat(sizes, written_anew)
    for table, (heap, indexes) in bloat.items():
        print(f"{table:13} {heap:5.2f} of its size written anew, its indexes {indexes:5.2f}")
    evidence = {
        "machine": facts(ROOT),
        "minutes": given.minutes,
        "rate": given.rate,
        "window_minutes": given.window_minutes,
        "over_minutes": given.over_minutes,
        "seconds": took,
        "sizes": [asdict(size) for size in sizes],
        "written_anew": [asdict(size) for size in written_anew],
        "bloat": bloat,
    }
    print(f"written: {report.write(given.out, 'bloat', evidence)}")
    return 0


async def _load(url: str, minutes: int, rate: int, window: int, pace: float = 0.0) -> list[Size]:
    """Send it; a virtual minute takes `pace` seconds or longer."""
    store = PostgresStore(url)
    await store.open()
    sizes: list[Size] = []
    began = time.monotonic()
    for minute in range(minutes):
        await asyncio.sleep(began + pace * minute - time.monotonic())
        now = EPOCH + 60.0 * minute
        ids = [f"m{minute:04}-{number:06}" for number in range(60 * rate)]
        for first in range(0, len(ids), SAGAS_AT_A_TIME):
            await asyncio.gather(
                *(_saga(store, each, now) for each in ids[first : first + SAGAS_AT_A_TIME])
            )
        await _close(store, now - 60.0 * window, now)
        if (minute + 1) % 10 == 0 or minute + 1 == minutes:
            sizes += await _sizes(url, minute + 1)
    await store.close()
    return sizes


async def _saga(store: PostgresStore, saga_id: str, now: float) -> None:
    """One saga from its insert to its end."""
    row = _first(saga_id, now)
    await store.transact(partial(_insert, row=row))
    for number, added in enumerate(SAVES, 1):
        last = number == len(SAVES)
        row = replace(
            row,
            length=row.length + added,
            updated_at=now + number,
            state=SagaState.COMPLETED if last else SagaState.ACTIVE,
            due_at=None if last else row.due_at,
            answer_status=200 if last else None,
            answer_body=b"a" * 150 if last else b"",
        )
        await store.transact(partial(_save, row=row, added=added), deferrable=last)


def _first(saga_id: str, now: float) -> SagaRow:
    return SagaRow(
        id=saga_id,
        state=SagaState.ACTIVE,
        epoch=1,
        length=1,
        accepted_at=now,
        updated_at=now,
        fingerprint="f" * 64,
        parked="",
        due_at=now + 120.0,
        deadline=now + 30.0,
        envelope=b"e" * 300,
        traceparent="t" * 55,
        tracestate="",
        answer_status=None,
        answer_body=b"",
    )


def _events(row: SagaRow, added: int) -> Sequence[Event]:
    return [Accepted(at=row.updated_at, upstream="order") for _ in range(added)]


async def _insert(unit: Unit, *, row: SagaRow) -> None:
    await unit.insert(row, _events(row, 1))


async def _save(unit: Unit, *, row: SagaRow, added: int) -> None:
    await unit.save(row, _events(row, added), epoch=row.epoch)


async def _close(store: PostgresStore, before: float, now: float) -> None:
    async def close(unit: Unit) -> int:
        return await unit.close_ended(before, now, CLOSE_SAGAS_MAX)

    while await store.transact(close):
        pass


async def _sizes(url: str, minute: int) -> list[Size]:
    connection = await asyncpg.connect(url)
    try:
        return [await _size(connection, minute, table) for table in TABLES]
    finally:
        await connection.close()


async def _size(connection: Any, minute: int, table: str) -> Size:
    heap, indexes = await connection.fetchrow(SIZE, f"stage.{table}")
    updates, hot, live, dead, autovacuums = await connection.fetchrow(COUNTS, table)
    print(
        f"minute {minute:4} {table:13} {heap / 1e6:8.1f} MB, indexes {indexes / 1e6:7.1f} MB,"
        f" {live} live, {dead} dead, {autovacuums} autovacuums",
        flush=True,
    )
    return Size(
        minute=minute,
        table=table,
        heap=heap,
        indexes=indexes,
        updates=updates,
        hot=hot,
        live=live,
        dead=dead,
        autovacuums=autovacuums,
    )


async def _written_anew(url: str, minute: int) -> list[Size]:
    connection = await asyncpg.connect(url)
    try:
        for table in TABLES:
            await connection.execute(f"VACUUM (FULL, ANALYZE) stage.{table}")
        return [await _size(connection, minute, table) for table in TABLES]
    finally:
        await connection.close()


def _bloat(sizes: Sequence[Size], written_anew: Sequence[Size]) -> dict[str, tuple[float, float]]:
    """By table: how many times the size written anew its heap was, and its indexes."""
    last = {size.table: size for size in sizes}
    return {
        size.table: (
            last[size.table].heap / max(1, size.heap),
            last[size.table].indexes / max(1, size.indexes),
        )
        for size in written_anew
    }


if __name__ == "__main__":
    sys.exit(main())
