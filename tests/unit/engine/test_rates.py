"""Rule 29: places and a rate for each peer, shared fairly, and no storm when a peer comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core.retry import COMPENSATION
from stage.engine.saga.rates import FAILURES_MAX, Gate, Gates, Lane, TokenBucket
from stage.ports.peers import PeerLimits, PeerStanding
from stage.simulation.loop import VirtualLoop
from tests.waits import HANG_SECONDS

RATE = 10.0


def leave_times(bucket: TokenBucket, until: float, *, step: float = 0.001) -> list[float]:
    """When requests leave that are always waiting, from 0 on."""
    left, ticks = [], 0
    while (now := ticks * step) < until:
        if bucket.wait_seconds(now) == 0:
            bucket.take()
            left.append(now)
        ticks += 1
    return left


@pytest.mark.parametrize("rate", [0.5, 3.0, 10.0, 400.0])
def test_in_no_window_more_leave_than_the_rate(rate: float) -> None:
    """Nor fewer, while requests wait."""
    left = leave_times(TokenBucket(rate, 0.0), 6.0)
    burst = max(1.0, rate * 0.05)
    for seconds in (0.5, 3.0):
        for start in left:
            inside = sum(start <= at < start + seconds for at in left)
            assert inside <= rate * seconds + burst + 1e-6
    assert rate * 6.0 - 1 <= len(left)


def test_a_silence_saves_up_no_storm() -> None:
    """After an hour without a request one may leave at once, not thousands."""
    bucket = TokenBucket(RATE, 0.0)
    assert 0 == bucket.wait_seconds(3_600.0)
    bucket.take()
    assert bucket.wait_seconds(3_600.0) == pytest.approx(1 / RATE)


@pytest.mark.parametrize("jump", [-691_200.0, 691_200.0])
def test_a_clock_that_jumps_costs_one_token(jump: float) -> None:
    """By eight days, back or forth (rule 34)."""
    bucket = TokenBucket(RATE, 1_000_000.0)
    bucket.take()
    assert bucket.wait_seconds(1_000_000.0 + jump) <= 1 / RATE
    assert 0 == bucket.wait_seconds(1_000_000.0 + jump + 1 / RATE)


def test_a_further_request_of_an_attempt_is_owed() -> None:
    """It does not wait, so that its time-out goes on; the next attempt waits for both."""
    bucket = TokenBucket(RATE, 0.0)
    bucket.take()
    bucket.take()
    assert bucket.wait_seconds(0.0) == pytest.approx(2 / RATE)


def gate(*, places: int = 100, rate: float | None = None) -> Gate:
    limits = PeerLimits(concurrency_max=places, rate_per_second=rate)
    return Gate(limits, asyncio.get_running_loop().time)


async def test_no_more_are_inside_than_there_are_places() -> None:
    """And each place that is given back is taken again."""
    way, inside, most = gate(places=3), 0, 0

    async def attempt() -> None:
        nonlocal inside, most
        await way.enter(Lane.NEW)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        way.leave(answered=True)

    async with asyncio.timeout(HANG_SECONDS):
        await asyncio.gather(*(attempt() for _ in range(20)))

    assert (3, 0) == (most, inside)
    assert way.enter_at_once(Lane.NEW)


async def test_the_lanes_take_turns() -> None:
    """Thousands of undos do not keep new sagas out, nor the other way round."""
    way, turns = gate(places=1), list[Lane]()
    assert way.enter_at_once(Lane.NEW)

    async def attempt(lane: Lane) -> None:
        await way.enter(lane)
        turns.append(lane)
        way.leave(answered=True)

    waiting = [Lane.COMPENSATION] * 100 + [Lane.NEW] * 20 + [Lane.RECOVERED] * 20
    tasks = [asyncio.ensure_future(attempt(lane)) for lane in waiting]
    await asyncio.sleep(0)
    assert not way.enter_at_once(Lane.NEW)
    way.leave(answered=True)
    await asyncio.gather(*tasks)

    assert {Lane.NEW: 5, Lane.RECOVERED: 5, Lane.COMPENSATION: 5} == Counter(turns[:15])
    assert 140 == len(turns)


async def test_attempts_that_are_stopped_leave_their_turns_to_others() -> None:
    """All at once, as when a process stops, and before any of them has noticed."""
    way = gate(places=1)
    assert way.enter_at_once(Lane.NEW)
    tasks = [asyncio.ensure_future(way.enter(Lane.COMPENSATION)) for _ in range(3)]
    last = asyncio.ensure_future(way.enter(Lane.COMPENSATION))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    way.leave(answered=True)
    assert 1 == way.standing("psp").under_way, "the last one has its place at once"
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(HANG_SECONDS):
        await last


async def test_a_lane_that_is_held_lets_the_others_pass() -> None:
    """Its attempts stay there, and leave when it is held no more."""
    way, turns = gate(places=1), list[Lane]()
    way.hold(frozenset({Lane.COMPENSATION}))
    assert not way.enter_at_once(Lane.COMPENSATION)

    async def attempt(lane: Lane) -> None:
        await way.enter(lane)
        turns.append(lane)
        way.leave(answered=True)

    held = asyncio.ensure_future(attempt(Lane.COMPENSATION))
    await asyncio.sleep(0)
    await attempt(Lane.NEW)
    assert [Lane.NEW] == turns
    way.hold(frozenset())
    await held
    assert [Lane.NEW, Lane.COMPENSATION] == turns


async def test_attempts_that_give_up_while_they_are_held_leave_nothing_behind() -> None:
    """Each saga that turns back at its deadline would otherwise stay until the pause ends."""
    way = gate(places=1)
    way.hold(frozenset({Lane.NEW}))
    tasks = [asyncio.ensure_future(way.enter(Lane.NEW)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (0, 0) == (way._waiting, len(way._lanes[Lane.NEW]))
    assert way.enter_at_once(Lane.COMPENSATION)


async def test_the_next_in_line_gets_the_place_of_an_attempt_that_is_stopped_with_it() -> None:
    """Its turn had come, and it was stopped before it could go."""
    way = gate(places=1)
    assert way.enter_at_once(Lane.NEW)
    stopped, last = (asyncio.ensure_future(way.enter(Lane.NEW)) for _ in range(2))
    await asyncio.sleep(0)
    way.leave(answered=True)
    stopped.cancel()
    async with asyncio.timeout(HANG_SECONDS):
        await last
    assert (1, 0) == (way.standing("psp").under_way, way.standing("psp").queued)


@pytest.mark.parametrize("admitted", [False, True])
async def test_an_attempt_that_is_stopped_while_it_waits_takes_no_place(admitted: bool) -> None:
    """Whether or not its turn had come in the same moment."""
    way = gate(places=1)
    assert way.enter_at_once(Lane.NEW)
    task = asyncio.ensure_future(way.enter(Lane.NEW))
    await asyncio.sleep(0)
    if admitted:
        way.leave(answered=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    if not admitted:
        way.leave(answered=True)
    assert way.enter_at_once(Lane.NEW)
    assert not way.enter_at_once(Lane.NEW)


async def test_a_peer_that_comes_back_is_not_stormed() -> None:
    """Failures in a row take its places away, answers give them back one by one."""
    way = gate(places=64)

    def places() -> int:
        taken = 0
        while way.enter_at_once(Lane.NEW):
            taken += 1
        for _ in range(taken):
            way.leave(answered=None)
        return taken

    assert 64 == places()
    for _ in range(FAILURES_MAX + 10):
        assert way.enter_at_once(Lane.NEW)
        way.leave(answered=False)
    assert 1 == places()
    found = []
    for _ in range(3):
        for _ in range(places()):
            assert way.enter_at_once(Lane.NEW)
            way.leave(answered=True)
        found.append(places())
    assert [2, 4, 8] == found
    assert way.enter_at_once(Lane.NEW)
    way.leave(answered=False)
    assert 8 == places()  # one failure among answers is none of an outage


def failing(way: Gate, times: int) -> int:
    """The places after so many failures in a row."""
    for _ in range(times):
        assert way.enter_at_once(Lane.NEW)
        way.leave(answered=False)
    return way.standing("psp").places


async def test_so_many_failures_in_a_row_halve_the_places_and_no_fewer() -> None:
    """An answer ends the row; an attempt of which nothing left says nothing of the peer."""
    way = gate(places=64)
    assert 64 == failing(way, FAILURES_MAX - 1)
    assert way.enter_at_once(Lane.NEW)
    way.leave(answered=True)
    assert 64 == failing(way, FAILURES_MAX - 1)
    assert way.enter_at_once(Lane.NEW)
    way.leave(answered=None)
    assert [32, 16] == [failing(way, 1) for _ in range(2)]


async def test_people_see_how_the_way_to_a_peer_stands() -> None:
    """Rule 29: its places and those that wait for one, and how it answered last."""
    limits = PeerLimits(concurrency_max=2, rate_per_second=1_000.0)
    now = 5.0
    way = Gate(limits, lambda: now)
    fresh = PeerStanding(
        peer="psp", under_way=0, queued=0, places=2, places_max=2, rate_per_second=1_000.0
    )
    assert fresh == way.standing("psp")
    tasks = [asyncio.ensure_future(way.enter(Lane.NEW)) for _ in range(3)]
    await asyncio.sleep(0)
    assert replace(fresh, under_way=2, queued=1) == way.standing("psp")
    way.leave(answered=False, failure="answered 503")
    failed = replace(fresh, under_way=2, failed_at=5.0, failure="answered 503")
    assert failed == way.standing("psp")
    now = 6.0
    way.leave(answered=True)
    way.leave(answered=None)
    assert replace(failed, under_way=0, answered_at=6.0) == way.standing("psp")
    await asyncio.gather(*tasks)


async def test_a_request_beyond_the_rate_waits_for_its_time() -> None:
    """Also where the gate is free, and behind a further request of an attempt that is inside."""
    now = 0.0
    way = Gate(PeerLimits(rate_per_second=1.0), lambda: now)
    assert [True, False] == [way.enter_at_once(Lane.NEW) for _ in range(2)]
    now = 1.0
    way.charge()
    assert not way.enter_at_once(Lane.NEW)
    now = 2.0
    assert way.enter_at_once(Lane.NEW)
    gate(places=1).charge()  # without a rate nothing is owed


async def test_one_timer_wakes_all_that_wait_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is set where nothing has to wait."""
    timers: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def counting(delay: float, *more: Any) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(delay, *more)

    monkeypatch.setattr(loop, "call_later", counting)
    way = gate(rate=50.0)
    for _ in range(2):  # a twentieth of a second of the rate
        assert way.enter_at_once(Lane.NEW)
    assert [] == timers
    tasks = [asyncio.ensure_future(way.enter(Lane.NEW)) for _ in range(9)]
    await asyncio.sleep(0)
    assert 1 == len(timers)
    assert not way.enter_at_once(Lane.COMPENSATION)
    assert 1 == len(timers)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_the_rate_holds_for_all_lanes_together() -> None:
    """Over ten seconds of a virtual clock, and everybody gets through."""
    loop, left = VirtualLoop(), list[float]()

    async def attempts() -> None:
        way = gate(rate=RATE)

        async def attempt(lane: Lane) -> None:
            await way.enter(lane)
            left.append(loop.time())
            way.leave(answered=True)

        await asyncio.gather(*(attempt(lane) for lane in [*Lane] * 50))

    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(attempts())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert 150 == len(left)
    assert left[-1] - left[0] == pytest.approx(149 / RATE, rel=0.05)


