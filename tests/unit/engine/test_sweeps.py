"""The pace of a sweep, by a clock that stands still unless somebody sleeps or works."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

import pytest

from stage.core.errors import StoreUnavailable
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.engine.embedded.sweeps import Sweeps
from stage.ports.engine import Busy, Unsettled
from stage.ports.observer import TraceContext
from stage.ports.store import Act, Unit
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from tests.waits import HANG_SECONDS

SAGAS = 120
RATE = 50.0


class SleepersClock:
    """Time goes by as far as somebody sleeps."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def now(self) -> float:
        """The instant to which all slept."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """That long, at once."""
        self.at += max(0.0, seconds)
        await asyncio.sleep(0)


async def nothing(_: Sweep) -> None:
    """Nothing is left to be done behind the last saga."""


@pytest.mark.parametrize("work_seconds", [0.0, 0.015, 0.04])
async def test_a_sweep_keeps_the_rate_that_it_was_given(work_seconds: float) -> None:
    """Neither faster nor, with time to look after itself, slower; behind slow work it hurries not.

    It looked for a second after each second of work, and paused behind each act for as long as if
    that had taken no time: 50 a second were 18.
    """
    clock, store = SleepersClock(), MemoryStore()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=RATE)
    ids = [f"s-{number:03}" for number in range(SAGAS)]
    number = await store.transact(lambda unit: unit.begin_sweep(begun, ids))
    acted: list[float] = []
    over = asyncio.Event()

    async def act(sweep: Sweep, saga_id: str) -> str:
        acted.append(clock.now())
        clock.at += work_seconds
        if len(acted) == SAGAS:
            over.set()
        return ""

    sweeps = Sweeps(store, clock, NullObserver(), act, nothing)
    sweeps.start()
    async with asyncio.timeout(HANG_SECONDS):
        await over.wait()
    sweeps.stop()
    pauses = [late - early for early, late in pairwise(acted)]
    assert min(pauses) >= 1 / RATE - 1e-9
    assert max(pauses) <= max(1 / RATE, work_seconds) + 1e-9
    assert 0 == len(await store.sweep_sagas(number, SweepEnd.REFUSED, SAGAS))
    await store.close()


async def test_a_sweep_that_is_stopped_during_a_slow_act_acts_on_no_further_saga() -> None:
    """A round went on with all that the rate gave it: 49 sagas more, the last one minutes later."""
    clock, store = SleepersClock(), MemoryStore()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.COMPENSATE, reason="x", rate_per_second=RATE)
    ids = [f"s-{number:03}" for number in range(SAGAS)]
    number = await store.transact(lambda unit: unit.begin_sweep(begun, ids))
    acted: list[str] = []

    async def act(sweep: Sweep, saga_id: str) -> str:
        acted.append(saga_id)
        clock.at += 5.0  # a disk that is slow
        await store.transact(lambda unit: unit.set_sweep(number, SweepState.STOPPED))
        return ""

    sweeps = Sweeps(store, clock, NullObserver(), act, nothing)
    await sweeps._round()
    await sweeps._round()
    assert acted == ids[:1]
    await store.close()


async def test_a_sweep_that_is_stopped_while_another_one_has_its_turn_acts_on_nothing() -> None:
    """Each has a turn of a second, and all were looked at before the first of them."""
    clock, store = SleepersClock(), MemoryStore()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=RATE)
    first = await store.transact(lambda unit: unit.begin_sweep(begun, ["a-1", "a-2"]))
    second = await store.transact(lambda unit: unit.begin_sweep(begun, ["b-1", "b-2"]))
    acted: list[int] = []

    async def act(sweep: Sweep, saga_id: str) -> str:
        acted.append(sweep.number)
        other = second if sweep.number == first else first
        await store.transact(lambda unit: unit.set_sweep(other, SweepState.STOPPED))
        return ""

    sweeps = Sweeps(store, clock, NullObserver(), act, nothing)
    await sweeps._round()
    assert 2 == len(acted) and 1 == len(set(acted))
    await store.close()


async def test_a_sweep_of_which_the_audit_has_nothing_any_more_is_not_finished_again() -> None:
    """Its acts were dropped for their age: no database is written anew for that, a month later."""
    clock, store = SleepersClock(), MemoryStore()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.ERASE, reason="x", rate_per_second=RATE)
    number = await store.transact(lambda unit: unit.begin_sweep(begun, ["s-1"]))
    await store.transact(lambda unit: unit.end_sweep_saga(number, "s-1", SweepEnd.DONE, ""))
    await store.transact(lambda unit: unit.set_sweep(number, SweepState.STOPPED))
    act = Act(
        at=1.0, actor="kim", act="sweep", target=f"sweep {number}", reason="x", before="", after=""
    )
    await store.transact(lambda unit: unit.keep_act(act))
    finished: list[int] = []

    async def finish(sweep: Sweep) -> None:
        finished.append(sweep.number)

    async def act_on(_: Sweep, saga_id: str) -> str:
        return ""

    sweeps = Sweeps(store, clock, NullObserver(), act_on, finish)
    (stopped,) = await store.unfinished_sweeps(9)
    assert await sweeps._scrubbed(stopped)
    assert [number] == finished
    assert [] == await store.unfinished_sweeps(9)
    assert 2 == await store.transact(lambda unit: unit.drop_acts(9e9, 9))
    assert [] == await store.unfinished_sweeps(9)
    await store.close()


class Noting(NullObserver):
    """Remembers the sagas of defects."""

    def __init__(self) -> None:
        self.defects: list[str] = []

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See ports.observer.Observer."""
        self.defects.append(saga_id)


