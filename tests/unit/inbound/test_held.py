"""Starts that wait for their turn before they are parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from stage.inbound import held as module
from stage.inbound.held import HeldStarts, Turn
from stage.inbound.lookups import Lookups
from stage.inbound.overload import Overload

NOBODY = 1e-9
"""A rate of starts that admits none."""
LIMIT_SECONDS = 10.0


class Start(NamedTuple):
    """A start that is held."""

    held_saga_id: str
    answer_held: Callable[[Turn], None]


class Waiting:
    """Held starts, and how each was answered, in the order of the answers."""

    def __init__(self, *seen: str) -> None:
        async def looked(saga_ids: Sequence[str]) -> frozenset[str]:
            return frozenset(saga_ids) & frozenset(seen)

        self.overload = Overload()
        self.overload.rate = NOBODY
        self.overload.tick(0.0)
        self.held = HeldStarts(Lookups(looked), self.overload)
        self.answered: dict[str, Turn] = {}
        self._changed = asyncio.Event()

    def hold(self, saga_id: str, caller: str = "order") -> None:
        """Hold one."""

        def answer(turn: Turn) -> None:
            self.answered[saga_id] = turn
            self._changed.set()

        self.held.hold(Start(saga_id, answer), caller)

    def places(self, starts: int) -> None:
        """From now on there are so many, once."""
        self.overload.rate = 10.0 * starts
        self.overload.tick(0.0)
        self.overload.rate = NOBODY

    async def until(self, count: int) -> None:
        """Return when so many are answered. Raises TimeoutError."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(self.answered) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many go in one tick as there are places."""
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(module, "HELD_SECONDS", LIMIT_SECONDS)


async def test_a_start_that_waits_is_let_in_as_soon_as_there_is_a_place(all_at_once: None) -> None:
    """It is not refused, and nobody looks for it."""
    waiting = Waiting()
    waiting.hold("s-1")
    waiting.places(1)

    await waiting.until(1)

    assert {"s-1": Turn.PARSED} == waiting.answered
    assert not waiting.overload.lets_in("order")  # it has taken that place


