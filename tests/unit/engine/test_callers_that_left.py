"""Orders whose caller leaves while their unit commits: a disk hangs, or another worker is lost.

The unit is committed all the same, so that all that is to follow it follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec
import pytest

from stage import Saga, Stage, Tx
from stage.core.act_key import ActKey
from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.core.pause import Pause
from stage.core.sweep import Sweep, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.engine.clock import SystemClock
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.pauses import Pauses
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.clock import Clock
from stage.ports.engine import ActRepeated, Unsettled
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope
from tests.waits import HANG_SECONDS

T = TypeVar("T")
PSP = "externals.psp"
PAUSE = Pause(target=PSP, at=1_000.0, until=1e9, actor="kim", reason="x")
KEY = ActKey(key="k", digest="d")


class Order(msgspec.Struct):
    """The payload."""

    amount: int


counter: Stage[Order, None] = Stage("counter", accepts=Order)


@counter.transaction(compensation=None, reason="no test undoes it")
async def count(tx: Tx, saga: Saga[Order]) -> None:
    """Nothing to write."""


class HangingDisk(MemoryStore):
    """Commits what it was given, as the writer of a file does, also where nobody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.given: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self.reads_fail = 0
        self.scrubs = 0
        self.scrubbing, self.scrubbed = asyncio.Event(), asyncio.Event()
        self.scrub_error: Exception | None = None

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store."""
        if not self.hangs:
            return await super().transact(work)
        waiting: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def commit() -> None:
            try:
                value = await MemoryStore.transact(self, work)
            except Exception as error:
                if not waiting.done():
                    waiting.set_exception(error)
            else:
                if not waiting.done():
                    waiting.set_result(value)

        self.given.put_nowait(commit)
        return await waiting

    async def leave(self, order: Coroutine[Any, Any, Any]) -> None:
        """Give an order, leave while its unit commits, and let the disk go on then."""
        self.hangs = True
        caller = asyncio.ensure_future(order)
        async with asyncio.timeout(HANG_SECONDS):
            commit = await self.given.get()
        caller.cancel()
        with suppress(asyncio.CancelledError):
            await caller
        self.hangs = False
        await commit()

    async def pauses(self) -> list[Pause]:
        """See ports.store.Store."""
        if self.reads_fail:
            self.reads_fail -= 1
            raise StoreUnavailable("the disk hangs")
        return await super().pauses()

    async def scrub(self, clean: set[str] | None = None) -> None:
        """See ports.store.Store."""
        self.scrubs += 1
        self.scrubbing.set()
        await self.scrubbed.wait()
        if self.scrub_error is not None:
            raise self.scrub_error


class SleepersClock:
    """Time goes by as far as somebody sleeps."""

    def __init__(self) -> None:
        self.at = 1_000.0
        self.slept = asyncio.Semaphore(0)

    def now(self) -> float:
        """The instant to which all slept."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """That long, at once."""
        self.at += max(0.0, seconds)
        self.slept.release()
        await asyncio.sleep(0)


@pytest.fixture
async def store() -> AsyncIterator[HangingDisk]:
    store = HangingDisk()
    await store.open()
    yield store
    await store.close()


def engine_on(store: HangingDisk, clock: Clock) -> EmbeddedEngine:
    """An engine that has no peers."""
    client = PeerClient(Transport(), clock=SystemClock())
    peers = http_peers(client, externals={}, downstreams={}, upstreams={})
    return EmbeddedEngine(counter.bind(), store, peers, NullObserver(), clock=clock)


def sweep_of(verb: SweepVerb, **more: Any) -> Sweep:
    """One of one saga."""
    return Sweep(at=1.0, actor="kim", verb=verb, reason="x", rate_per_second=9.0, **more)


class Swept:
    """An engine whose sweeps have found nothing to do, and look no further until they are woken."""

    def __init__(self, store: HangingDisk) -> None:
        self.store, self.clock = store, SleepersClock()
        self.engine = engine_on(store, self.clock)
        self.engine.sweep_by(self._act, self._finish)
        self.acted: asyncio.Queue[str] = asyncio.Queue()

    async def _act(self, _: Sweep, saga_id: str) -> str:
        self.acted.put_nowait(saga_id)
        return ""

    async def _finish(self, _: Sweep) -> None:
        """Nothing is left to be done."""

    async def idle(self) -> None:
        """Begin, and return once a round has found nothing."""
        self.engine._sweeps.start()
        for _ in range(3):
            await self.clock.slept.acquire()

    async def next_acted(self) -> str:
        """The next saga on which a sweep acts."""
        async with asyncio.timeout(HANG_SECONDS):
            return await self.acted.get()


@pytest.fixture
async def swept(store: HangingDisk) -> AsyncIterator[Swept]:
    swept = Swept(store)
    yield swept
    swept.engine._sweeps.stop()


async def test_a_sweep_is_taken_up_whose_caller_left_while_it_was_begun(swept: Swept) -> None:
    """It stood still, at 0 of all its sagas, until the process was started anew."""
    await swept.idle()
    await swept.store.leave(swept.engine.begin_sweep(sweep_of(SweepVerb.RETRY), ["s-1"]))
    assert "s-1" == await swept.next_acted()


async def test_a_sweep_is_taken_up_whose_caller_left_while_it_was_resumed(swept: Swept) -> None:
    """As one that is begun."""
    engine, begun = swept.engine, sweep_of(SweepVerb.RETRY)
    number = await engine.begin_sweep(begun, ["s-1"])
    stopped = msgspec.structs.replace(begun, number=number, state=SweepState.STOPPED)
    await swept.store.transact(lambda unit: unit.set_sweep(number, SweepState.STOPPED))
    await swept.idle()
    resumed = engine.set_sweep(stopped, SweepState.RUNNING, actor="kim", reason="x", act_key=KEY)
    await swept.store.leave(resumed)
    assert "s-1" == await swept.next_acted()


async def test_an_order_for_a_sweep_that_is_repeated_wakes_it_as_well(swept: Swept) -> None:
    """It is answered as done: a sweep that has slept through the first one would sleep on."""
    begun = sweep_of(SweepVerb.RETRY)
    woken: list[None] = []
    swept.engine.sweeps_changed = lambda: woken.append(None)
    number = await swept.engine.begin_sweep(begun, ["s-1"], KEY)
    with pytest.raises(ActRepeated):
        await swept.engine.begin_sweep(begun, ["s-1"], KEY)
    stopped, again = msgspec.structs.replace(begun, number=number), ActKey(key="a", digest="d")
    resume = partial(swept.engine.set_sweep, stopped, SweepState.RUNNING, actor="kim", reason="x")
    await resume(act_key=again)
    with pytest.raises(ActRepeated):
        await resume(act_key=again)
    assert 4 == len(woken)


class Held:
    """The pauses of a process that alone could write one, and those that it obeys."""

    def __init__(self, store: HangingDisk) -> None:
        self.changed = asyncio.Event()
        self.held = False
        self.clock = SleepersClock()
        self.pauses = Pauses(store, self.clock, NullObserver(), self._hold)

    def _hold(self, ways: Any) -> None:
        held = PSP in ways
        if held is not self.held:
            self.held = held
            self.changed.set()

    async def becomes(self, held: bool) -> bool:
        """Whether that is so, as soon as it is."""
        async with asyncio.timeout(HANG_SECONDS):
            while self.held is not held:
                self.changed.clear()
                await self.changed.wait()
        return True


@pytest.fixture
async def held(store: HangingDisk) -> AsyncIterator[Held]:
    held = Held(store)
    await held.pauses.start()
    yield held
    held.pauses.stop()


async def test_a_pause_is_obeyed_whose_caller_left_while_it_was_put(
    held: Held, store: HangingDisk
) -> None:
    """It was written, and a repeat was answered as done: nothing was held."""
    await store.leave(held.pauses.put(PAUSE, KEY))
    assert await held.becomes(True)


async def test_a_pause_is_obeyed_whose_commit_was_in_doubt(
    store: HangingDisk, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had landed; a process that alone writes pauses would not have looked."""
    landed = store.transact

    async def in_doubt(work: Callable[[Unit], Awaitable[Any]], **_: Any) -> Any:
        await landed(work)
        raise CommitInDoubt("the writer met MemoryError")

    with monkeypatch.context() as patched:
        patched.setattr(store, "transact", in_doubt)
        with pytest.raises(CommitInDoubt):
            await held.pauses.put(PAUSE, KEY)
    assert await held.becomes(True)