@pytest.mark.parametrize(
    "error, reported",
    [
        (Unsettled("its owner did not answer"), False),
        (StoreUnavailable("the file of its worker is away"), False),
        (Busy("too many run there"), False),
        (RuntimeError("a defect"), True),
    ],
)
async def test_a_saga_on_which_a_sweep_cannot_act_keeps_none_behind_it_waiting(
    error: Exception, reported: bool
) -> None:
    """It is tried again behind the others, and the sweep is not done before it is.

    It is the first in the order of ids, and was the first one at each look: no other had a turn.
    """
    clock, store, observer = SleepersClock(), MemoryStore(), Noting()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=1.0)
    ids = ["s-1", "s-2", "s-3"]
    number = await store.transact(lambda unit: unit.begin_sweep(begun, ids))
    acted: list[str] = []
    over = asyncio.Event()

    async def act(_: Sweep, saga_id: str) -> str:
        acted.append(saga_id)
        if saga_id == "s-1" and acted.count("s-1") < 3:
            raise error
        return ""

    async def finish(_: Sweep) -> None:
        over.set()

    sweeps = Sweeps(store, clock, observer, act, finish)
    sweeps.start()
    async with asyncio.timeout(10.0):
        await over.wait()
        while (await store.sweeps(1))[0].state is not SweepState.DONE:  # noqa: ASYNC110
            await asyncio.sleep(0)
    sweeps.stop()
    assert ["s-1", "s-2", "s-3", "s-1", "s-1"] == acted
    assert 3 == len(await store.sweep_sagas(number, SweepEnd.DONE, 9))
    assert (["s-1", "s-1"] if reported else []) == observer.defects
    await store.close()


@pytest.mark.parametrize(
    "sagas, rate, away, seconds, tried, hours",
    [
        (20, 10.0, {1, 3}, 90.0, 20, 0.2),
        (1_000, 10.0, set(range(0, 1_000, 2)), 0.0, 1_000, 0.1),
        (5, 0.1, {0}, 0.0, 5, 0.1),
    ],
    ids=["a worker is frozen", "a worker has ended", "a slow sweep"],
)
async def test_sagas_on_which_a_sweep_cannot_act_keep_none_waiting_however_many_they_are(
    sagas: int, rate: float, away: set[int], seconds: float, tried: int, hours: float
) -> None:
    """They were the first again after ten seconds, and took all of the time of the sweep."""
    clock, store, acted = SleepersClock(), MemoryStore(), set[str]()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=rate)
    ids = [f"s-{number:04}" for number in range(sagas)]
    number = await store.transact(lambda unit: unit.begin_sweep(begun, ids))

    async def act(_: Sweep, saga_id: str) -> str:
        acted.add(saga_id)
        if ids.index(saga_id) in away:
            await clock.sleep(seconds)
            raise Unsettled("the worker is away")
        return ""

    sweeps = Sweeps(store, clock, Noting(), act, nothing)
    sweeps.start()
    over = clock.now() + hours * 3600
    async with asyncio.timeout(HANG_SECONDS):
        while clock.now() < over:  # noqa: ASYNC110
            await asyncio.sleep(0)
    sweeps.stop()
    assert tried == len(acted)
    assert sagas - len(away) == len(await store.sweep_sagas(number, SweepEnd.DONE, sagas))
    await store.close()