async def test_most_places_go_to_the_newest_and_some_to_the_oldest(
    all_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest get their answers at once; the oldest would be refused next."""
    monkeypatch.setattr(module, "OLDEST_OF", 4)
    waiting = Waiting()
    for number in range(100):
        waiting.hold(f"s-{number}")
    waiting.places(12)
    waiting.overload.rate = 10_000.0

    await waiting.until(12)

    let_in = [int(saga_id.removeprefix("s-")) for saga_id in waiting.answered][:12]
    assert 3 == sum(number < 50 for number in let_in)
    assert {0, 99} < set(let_in)


async def test_places_of_one_caller_go_to_no_other(all_at_once: None) -> None:
    """A flood that waits does not keep out who has a place (rule 37)."""
    waiting = Waiting()
    for number in range(20):
        waiting.hold(f"flood-{number}", "flood")
    waiting.hold("s-1", "order")
    waiting.overload.rate = 40.0
    for caller in ("flood", "order"):
        waiting.overload.admits(caller)
    waiting.overload.tick(0.0)
    waiting.overload.rate = NOBODY

    async with asyncio.timeout(LIMIT_SECONDS):
        while "s-1" not in waiting.answered:
            await waiting.until(len(waiting.answered) + 1)

    assert Turn.PARSED is waiting.answered["s-1"]
    assert len(waiting.answered) < 20


async def test_one_that_has_waited_too_long_is_refused_unless_it_was_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I10: `not_executed` is said of a saga that nobody has seen, and of no other."""
    monkeypatch.setattr(module, "HELD_SECONDS", 0.05)
    waiting = Waiting("s-2")
    for saga_id in ("s-1", "s-2", ""):
        waiting.hold(saga_id)

    await waiting.until(3)

    assert {"s-1": Turn.NOT_SEEN, "s-2": Turn.PARSED, "": Turn.UNKNOWN} == waiting.answered
    assert not waiting.held._held


async def test_refusals_leave_at_a_bounded_rate_until_callers_give_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cost of a refusal is known beforehand; nobody waits for ever."""
    monkeypatch.setattr(module, "HELD_SECONDS", 0.0)
    waiting = Waiting()
    for number in range(200):
        waiting.hold(f"s-{number}")
    now = asyncio.get_running_loop().time()

    due = waiting.held._take_due(now + 1.0)
    overdue = waiting.held._take_due(now + module.HELD_SECONDS_MAX + 1.0)

    assert [f"s-{number}" for number in range(module.REFUSED_PER_TURN)] == [
        start.held_saga_id for start in due
    ]
    assert module.OVERDUE_PER_TURN == len(overdue) > len(due)


async def test_callers_that_wait_are_let_in_by_turns(all_at_once: None) -> None:
    """One of whom hundreds wait does not take all places of a moment."""
    waiting = Waiting()
    for number in range(20):
        waiting.hold(f"flood-{number}", "flood")
    waiting.hold("s-1", "order")
    waiting.overload.rate = 100.0
    for caller in ("flood", "order"):
        waiting.overload.admits(caller)
    waiting.overload.tick(0.0)

    waiting.held._let_in(waiting.held._let_in_at + 0.01)

    assert 2 == len(waiting.answered)
    assert Turn.PARSED is waiting.answered["s-1"]


async def test_an_event_loop_that_is_late_gives_away_the_places_of_that_time(
    all_at_once: None,
) -> None:
    """It is late by the work there is, so places by the tick would be a part of the limit."""
    waiting = Waiting()
    for number in range(200):
        waiting.hold(f"s-{number}")
    waiting.overload.rate = 1_000.0
    waiting.overload.tick(0.0)
    waiting.overload.rate = 1_000.0

    waiting.held._let_in(waiting.held._let_in_at + 0.0605)

    assert 61 == len(waiting.answered)


async def test_a_caller_that_only_waits_has_a_part_of_the_limit() -> None:
    """Two others take all there is. It was never judged, so nobody knew that it asks (rule 37)."""
    overload = Overload()
    overload.rate = 100.0
    for _ in range(3):
        for caller in ("flood", "shop"):
            while overload.admits(caller):
                pass
        overload.holds("order")
        overload.tick(0.0)
    for caller in ("flood", "shop"):
        while overload.admits(caller):
            pass

    assert overload.lets_in("order")


async def test_places_are_given_away_while_a_look_up_waits_for_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be away for long."""
    monkeypatch.setattr(module, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(module, "REFUSED_PER_TURN", 1)
    looking, back = asyncio.Event(), asyncio.Event()

    async def away(saga_ids: Sequence[str]) -> frozenset[str]:
        looking.set()
        await back.wait()
        return frozenset()

    waiting = Waiting()
    waiting.held._lookups = Lookups(away)
    waiting.hold("s-1")
    waiting.hold("s-2")
    async with asyncio.timeout(LIMIT_SECONDS):
        await looking.wait()
    waiting.places(1)

    await waiting.until(1)
    assert {"s-2": Turn.PARSED} == waiting.answered
    assert waiting.held
    back.set()
    await waiting.until(2)
    assert Turn.NOT_SEEN is waiting.answered["s-1"]


async def test_a_look_up_that_fails_holds_nobody_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its defect, and that of a connection, are reported, and keep nobody else waiting."""
    monkeypatch.setattr(module, "HELD_SECONDS", 0.0)
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: reported.append(context["exception"]))

    async def broken(saga_ids: Sequence[str]) -> frozenset[str]:
        raise RuntimeError("broken")

    def fails(turn: Turn) -> None:
        raise RuntimeError("this connection has gone")

    waiting = Waiting()
    waiting.held._lookups = Lookups(broken)
    waiting.held.hold(Start("s-1", fails), "order")
    waiting.hold("s-2")

    await waiting.until(1)

    assert {"s-2": Turn.UNKNOWN} == waiting.answered
    assert "this connection has gone" in [str(error) for error in reported]
    assert not waiting.held


async def test_a_process_that_stops_refuses_all_that_wait_at_once() -> None:
    """Another one may have a place for them; a connection that closes without a word is a doubt."""
    waiting = Waiting("s-7")
    for number in range(300):
        waiting.hold(f"s-{number}")

    waiting.held.end()
    await waiting.until(300)

    assert [7] == [n for n in range(300) if Turn.PARSED is waiting.answered[f"s-{n}"]]


async def test_a_batch_is_let_in_as_soon_as_the_one_before_is_answered(
    all_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No timer is waited for; as long as most of it goes on, nobody is let in."""
    monkeypatch.setattr(module, "TICK_SECONDS", LIMIT_SECONDS)
    waiting = Waiting()
    batch, now = waiting.overload.batch, asyncio.get_running_loop().time()
    for number in range(batch.most):
        batch.begins(number, now + LIMIT_SECONDS)
    waiting.hold("s-1")
    waiting.places(1)
    waiting.held.next_batch()
    await asyncio.sleep(0)
    waiting.held._let_in(waiting.held._let_in_at + 0.1)
    assert {} == waiting.answered
    for number in range(batch.most):
        batch.ends(number)
    waiting.overload.offers = lambda: batch.most  # the writer has taken none of them on
    waiting.held._let_in(waiting.held._let_in_at + 0.1)
    assert {} == waiting.answered
    waiting.overload.offers = lambda: 0
    waiting.held.next_batch()
    waiting.held.next_batch()
    await waiting.until(1)
    assert {"s-1": Turn.PARSED} == waiting.answered


async def test_the_oldest_of_the_caller_with_most_gives_way(all_at_once: None) -> None:
    """A flood takes the connections; who sends little keeps its own."""
    waiting = Waiting()
    waiting.hold("s-1", "order")
    for number in range(3):
        waiting.hold(f"flood-{number}", "flood")

    assert waiting.held.give_way()
    assert {"flood-0": Turn.GIVES_WAY} == waiting.answered
    for _ in range(3):
        assert waiting.held.give_way()
    assert not waiting.held.give_way()
    assert 4 == len(waiting.answered)