async def test_each_peer_has_a_gate_of_its_own() -> None:
    """An API and a stage of the same name are two peers; the limits are those of the name."""
    limits = {"externals.psp": PeerLimits(concurrency_max=1)}
    gates = Gates(limits, asyncio.get_running_loop().time)
    assert gates.of("externals.psp") is gates.of("externals.psp")
    assert gates.of("externals.psp").enter_at_once(Lane.NEW)
    assert not gates.of("externals.psp").enter_at_once(Lane.NEW)
    assert gates.of("downstreams.psp").enter_at_once(Lane.NEW)


async def test_a_process_that_is_alone_has_all_of_the_limits() -> None:
    """Also of a peer that it has not used yet, which people see as well."""
    limits = {"externals.psp": PeerLimits(concurrency_max=4, rate_per_second=8.0)}
    gates = Gates(limits, asyncio.get_running_loop().time)
    gates.of("downstreams.shipping")
    shipping, psp = gates.standing()
    assert ("downstreams.shipping", 100, None) == (
        shipping.peer, shipping.places_max, shipping.rate_per_second,
    )  # fmt: skip
    assert ("externals.psp", 4, 8.0) == (psp.peer, psp.places_max, psp.rate_per_second)


async def test_a_pause_holds_a_peer_and_no_other() -> None:
    """Whether its gate was there before or is made later; a pause that is over holds nothing."""
    gates = Gates({}, asyncio.get_running_loop().time)
    early = gates.of("a")
    gates.hold({"a": frozenset({Lane.NEW}), "b": frozenset({Lane.COMPENSATION})})
    late = gates.of("b")
    assert [(True, False), (False, True), (False, False)] == [
        (way.holds(Lane.NEW), way.holds(Lane.COMPENSATION)) for way in (early, late, gates.of("c"))
    ]
    gates.hold({"b": frozenset({Lane.COMPENSATION})})
    assert early.enter_at_once(Lane.NEW)
    gates.hold({})
    assert late.enter_at_once(Lane.COMPENSATION)