async def beginning(sweep: Sweep, unit: Unit) -> int:
    """Begin a sweep of one saga."""
    return await unit.begin_sweep(sweep, ["s-1"])


async def test_a_sweep_that_cannot_be_finished_keeps_none_behind_it_waiting() -> None:
    """Its error is reported, and the sweep that was begun later is done."""
    clock, store, observer = SleepersClock(), MemoryStore(), Noting()
    await store.open()
    for verb in (SweepVerb.ERASE, SweepVerb.RETRY):
        begun = Sweep(at=1.0, actor="kim", verb=verb, reason="x", rate_per_second=1.0)
        await store.transact(partial(beginning, begun))

    async def act(_: Sweep, saga_id: str) -> str:
        return ""

    async def finish(sweep: Sweep) -> None:
        if sweep.verb is SweepVerb.ERASE:
            raise LookupError

    sweeps = Sweeps(store, clock, observer, act, finish)
    sweeps.start()
    async with asyncio.timeout(10.0):
        while (await store.sweeps(1))[0].state is not SweepState.DONE:  # noqa: ASYNC110
            await asyncio.sleep(0)
    sweeps.stop()
    first, second = reversed(await store.sweeps(9))
    assert (SweepState.RUNNING, SweepState.DONE) == (first.state, second.state)
    assert observer.defects
    await store.close()


async def test_a_sweep_behind_many_that_were_begun_since_is_run_to_its_end() -> None:
    """Only the twenty newest were looked at: those behind them said "running" for ever."""
    clock, store = SleepersClock(), MemoryStore()
    await store.open()
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=RATE)
    numbers = [await store.transact(partial(beginning, begun)) for _ in range(30)]
    acted: list[int] = []

    async def act(sweep: Sweep, _: str) -> str:
        acted.append(sweep.number)
        return ""

    sweeps = Sweeps(store, clock, NullObserver(), act, nothing)
    sweeps.start()
    async with asyncio.timeout(HANG_SECONDS):
        while await store.unfinished_sweeps(99):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
    sweeps.stop()
    assert {SweepState.DONE} == {each.state for each in await store.sweeps(99)}
    assert numbers == acted
    await store.close()


@pytest.mark.parametrize("resumed", [False, True], ids=["begun", "resumed"])
async def test_a_sweep_that_comes_while_a_stopped_one_is_scrubbed_is_taken_up(
    resumed: bool,
) -> None:
    """The round that scrubbed had read the list before, and slept for ever behind it."""
    clock, store = SleepersClock(), MemoryStore()
    await store.open()
    number = await store.transact(stopped_erasure)
    scrubbing, scrubbed, acted = asyncio.Event(), asyncio.Event(), list[str]()

    async def act(_: Sweep, saga_id: str) -> str:
        acted.append(saga_id)
        return ""

    async def finish(_: Sweep) -> None:
        scrubbing.set()
        await scrubbed.wait()

    sweeps = Sweeps(store, clock, NullObserver(), act, finish)
    sweeps.start()
    async with asyncio.timeout(HANG_SECONDS):
        await scrubbing.wait()
        if resumed:
            await store.transact(lambda unit: unit.set_sweep(number, SweepState.RUNNING))
        else:
            begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=9)
            await store.transact(partial(beginning, begun))
        sweeps.wake()
        scrubbed.set()
        while await store.unfinished_sweeps(99):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
    sweeps.stop()
    assert (["s-2"] if resumed else ["s-1"]) == acted
    await store.close()


async def stopped_erasure(unit: Unit) -> int:
    """A sweep that was stopped behind the first of its two sagas."""
    begun = Sweep(at=1.0, actor="kim", verb=SweepVerb.ERASE, reason="x", rate_per_second=RATE)
    number = await unit.begin_sweep(begun, ["s-1", "s-2"])
    await unit.end_sweep_saga(number, "s-1", SweepEnd.DONE, "")
    await unit.set_sweep(number, SweepState.STOPPED)
    await unit.keep_act(
        Act(at=1.0, actor="kim", act="sweep", target=f"sweep {number}", reason="x", before="",
            after="")
    )  # fmt: skip
    return number
