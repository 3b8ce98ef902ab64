"""The plans of PostgreSQL: each statement uses an index, so that old sagas cost nothing."""

from __future__ import annotations

import asyncpg
import pytest

from benchmarks.plans import INDEXED, Plan, fill, plans
from stage.store.postgres.store import PostgresStore

SAGAS = 40_000


async def planned(url: str) -> dict[str, Plan]:
    """The plans over a database of so many sagas."""
    store = PostgresStore(url)
    await store.open()
    connection = await asyncpg.connect(url)
    try:
        await fill(connection, SAGAS)
        return {plan.name: plan for plan in await plans(url)}
    finally:
        await connection.close()
        await store.close()


@pytest.mark.timeout(100)
async def test_no_statement_reads_all_sagas(postgres_url: str) -> None:
    """Neither claims nor lists nor metrics; the count by state reads an index alone."""
    found = await planned(postgres_url)
    assert set(INDEXED) == set(found)
    assert {} == {name: plan.scanned for name, plan in found.items() if plan.scanned}
    assert ("saga_rests",) == found["claim_due"].indexes[-1:]
    assert "saga_owner" in found["claim_dead"].indexes
    assert {"saga_rests", "saga_owner"} <= set(found["backlog"].indexes)
    assert ("saga_state",) == found["count_sagas"].indexes