async def test_a_pause_is_over_whose_caller_left_while_it_was_ended(
    held: Held, store: HangingDisk
) -> None:
    """Its sagas were held for seven days, by a pause that nobody could end any more."""
    await held.pauses.put(PAUSE)
    await store.leave(held.pauses.end(PAUSE, "kim", "over", None, KEY))
    assert await held.becomes(False)


async def test_a_pause_is_obeyed_that_could_not_be_read_when_it_was_put(
    held: Held, store: HangingDisk
) -> None:
    """The next look reads it: the order that is given again does not."""
    store.hangs = True
    order = asyncio.ensure_future(held.pauses.put(PAUSE, KEY))
    commit = await store.given.get()
    store.hangs, store.reads_fail = False, 1
    await commit()
    with pytest.raises(StoreUnavailable):
        await order
    assert await held.becomes(True)


async def engine_with_a_saga(store: HangingDisk) -> EmbeddedEngine:
    """An engine that has completed one."""
    engine = engine_on(store, SystemClock())
    await engine.start()
    envelope = Envelope(saga_id="s-1", data={"amount": 1})
    trace = TraceContext()
    await engine.accept(envelope, trace=trace, deadline=None, respond_async=False, wait_seconds=9.0)
    return engine


async def test_bytes_are_written_over_whose_caller_left_while_they_were_erased(
    store: HangingDisk,
) -> None:
    """The saga was shown as erased, and its bytes stayed in the file."""
    engine = await engine_with_a_saga(store)
    await store.leave(engine.erase("s-1", actor="kim", reason="x", dry_run=False, act_key=KEY))
    async with asyncio.timeout(HANG_SECONDS):
        await store.scrubbing.wait()
    store.scrubbed.set()
    await engine.drain(1.0)


