"""Behind a start nothing is closed on the word of a clock that may have been wrong (rule 34)."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from stage.core.errors import NewerJournal, StoreUnavailable
from stage.core.states import SagaState
from stage.engine.clock import SystemClock
from stage.engine.embedded.limits import EngineLimits
from stage.engine.embedded.retention import Retention
from stage.engine.saga.dropped import DroppedRows
from stage.ports.store import Changes, SagaRow
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from tests.unit.store.given import inserting, row

NOW = 1_795_401_000.0
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


class Waits(SystemClock):
    """A clock that was set by so much, and the first wait that it is asked for."""

    def __init__(self, ahead: float) -> None:
        self._ahead = ahead
        self.waited: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def now(self) -> float:
        """See `ports.clock.Clock`."""
        return NOW + self._ahead

    async def sleep(self, seconds: float) -> None:
        """See `ports.clock.Clock`. It never ends."""
        self.waited.set_result(seconds)
        await asyncio.Event().wait()


class Unread(MemoryStore):
    """A store whose lists cannot be read."""

    error: Exception

    async def changed(self, since: Changes) -> list[SagaRow]:
        """See ports.store.Store."""
        raise self.error


async def first_wait(ahead: float, *changed: float, window: float = 7 * DAY) -> float:
    """How long the retention of a process waits that starts with that clock."""
    store = MemoryStore()
    await store.open()
    for number, at in enumerate(changed):
        over = replace(row(f"s-{number}", state=SagaState.COMPLETED), updated_at=at)
        await store.transact(inserting(over.id, over))
    clock = Waits(ahead)
    limits = EngineLimits(compensation_window_seconds=window)
    retention = Retention(store, NullObserver(), clock, limits, DroppedRows(store, clock))
    retention.start()
    try:
        return await clock.waited
    finally:
        retention.stop()
        await store.close()


@pytest.mark.parametrize(
    "ahead, seconds",
    [(0.0, 10 * MINUTE), (30 * MINUTE, HOUR), (2 * HOUR, 4 * HOUR), (30 * DAY, DAY)],
)
async def test_a_process_that_starts_with_a_clock_ahead_closes_later(
    ahead: float, seconds: float
) -> None:
    """As behind a jump that was seen: as long as the clock may have jumped, a day at most."""
    assert seconds == await first_wait(ahead, NOW - 5 * DAY, NOW - MINUTE)


async def test_it_waits_no_longer_than_is_of_use() -> None:
    """With nothing to close, and for a window that is shorter."""
    assert 10 * MINUTE == await first_wait(30 * DAY)
    assert MINUTE == await first_wait(30 * DAY, NOW - MINUTE, window=MINUTE)
    assert 2 * HOUR == await first_wait(30 * DAY, NOW - MINUTE, window=2 * HOUR)


@pytest.mark.parametrize(
    "error", [NewerJournal("another release reads it"), StoreUnavailable("away"), LookupError()]
)
async def test_a_list_that_cannot_be_read_ends_no_retention(error: Exception) -> None:
    """It begins a day later. It had ended for as long as the process lived, without a word."""
    store = Unread()
    store.error = error
    await store.open()
    clock = Waits(0.0)
    limits = EngineLimits(compensation_window_seconds=7 * DAY)
    retention = Retention(store, NullObserver(), clock, limits, DroppedRows(store, clock))
    retention.start()
    try:
        async with asyncio.timeout(5.0):
            assert DAY == await clock.waited
    finally:
        retention.stop()
        await store.close()
