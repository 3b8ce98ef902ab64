"""The plans of PostgreSQL: each statement uses an index, so that old sagas cost nothing."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

import asyncpg
import pytest

from benchmarks.plans import INDEXED, Plan, fill, plans
from stage.core.states import SagaState
from stage.ports.store import Changes, SagaRow, Unit
from stage.store.postgres.store import PostgresStore
from tests.unit.store.given import AT, inserting, longer, parked, row

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
    assert {"saga_owner"} == set(found["recall_forgotten"].indexes) - {"replica_pkey"}
    assert {"saga_rests", "saga_owner"} <= set(found["backlog"].indexes)
    assert {"saga_state", "saga_out"} == set(found["count_sagas"].indexes)
    assert {"saga_over", "saga_unmarked", "saga_given_up"} <= set(found["close_ended"].indexes)
    assert "saga_answer_kept" in found["drop_answers"].indexes
    assert "saga_row_kept" in found["drop_sagas"].indexes
    assert {"saga_rested", "saga_unmarked"} <= set(found["page_changed"].indexes)
    assert ("saga_state",) == found["page_states"].indexes
    assert "saga_rested" in found["page_since"].indexes
    assert not {"saga_state", "saga_waits"} & set(found["page_since"].indexes)
    assert ("saga_places",) == found["group_waiting"].indexes


async def test_the_saves_of_a_run_touch_no_index(postgres_url: str) -> None:
    """Of three saves only the last, which ends the saga, writes to indexes; the rest are HOT."""
    store = PostgresStore(postgres_url)
    await store.open()
    rows = [row("a", due_at=AT + 60)]
    for number in (1, 2):
        rows.append(longer(rows[-1], 2, updated_at=AT + number, epoch=1 + number))
    rows.append(longer(rows[-1], 2, state=SagaState.COMPLETED, due_at=None))
    await store.transact(inserting("a", rows[0]))
    for before, after in pairwise(rows):
        await store.transact(partial(_save, after=after, epoch=before.epoch))
    await store.close()  # a connection reports its counts at its end
    assert (3, 2) == await _updates(postgres_url, 3)


async def _save(unit: Unit, *, after: SagaRow, epoch: int) -> None:
    await unit.save(after, parked(), epoch=epoch)


async def _updates(url: str, expected: int) -> tuple[int, int]:
    """The updates of sagas, once there are so many, and those of them that touched no index."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(60):
            while True:
                found = await connection.fetchrow(
                    "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
                    " WHERE schemaname = 'stage' AND relname = 'saga'"
                )
                if found[0] >= expected:
                    return found[0], found[1]
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def test_a_saga_that_ended_before_the_upgrade_is_found_and_closed(postgres_url: str) -> None:
    """An upgrade writes no old saga: it has no mark until it is closed, and others have one."""
    store = PostgresStore(postgres_url)
    await store.open()
    ended = [row(f"s{n}", state=SagaState.COMPLETED) for n in range(4)]
    for each in ended:
        await store.transact(inserting(each.id, each))
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("UPDATE stage.saga SET rested_at = NULL WHERE id IN ('s0', 's3')")
    changed = [each.id for each in await store.changed(Changes(at=AT, saga_id="", limit=3))]
    behind = await store.changed(Changes(at=AT + 1, saga_id="s2", limit=3))
    assert (["s0", "s1", "s2"], ["s3"]) == (changed, [each.id for each in behind])
    closed = [
        await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 3, 3)) for _ in range(3)
    ]
    assert [3, 1, 0] == closed
    await connection.close()
    await store.close()


async def test_the_release_before_marks_too(postgres_url: str) -> None:
    """A saga that waits, ends or runs again is marked by whoever writes the row."""
    store = PostgresStore(postgres_url)
    await store.open()
    await store.transact(inserting("a", row("a", due_at=AT + 60)))
    connection = await asyncpg.connect(postgres_url)
    seen = []
    for change in (
        "state = 'completed', due_at = NULL, updated_at = 5",
        "state = 'compensating', due_at = 9, updated_at = 6",
        "step = 'charge', updated_at = 7",
        "step = '', due_at = 10, updated_at = 8",
    ):
        await connection.execute(f"UPDATE stage.saga SET {change}")
        seen.append(await connection.fetchval("SELECT rested_at FROM stage.saga"))
    assert [5.0, None, 7.0, None] == seen
    await connection.close()
    await store.close()