async def test_a_sweep_whose_scrub_takes_longer_than_its_worker_is_awaited_is_scrubbed_once(
    store: HangingDisk,
) -> None:
    """The whole file was copied once more each minute, for ever, and no unit ran meanwhile."""
    engine, sweep = engine_on(store, SleepersClock()), sweep_of(SweepVerb.ERASE, number=3, done=2)
    for _ in range(2):  # each leaves after LONG_SECONDS_MAX
        asked = asyncio.ensure_future(engine.finish(sweep))
        await asyncio.sleep(0)
        await store.scrubbing.wait()
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
    again = asyncio.ensure_future(engine.finish(sweep))
    store.scrubbed.set()
    await again
    await engine.finish(sweep)  # another worker had to be awaited longer
    assert 1 == store.scrubs
    await engine.finish(msgspec.structs.replace(sweep, done=3))
    assert 2 == store.scrubs


async def test_a_sweep_whose_scrub_failed_is_scrubbed_again(store: HangingDisk) -> None:
    """A table was in use."""
    engine, sweep = engine_on(store, SleepersClock()), sweep_of(SweepVerb.ERASE, number=3, done=2)
    store.scrubbed.set()
    store.scrub_error = StoreUnavailable("the table journal is in use")
    with pytest.raises(Unsettled):
        await engine.finish(sweep)
    store.scrub_error = None
    await engine.finish(sweep)
    assert 2 == store.scrubs


async def test_a_sweep_that_erased_more_since_its_scrub_is_scrubbed_again(
    store: HangingDisk,
) -> None:
    """It had gone on, and was stopped before the answer about one more saga had come."""
    engine, sweep = await engine_with_a_saga(store), sweep_of(SweepVerb.ERASE, number=3, done=2)
    store.scrubbed.set()
    await engine.finish(sweep)
    assert "" == await engine.act_on(sweep, "s-1")
    await engine.finish(sweep)
    assert 2 == store.scrubs
    await engine.drain(1.0)


async def test_a_sweep_that_erases_while_it_is_scrubbed_is_scrubbed_again(
    store: HangingDisk,
) -> None:
    """The failure of the scrub from before does not count for the next one."""
    engine, sweep = await engine_with_a_saga(store), sweep_of(SweepVerb.ERASE, number=3, done=2)
    store.scrub_error = StoreUnavailable("the table journal is in use")
    before = asyncio.ensure_future(engine.finish(sweep))
    await store.scrubbing.wait()
    assert "" == await engine.act_on(sweep, "s-1")
    store.scrubbing.clear()
    behind = asyncio.ensure_future(engine.finish(sweep))
    async with asyncio.timeout(HANG_SECONDS):
        await store.scrubbing.wait()
    store.scrubbed.set()
    assert [Unsettled] * 2 == [
        type(each) for each in await asyncio.gather(before, behind, return_exceptions=True)
    ]
    store.scrub_error = None
    await engine.finish(sweep)
    assert 3 == store.scrubs
    await engine.drain(1.0)
