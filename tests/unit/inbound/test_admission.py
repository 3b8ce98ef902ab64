"""Admission: places, joins and waits of each caller, and the rate of starts (rule 37)."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, suppress
from math import inf
from random import Random

import pytest

from stage.core.shares import Shares
from stage.inbound.admission import JOINS_MAX, Admission, NotSaid, TooManyJoined
from stage.inbound.overload import LATE_SECONDS, LATE_TICKS, RATE_MIN, TICK_SECONDS, Overload
from stage.inbound.unparsed import is_whole_start
from stage.ports.engine import Busy

LATE = 0.3


def test_duplicates_of_one_saga_leave_places_for_others() -> None:
    """As many as may join it, and no more; a place that is given back is free again."""
    admission = Admission(100, callers=Shares(frozenset({"order"})))
    with ExitStack() as held:
        for _ in range(JOINS_MAX):
            held.enter_context(admission.place("s-1", "order"))
        with pytest.raises(TooManyJoined), admission.place("s-1", "order"):
            pass
        with admission.place("s-2", "order"):
            pass
    with admission.place("s-1", "order"):
        pass


@pytest.mark.parametrize(
    "callers, named, places",
    [
        ([], "any", 10),
        (["order"], "order", 10),
        (["order"], "stranger", 5),
        (["order", "shop"], "order", 5),
        (["order", "shop"], "", 5),
    ],
)
def test_one_caller_gets_its_share(callers: list[str], named: str, places: int) -> None:
    """One that is alone gets all; names that nobody configured are one caller together."""
    admission = Admission(10, callers=Shares(frozenset(callers)))
    with ExitStack() as held:
        for n in range(places):
            held.enter_context(admission.place(f"s-{n}", named if named != "stranger" else f"x{n}"))
        with pytest.raises(Busy), admission.place("s-more", named):
            pass
        for other in set(callers) - {named}:
            with admission.place("s-other", other):
                pass


def test_waits_beyond_the_limit_are_cut_and_refuse_nobody() -> None:
    """Queries and compensations that wait take no place of a start, and no start one of theirs."""
    admission = Admission(2)
    with ExitStack() as held:
        assert [5.0, 5.0, 0.0] == [held.enter_context(admission.watch(5.0)) for _ in range(3)]
        with admission.place("s-1", ""), admission.place("s-2", ""):
            pass
    with admission.watch(5.0) as seconds:
        assert 5.0 == seconds


def run(overload: Overload, seconds: float, offered: float, capacity: float) -> float:
    """Starts a second that are admitted. The loop is late by the work that waits in it."""
    admitted, backlog, passed, late = 0, 0.0, 0.0, 0.0
    while passed < seconds:
        tick = TICK_SECONDS + late
        now = sum(overload.admits() for _ in range(int(offered * tick)))
        admitted, passed = admitted + now, passed + tick
        backlog = max(0.0, backlog + now - capacity * tick)
        late = backlog / capacity
        overload.tick(late)
    return admitted / passed


@pytest.mark.parametrize("capacity", [150.0, 400.0, 2_000.0])
@pytest.mark.parametrize("times", [1.5, 5.0, 20.0])
def test_the_queue_of_the_writer_stays_short_and_is_never_empty(
    capacity: float, times: float
) -> None:
    """A rate that grows until it is too much, and falls, lets compensations wait in turns."""
    overload, backlog, lates, done = Overload(), 0.0, list[float](), list[float]()
    for _ in range(700):
        admitted = sum(overload.admits() for _ in range(int(times * capacity * TICK_SECONDS)))
        backlog += admitted
        done.append(min(backlog, capacity * TICK_SECONDS))
        backlog -= done[-1]
        lates.append(backlog / capacity)
        overload.tick(0.0, waited=lates[-1])
    assert sum(done[100:]) > 0.97 * capacity * TICK_SECONDS * 600
    assert max(lates[100:]) < 1.5 * LATE_SECONDS


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3])
def test_pauses_of_the_machine_do_not_wear_the_limit_down(part: float) -> None:
    """A machine that is shared pauses for 50 to 300 ms, in every third tick where it is bad."""
    dice, overload, capacity = Random(1), Overload(), 2_000.0
    backlog, done = 0.0, list[float]()
    for _ in range(1_000):
        pause = dice.uniform(0.05, 0.3) if dice.random() < part else 0.0
        passed = TICK_SECONDS + pause
        backlog += sum(overload.admits() for _ in range(int(3 * capacity * passed)))
        done.append(min(backlog, capacity * TICK_SECONDS))
        backlog -= done[-1]
        overload.tick(pause, waited=backlog / capacity)
    assert sum(done[200:]) > 0.8 * capacity * TICK_SECONDS * 800


def test_a_limit_that_is_far_too_low_is_left_within_seconds() -> None:
    """The first burst of a stage that did nothing: nobody knew what it can do."""
    overload = Overload()
    overload.tick(1.0)
    assert RATE_MIN == overload.rate
    run(overload, 4, offered=10_000, capacity=2_000)
    assert 0.9 * 2_000 < run(overload, 5, offered=10_000, capacity=2_000)


def test_five_times_the_load_is_shed_to_what_can_be_done() -> None:
    overload = Overload()
    run(overload, 10, offered=2_000, capacity=400)
    assert 0.9 * 400 < run(overload, 60, offered=2_000, capacity=400) < 1.1 * 400
    assert overload.shed > 0


def shared(seconds: float, offered: dict[str, float], capacity: float) -> dict[str, float]:
    """The part of what each caller offers that is admitted, in the last half of the time."""
    overload, backlog, late = Overload(), 0.0, 0.0
    passed, asked, admitted = 0.0, Counter[str](), Counter[str]()
    owed = dict.fromkeys(offered, 0.0)
    while passed < seconds:
        tick = TICK_SECONDS + late
        now = 0
        for caller, rate in offered.items():
            owed[caller] += rate * tick
            for _ in range(int(owed[caller])):
                taken = overload.admits(caller)
                now += taken
                if passed > seconds / 2:
                    asked[caller] += 1
                    admitted[caller] += taken
            owed[caller] %= 1.0
        passed += tick
        backlog = max(0.0, backlog + now - capacity * tick)
        late = backlog / capacity
        overload.tick(late)
    return {caller: admitted[caller] / asked[caller] for caller in offered}


@pytest.mark.parametrize("flood", [1_000.0, 4_000.0])
def test_a_flood_of_one_caller_sheds_that_caller(flood: float) -> None:
    """The others, who ask for less than their part, keep nearly all of theirs (rule 37)."""
    kept = shared(60, {"flood": flood, "order": 80.0, "shop": 20.0}, capacity=400)
    assert kept["order"] > 0.9 and kept["shop"] > 0.9, kept
    assert 0.8 * 300 < kept["flood"] * flood < 1.2 * 300


def exhaust(admission: Admission) -> None:
    for _ in range(1_000):
        admission.query("flood")


def test_queries_of_a_flood_are_shed_and_those_of_others_are_not() -> None:
    """A query is a part of the work of a start, in the account of its caller."""
    admission = Admission(100, callers=Shares(frozenset({"order", "flood"})))
    overload = admission.overload
    overload.rate = 100.0
    for _ in range(5):
        with suppress(NotSaid):
            exhaust(admission)
        admission.query("order")
        overload.tick(0.0)
    with pytest.raises(NotSaid):
        exhaust(admission)
    admission.query("order")


def test_a_pause_of_the_machine_sheds_nothing() -> None:
    """One late tick, or two, are no overload."""
    overload = Overload()
    for late in [LATE, LATE, 0.0] * 10:
        assert all(overload.admits() for _ in range(50))
        overload.tick(late)
    assert inf == overload.rate


def test_a_slow_machine_still_admits_some() -> None:
    overload = Overload()
    for _ in range(50 * LATE_TICKS):
        overload.tick(10.0)
    assert RATE_MIN == overload.rate
    assert overload.admits()


def test_after_the_load_is_gone_there_is_no_limit() -> None:
    overload = Overload()
    run(overload, 10, offered=2_000, capacity=400)
    run(overload, 10, offered=10, capacity=400)
    assert inf == overload.rate


START = b"POST /sagas HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "data",
    [
        START[:-1],
        START + b"x",
        START[:30],
        START.replace(b"/sagas", b"/sagas/s-1/compensate"),
        START.replace(b"POST", b"GET"),
        START.replace(b"Host: x", b"Content-Length: 2"),
        START.replace(b"Host: x", b"transfer-encoding: chunked"),
        START.replace(b"Host: x", b"Expect: 100-continue"),
        START.replace(b"Content-Length: 2", b"Content-Length: 0x2"),
        START.replace(b"Content-Length: 2", b"Content-Length: +2"),
        START.replace(b"Host: x", b"Content-Length : 0"),
        START.replace(b"Host: x", b"Host: x\nX: y"),
        START.replace(b"Host: x", b"Host: x\rContent-Length: 0"),
        START.replace(b"Host: x", b"Host: x\r\n Content-Length: 0"),
        START.replace(b"Host: x", b"Host: x\x00"),
        START.replace(b"Host: x", b"Host"),
    ],
)
def test_only_a_whole_start_is_shed_without_the_parser(data: bytes) -> None:
    """A compensation never; a body that is framed in another way is the parser's to refuse."""
    assert is_whole_start(START)
    assert not is_whole_start(data)


