"""The virtual loop: time jumps, order is kept, a process lives and dies whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from stage.simulation.loop import EPOCH, Process, Stuck, VirtualClock, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_a_year_passes_at_once(loop: VirtualLoop) -> None:
    """Nothing waits for real: time is where the next timer is."""
    clock = VirtualClock(loop)

    async def sleep() -> float:
        await clock.sleep(365 * 86_400.0)
        return clock.now()

    assert EPOCH + 365 * 86_400.0 == loop.run_until_complete(sleep())


def test_timers_of_one_instant_run_in_the_order_in_which_they_were_set(loop: VirtualLoop) -> None:
    """So that a seed gives the same world."""
    fired: list[int] = []
    for number in range(50):
        loop.call_later(1.0, fired.append, number)
    cancelled = loop.call_later(1.0, fired.append, 99)
    cancelled.cancel()
    loop.run_until_complete(asyncio.sleep(2.0))
    assert list(range(50)) == fired
    assert cancelled.cancelled()


def test_a_wait_for_something_that_never_comes_is_stuck(loop: VirtualLoop) -> None:
    """A deadlock is an error and no endless wait."""
    with pytest.raises(Stuck):
        loop.run_until_complete(loop.create_future())


def test_a_failing_callback_is_a_complaint(loop: VirtualLoop) -> None:
    """Nobody else would hear of it."""
    loop.call_soon(lambda: 1 / 0)
    loop.run_until_complete(asyncio.sleep(0))
    assert 1 == len(loop.complaints)
    assert "division" in loop.complaints[0]


def test_a_dead_process_does_nothing_more(loop: VirtualLoop) -> None:
    """Its tasks are cancelled, and what they make afterwards dies too."""
    ticks: list[str] = []

    async def tick(name: str) -> None:
        while True:
            await asyncio.sleep(1.0)
            ticks.append(name)

    async def story() -> None:
        one, other = Process(loop, "one"), Process(loop, "other")
        tasks = [one.spawn(tick("one")), other.spawn(tick("other"))]
        await asyncio.sleep(2.5)
        one.kill()
        await asyncio.sleep(2.0)
        other.kill()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_until_complete(story())
    assert ["one", "other", "one", "other", "other", "other"] == ticks


def test_a_paused_process_stands_at_its_next_door(loop: VirtualLoop) -> None:
    """And goes on from there when it is resumed."""
    passed: list[float] = []

    async def work(process: Process) -> None:
        await process.gate()
        passed.append(loop.time())

    async def story() -> None:
        process = Process(loop, "one")
        process.pause()
        task = process.spawn(work(process))
        await asyncio.sleep(5.0)
        assert [] == passed and process.held
        process.resume()
        await task

    loop.run_until_complete(story())
    assert [5.0] == passed
