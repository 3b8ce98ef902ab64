"""The watchdog: what blocks a thread for long is reported once, with its saga, step and stack."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from stage.engine import watchdog
from stage.engine.watchdog import LOOK_SECONDS, Watchdog
from stage.ports.author_code import StuckCode, Thread
from stage.store.suspects import SuspectsPage

STUCK_SECONDS = 2 * LOOK_SECONDS
"""Two looks."""
WAIT_SECONDS_MAX = 10.0


class Watched:
    """A watchdog, and what it has reported."""

    def __init__(self) -> None:
        self.reports: list[StuckCode] = []
        self.dog = Watchdog(SuspectsPage(None), self.reports.append, stuck_seconds=STUCK_SECONDS)

    def author_code(self, until: Callable[[], object]) -> threading.Thread:
        """A function of an author in a thread of its own, which ends when `until` does."""

        def function() -> None:
            self.dog.entered("s-1", "reserve")
            until()
            self.dog.left("s-1", "reserve", ended=True)

        thread = threading.Thread(target=function)
        thread.start()
        return thread


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not holds():  # noqa: ASYNC110 - a thread does it
            await asyncio.sleep(0.02)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    watched.dog.start()
    yield watched
    watched.dog.stop()


@pytest.fixture
async def by_hand(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """It looks only when the test says so: a slow machine changes nothing."""
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 3_600.0)
    watched = Watched()
    watched.dog.start()
    yield watched
    watched.dog.stop()


async def looks(watched: Watched, count: int) -> None:
    """So many looks, each of which the event loop answers."""
    for _ in range(count):
        watched.dog.look_once()
        await asyncio.sleep(0)


async def test_a_function_that_does_not_end_is_reported_once(by_hand: Watched) -> None:
    """While it lasts the stage is not ready; afterwards it is again."""
    entered, enough = threading.Event(), threading.Event()

    def never_ending() -> None:
        entered.set()
        enough.wait(WAIT_SECONDS_MAX)

    thread = by_hand.author_code(never_ending)
    assert entered.wait(WAIT_SECONDS_MAX)
    await looks(by_hand, 1)
    stuck = [by_hand.dog.stuck]
    await looks(by_hand, 4)
    (report,) = by_hand.reports
    assert (Thread.WRITER, "s-1", "reserve") == (report.thread, report.saga_id, report.step)
    assert any("never_ending" in call for call in report.stack), report.stack
    stuck.append(by_hand.dog.stuck)
    enough.set()
    thread.join()
    await looks(by_hand, 1)
    stuck.append(by_hand.dog.stuck)
    assert [False, True, False] == stuck


async def test_a_loop_that_answers_at_once_is_asked_again(
    by_hand: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread may run before that of the watchdog goes on: the answer must not get lost."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def at_once(answer: Callable[[int], None], question: int) -> None:
        asked.append(question)
        answer(question)

    monkeypatch.setattr(loop, "call_soon_threadsafe", at_once)
    await looks(by_hand, 5)
    assert 5 == len(set(asked))
    assert not by_hand.dog.stuck
    assert [] == by_hand.reports


async def test_many_short_functions_are_no_long_one(by_hand: Watched) -> None:
    """Each look finds the thread at work, and another function in it."""
    began, over = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        for _ in range(60):
            by_hand.dog.entered("s-1", "reserve")
            began.release()
            over.acquire(timeout=WAIT_SECONDS_MAX)
            by_hand.dog.left("s-1", "reserve", ended=True)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(60):
        assert began.acquire(timeout=WAIT_SECONDS_MAX)
        await looks(by_hand, 1)
        over.release()
    thread.join(WAIT_SECONDS_MAX)
    assert [] == by_hand.reports
    assert not by_hand.dog.stuck


@pytest.mark.blocking
async def test_a_blocked_event_loop_is_reported_with_what_blocks_it(watched: Watched) -> None:
    """Whether a function of a step blocks it, or code that is nobody's."""
    for saga_id in ("s-1", ""):
        if saga_id:
            watched.dog.entered(saga_id, "charge")
        time.sleep(STUCK_SECONDS + 4 * LOOK_SECONDS)  # noqa: ASYNC251 - that is what is tested
        if saga_id:
            watched.dog.left(saga_id, "charge", ended=False)
        await until(lambda: not watched.dog.stuck)
    assert [("s-1", "charge"), ("", "")] == [(one.saga_id, one.step) for one in watched.reports]
    assert {Thread.LOOP} == {one.thread for one in watched.reports}
    assert "test_a_blocked_event_loop" in watched.reports[0].stack[-1]