def test_starts_that_are_parsed_count_before_they_are_judged() -> None:
    """Hundreds were read in one turn of the loop, all on the strength of the same few places."""
    overload = Overload()
    overload.rate = 100.0
    overload.tick(0.0)
    places = next(n for n in range(1_000) if not overload.lets_in("order"))
    assert 1 <= places < 100
    assert not overload.lets_in("order")
    assert all(overload.admits("order") for _ in range(places))


def test_starts_that_were_never_judged_are_forgotten_at_the_next_tick() -> None:
    """One that turned out to be malformed takes no place for longer."""
    overload = Overload()
    overload.rate = 100.0
    overload.tick(0.0)
    while overload.lets_in("order"):
        pass
    overload.tick(0.0)
    assert overload.lets_in("order")


def test_a_disk_that_stands_still_does_not_wear_the_limit_down() -> None:
    """One batch waits for it and no more can come; a longer queue is more than can be done."""
    overload = Overload()
    overload.rate = 1_000.0
    overload.offers = lambda: overload.batch.most
    for _ in range(5):
        overload.holds()
        overload.tick(0.0, waited=0.5)
    before = overload.rate
    assert before >= 1_000.0
    overload.offers = lambda: overload.batch.most + 1
    overload.holds()
    overload.tick(0.0, waited=0.6)
    assert overload.rate < before


def test_without_a_limit_everything_is_let_in() -> None:
    """Nothing is counted then."""
    overload = Overload()
    assert all(overload.lets_in() for _ in range(1_000))
