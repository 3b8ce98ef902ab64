"""A saga that may have been dropped is refused by every replica, under every clock."""

from __future__ import annotations

from typing import cast

import pytest
from msgspec.structs import replace

from stage.core.states import SagaState
from stage.core.unseen import first_id_at
from stage.engine.clock import SystemClock
from stage.engine.embedded.limits import EngineLimits
from stage.engine.embedded.retention import Retention
from stage.engine.saga.dropped import LOOK_AGE_SECONDS, DroppedRows
from stage.ports.engine import PastRetention
from stage.ports.store import Dropped, Store, Unit
from stage.store.memory import MemoryStore
from stage.store.memory_database import NAMELESS, MemoryDatabase
from stage.telemetry.null import NullObserver
from tests.unit.store.given import inserting, row

NOW = 1_795_401_000.0
DAY = 86_400.0


class Set(SystemClock):
    """A clock that shows what a test says."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.shown = now

    def now(self) -> float:
        """See `ports.clock.Clock`."""
        return self.shown


def dated(at: float, last: int = 1) -> str:
    """A UUIDv7 of that instant."""
    return f"{first_id_at(at)}000-8000-{last:012x}"


async def ended(store: Store, saga_id: str, at: float) -> None:
    """A saga that completed, and was closed, at that instant."""
    over = row(saga_id, state=SagaState.COMPLETED)
    await store.transact(inserting(saga_id, over))
    assert 1 == await store.transact(lambda unit: unit.close_ended(NOW + 99 * DAY, at, 9))


async def refused(dropped: DroppedRows, store: Store, saga_id: str) -> bool:
    """Whether an opening of that saga is refused."""
    try:
        await store.transact(lambda unit: dropped.refuse_in(unit, saga_id))
    except PastRetention:
        return True
    return False


async def replicas() -> tuple[MemoryStore, MemoryStore]:
    """Two stores over one database."""
    database = MemoryDatabase()
    first, second = (MemoryStore(database=database, exclusive=False) for _ in range(2))
    for store in (first, second):
        await store.open()
    return first, second


async def test_a_drop_by_another_replica_is_looked_for_in_the_unit() -> None:
    """A mark that was read before says nothing of what was dropped since."""
    here, there = await replicas()
    saga_id = dated(NOW - 9 * DAY)
    await ended(here, saga_id, NOW - 8 * DAY)
    dropped = DroppedRows(there, Set(NOW))
    await dropped.refresh()
    assert not await refused(dropped, there, saga_id)
    assert 1 == await here.transact(lambda unit: unit.drop_rows(NOW - 7 * DAY, 9))
    assert 0.0 == dropped.known.ids_until
    assert await refused(dropped, there, saga_id)
    assert not await refused(dropped, there, dated(NOW - 9 * DAY + 1))
    assert not await refused(dropped, there, "o-1")


@pytest.mark.parametrize("ahead", [30 * DAY, 3_650 * DAY])
async def test_a_clock_that_was_ahead_lets_nothing_run_twice(ahead: float) -> None:
    """It drops too early, and its mark goes no further than what it dropped: new ones are run."""
    store = MemoryStore()
    await store.open()
    clock = Set(NOW + ahead)
    dropped = DroppedRows(store, clock)
    limits = EngineLimits(rows_retention_seconds=7 * DAY)
    retention = Retention(store, NullObserver(), clock, limits, dropped)
    saga_id = dated(NOW - 60)
    await ended(store, saga_id, NOW - 50)
    await retention._round()
    assert frozenset() == await store.seen([saga_id])
    clock.shown = NOW
    assert await refused(dropped, store, saga_id)
    assert await refused(dropped, store, dated(NOW - 61, 2))  # maybe it was dropped, maybe not
    assert not await refused(dropped, store, dated(NOW))
    again = DroppedRows(store, clock)  # the next process
    await again.refresh()
    assert await refused(again, store, saga_id)


async def test_one_id_from_ahead_lets_no_clock_refuse_new_sagas() -> None:
    """It is of a neighbour whose clock was ahead too, or it was made up."""
    store = MemoryStore()
    await store.open()
    clock = Set(NOW + 30 * DAY)
    dropped = DroppedRows(store, clock)
    limits = EngineLimits(rows_retention_seconds=7 * DAY)
    await ended(store, dated(NOW + 20 * DAY), NOW - 50)
    await Retention(store, NullObserver(), clock, limits, dropped)._round()
    clock.shown = NOW
    assert not await refused(dropped, store, dated(NOW))


async def test_nothing_is_dropped_of_a_restored_database_before_its_release() -> None:
    """Its neighbours are asked what they know of its sagas."""
    restored = replace(NAMELESS, restored_as_of=NOW - DAY, restored_at=NOW)
    database = MemoryDatabase(identity=restored)
    store = MemoryStore(database=database)
    await store.open()
    limits = EngineLimits(rows_retention_seconds=7 * DAY, answers_retention_seconds=7 * DAY)
    saga_id = dated(NOW - 90 * DAY)
    await ended(store, saga_id, NOW - 80 * DAY)
    dropped = DroppedRows(store, Set(NOW))
    retention = Retention(store, NullObserver(), Set(NOW), limits, dropped)
    await retention._round()
    kept = await store.get(saga_id)
    assert kept is not None and not kept.answer_dropped
    database.identity = replace(restored, released_at=NOW)
    await retention._round()
    assert await refused(dropped, store, saga_id)


async def test_the_mark_is_read_once_for_many_sagas() -> None:
    """Starts that are shed at once, or ids that were made up, cost one read together."""
    here, there = await replicas()
    old = [dated(NOW - 9 * DAY, last) for last in range(9)]
    await ended(here, old[0], NOW - 8 * DAY)
    assert 1 == await here.transact(lambda unit: unit.drop_rows(NOW - 7 * DAY, 9))
    looks = Looks(there)
    dropped = DroppedRows(cast(Store, looks), Set(NOW))
    assert frozenset(old) == await dropped.among([*old, dated(NOW), "o-1"])
    assert frozenset() == await dropped.among([dated(NOW), "o-1"])
    assert 1 == looks.count
    assert await dropped.has(old[3])
    assert not await dropped.has(dated(NOW))


class Looks:
    """A store that counts how often it is asked for the mark."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.count = 0

    async def dropped(self) -> Dropped:
        """See ports.store.Store."""
        self.count += 1
        return await self._store.dropped()