async def test_the_rate_of_a_peer_is_divided_too() -> None:
    """Two replicas have half of it each; alone again, one has all of it."""
    now = 0.0
    gates = Gates({"a": PeerLimits(rate_per_second=1.0)}, lambda: now)
    way = gates.of("a")
    gates.divide(2)
    assert way.enter_at_once(Lane.NEW)
    now = 1.0
    assert not way.enter_at_once(Lane.NEW)
    now = 2.0
    assert way.enter_at_once(Lane.NEW)
    gates.divide(1)
    now = 3.0
    assert way.enter_at_once(Lane.NEW)


async def test_the_limits_of_a_peer_are_divided_among_replicas() -> None:
    """Places and rate alike, also at a gate that is made later; one place is always left."""
    loop = asyncio.get_running_loop()
    limits = {name: PeerLimits(concurrency_max=4, rate_per_second=1_000.0) for name in "ab"}
    gates = Gates(limits, loop.time)
    early = gates.of("a")
    gates.divide(2)
    for way in (early, gates.of("b")):
        assert [True, True, False] == [way.enter_at_once(Lane.NEW) for _ in range(3)]
    gates.divide(9)
    for way in (early, gates.of("b")):
        way.leave(answered=True)
        way.leave(answered=True)
        assert [True, False] == [way.enter_at_once(Lane.NEW) for _ in range(2)]
        way.leave(answered=True)


