"""The load of the benchmark of bloat is what it says: saved twice, closed behind the window."""

from __future__ import annotations

import asyncpg

from benchmarks.bloat import _bloat, _load, _written_anew

CLOSED = "SELECT count(*) FILTER (WHERE closed_at IS NOT NULL), count(*) FROM stage.saga"


async def test_its_sagas_end_and_are_closed(postgres_url: str) -> None:
    """Of three minutes with a window of one, the first is closed, and its journal dropped."""
    assert await _load(postgres_url, minutes=3, rate=1, window=1)
    connection = await asyncpg.connect(postgres_url)
    assert (60, 180) == tuple(await connection.fetchrow(CLOSED))
    assert 120 * 9 == await connection.fetchval("SELECT count(*) FROM stage.journal")
    await connection.close()
    sizes = await _written_anew(postgres_url, 3)
    assert (1.0, 1.0) == _bloat(sizes, sizes)["journal"]