async def test_a_clock_that_is_behind_drops_nothing_too_early() -> None:
    """And what was dropped before is refused by it all the same."""
    store = MemoryStore()
    await store.open()
    clock = Set(NOW - 400 * DAY)
    dropped = DroppedRows(store, clock)
    limits = EngineLimits(rows_retention_seconds=7 * DAY, answers_retention_seconds=7 * DAY)
    retention = Retention(store, NullObserver(), clock, limits, dropped)
    saga_id = dated(NOW - 90 * DAY)
    await ended(store, saga_id, NOW - 80 * DAY)
    await retention._round()
    kept = await store.get(saga_id)
    assert kept is not None and not kept.answer_dropped
    assert 1 == await store.transact(lambda unit: unit.drop_rows(NOW - 7 * DAY, 9))
    await dropped.refresh()
    assert await refused(dropped, store, saga_id)


class Asked:
    """A unit that only says that it was asked."""

    async def dropped(self) -> Dropped:
        """See ports.store.Unit."""
        raise PastRetention("asked")


async def test_the_database_is_not_asked_about_an_id_of_today() -> None:
    """Every new saga would pay for it."""
    dropped = DroppedRows(MemoryStore(), Set(NOW))
    for saga_id in (dated(NOW - LOOK_AGE_SECONDS), "o-1"):
        await dropped.refuse_in(cast(Unit, Asked()), saga_id)
    with pytest.raises(PastRetention, match="asked"):
        await dropped.refuse_in(cast(Unit, Asked()), dated(NOW - LOOK_AGE_SECONDS - 1))
