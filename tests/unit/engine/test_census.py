"""Counting every saga is asked for often and may take long."""

from __future__ import annotations

import asyncio

import pytest

from stage.core.errors import StoreUnavailable
from stage.core.states import SagaState
from stage.engine.embedded.census import (
    LONG_SECONDS,
    MANY_SAGAS,
    PAUSE_FACTOR,
    Census,
    Counts,
)


class Slow:
    """A store whose query takes as long as it is told, on a clock of its own."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 100.0
        self.queries = 0
        self.away = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def count(self) -> Counts:
        """As many completed sagas as queries."""
        self.queries += 1
        await self.goes_on.wait()
        self.now += self.seconds
        if self.away:
            raise StoreUnavailable("away")
        return {SagaState.COMPLETED: self.queries}


async def test_a_quick_count_is_always_new() -> None:
    """It holds all that was answered before."""
    slow = Slow(LONG_SECONDS / 2)
    census = Census(slow.count, lambda: slow.now)
    seen = [(await census.read())[SagaState.COMPLETED] for _ in range(3)]
    assert [1, 2, 3] == seen


async def test_a_slow_count_is_not_repeated_soon() -> None:
    """It takes a twentieth of the time, however often it is asked for."""
    slow = Slow(40.0)
    census = Census(slow.count, lambda: slow.now)
    assert {SagaState.COMPLETED: 1} == await census.read()
    slow.now += 40.0 * PAUSE_FACTOR - 1.0
    assert {SagaState.COMPLETED: 1} == await census.read()
    slow.now += 2.0
    assert {SagaState.COMPLETED: 2} == await census.read()


async def test_all_that_ask_during_a_count_share_it() -> None:
    """Two scrapes and a page read the sagas once; one that goes away stops nobody."""
    slow = Slow(40.0)
    slow.goes_on.clear()
    census = Census(slow.count, lambda: slow.now)
    gone, *others = [asyncio.create_task(census.read()) for _ in range(3)]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    slow.goes_on.set()
    assert [{SagaState.COMPLETED: 1}] * 2 == await asyncio.gather(*others)
    assert 1 == slow.queries


async def test_a_count_that_failed_is_made_again() -> None:
    """A database that is back is asked at once."""
    slow = Slow(40.0)
    census = Census(slow.count, lambda: slow.now)
    slow.away = True
    with pytest.raises(StoreUnavailable):
        await census.read()
    slow.away = False
    assert {SagaState.COMPLETED: 2} == await census.read()


async def test_a_count_of_very_many_is_not_repeated_soon_however_quick() -> None:
    """It takes most of the time of the page that asks for it."""
    slow = Slow(0.1)
    slow.queries = MANY_SAGAS
    census = Census(slow.count, lambda: slow.now)
    first = await census.read()
    slow.now += 0.1 * PAUSE_FACTOR - 0.01
    assert first == await census.read()
    slow.now += 0.02
    assert first != await census.read()