def test_two_replicas_together_keep_to_the_rate_of_a_peer() -> None:
    """Each lets half of it leave; alone again, one lets all of it leave."""
    bucket = TokenBucket(RATE, 0.0)
    bucket.change(RATE / 2)
    bucket.take()
    bucket.take()
    assert bucket.wait_seconds(0.0) == pytest.approx(2 / (RATE / 2))
    bucket.change(RATE)
    assert bucket.wait_seconds(0.0) == pytest.approx(2 / RATE)


def at_once(bucket: TokenBucket, now: float) -> int:
    """How many may leave at that instant."""
    count = 0
    while bucket.wait_seconds(now) == 0:
        bucket.take()
        count += 1
    return count


def test_another_rate_saves_up_for_another_moment() -> None:
    """A twentieth of a second of it, and one at least."""
    bucket = TokenBucket(RATE, 0.0)
    bucket.change(400.0)
    assert 20 == at_once(bucket, 3_600.0)
    bucket.change(RATE)
    assert 1 == at_once(bucket, 7_200.0)


UNDOS = 5_000


@pytest.mark.parametrize("rate", [50.0, None])
def test_5000_undos_against_an_api_that_answers_500_are_bounded(rate: float | None) -> None:
    """By the rate where there is one; otherwise one attempt at a time is left of a hundred."""
    loop, left, answer_seconds = VirtualLoop(), list[float](), 0.01

    async def undo(way: Gate, number: int) -> None:
        attempt = 0
        while True:
            attempt += 1
            await way.enter(Lane.COMPENSATION)
            left.append(loop.time())
            await asyncio.sleep(answer_seconds)
            way.leave(answered=False)
            await asyncio.sleep(COMPENSATION.backoff_seconds(attempt, f"s-{number}"))

    async def undos() -> None:
        way = gate(rate=rate)
        tasks = [asyncio.ensure_future(undo(way, number)) for number in range(UNDOS)]
        await asyncio.sleep(20.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(undos())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    storm = 200  # the places at the start, halved with each further failure
    most = rate * 20.0 + rate if rate is not None else 20.0 / answer_seconds + storm
    assert most / 2 < len(left) <= most
