"""Pauses that are put or ended while one of the workers is away, and given again or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stage.core.act_key import ActKey
from stage.core.pause import Pause
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.erasing import _keep_refusal
from stage.engine.embedded.pauses import Pauses
from stage.engine.saga.repeats import refuse_kept
from stage.engine.workers.duties import Duties
from stage.engine.workers.engine import WorkersEngine
from stage.engine.workers.link import WorkerLink
from stage.engine.workers.placement import Placement
from stage.inbound import pauses as inbound
from stage.ports.engine import ActRepeated, WorkerLost
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from stage.wire.problem import WireError

PSP = "externals.psp"


class SteppedClock:
    """An instant that a test moves."""

    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        """That instant."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """Nobody waits here."""


class Worker:
    """The pauses of one worker, in a file of its own; what its engine and duties say of them."""

    def __init__(self, clock: SteppedClock) -> None:
        self.store, self.clock, self.away = MemoryStore(), clock, False
        self.held: dict[str, Any] = {}
        self.kept = Pauses(self.store, clock, NullObserver(), self.hold)
        self.read_pauses, self.adopt_pauses = self.kept.read, self.kept.adopt
        self.pause, self.resume = self.kept.put, self.end  # under the names that are called

    def hold(self, held: Any) -> None:
        """Obey these."""
        self.held = dict(held)

    @property
    def written_pauses(self) -> tuple[Pause, ...]:
        """As the file has them."""
        return self.kept.written

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """Those in force."""
        return self.kept.active

    async def end(self, pause: Pause, **order: Any) -> bool:
        """As the engine of a process ends one."""
        return await self.kept.end(pause, **order)

    async def refuse_repeat(self, key: ActKey) -> None:
        """As the engine of a process does."""
        refuse_kept(key, await self.store.act_under(key))

    async def refuse_order(self, key: ActKey, why: str) -> None:
        """As the engine of a process does."""
        await self.store.transact(partial(_keep_refusal, key=key, why=why, at=self.clock.now()))

    async def state(self) -> Any:
        """Say how it stands, as far as it matters here."""
        return SimpleNamespace(pauses=self.kept.written)

    async def call(self, name: str, args: Any, kwargs: Any, seconds: float) -> Any:
        """See `WorkerLink.call`."""
        if self.away:
            raise WorkerLost("away")
        return await getattr(self, name)(*args, **kwargs)

    def close(self) -> None:
        """Nothing is open."""


class Stage:
    """A stage of three workers, asked at its first one."""

    def __init__(self, workers: list[Worker], clock: SteppedClock) -> None:
        self.workers, self.clock = workers, clock
        self.engines = [self._engine(index) for index in range(3)]
        self.engine = self.engines[0]

    def _engine(self, index: int) -> WorkersEngine:
        own = self.workers[index]
        links = {n: cast(WorkerLink, each) for n, each in enumerate(self.workers) if n != index}
        engine, duties = cast(EmbeddedEngine, own), cast(Duties, own)
        return WorkersEngine(engine, duties, index, Placement((3,)), links, self.clock)

    async def put(self, key: str = "") -> None:
        """Pause the PSP for a day."""
        now = self.clock.now()
        pause = Pause(target=PSP, at=now, until=now + 86_400, actor="kim", reason="x")
        await self.engine.pause(pause, keyed(key))

    async def end(self, monkeypatch: pytest.MonkeyPatch, key: str = "") -> int:
        """As the endpoint ends it: the code of the answer."""
        order = inbound.ResumeOrder(target=PSP, reason="over", actor="kim")

        async def read(*_: Any) -> inbound.ResumeOrder:
            return order

        monkeypatch.setattr(inbound, "_order", read)
        monkeypatch.setattr(inbound, "act_key_of", lambda *_: keyed(key))
        try:
            return (await inbound.end_pause(cast(Any, self), cast(Any, None))).status
        except WireError as error:
            return error.status
        except WorkerLost:
            return 503

    async def look(self) -> None:
        """Each worker looks how the others stand."""
        for engine in self.engines:
            await engine.ask_others()

    def holding(self) -> list[bool]:
        """Which of the workers hold the PSP."""
        return [PSP in each.held for each in self.workers]


def keyed(key: str) -> ActKey | None:
    """The key of an order, if it has one."""
    return ActKey(key=key, digest="d") if key else None


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Three workers that are there."""
    clock = SteppedClock(1_000.0)
    workers = [Worker(clock) for _ in range(3)]
    for each in workers:
        await each.store.open()
    yield Stage(workers, clock)
    for each in workers:
        await each.store.close()


@pytest.mark.parametrize("away", [1, 2])
async def test_a_pause_is_obeyed_by_a_worker_that_was_away_when_it_was_put(
    stage: Stage, away: int
) -> None:
    """It sent to a peer that `stage pauses` showed as held, until the order was given again."""
    stage.workers[away].away = True
    with pytest.raises(WorkerLost):
        await stage.put("p")
    stage.workers[away].away = False
    await stage.look()
    assert [True] * 3 == stage.holding()


async def test_a_pause_that_the_asked_worker_never_heard_of_is_shown_and_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put at another one, while this one was frozen: it was shown, and ended, nowhere."""
    now = stage.clock.now()
    pause = Pause(target=PSP, at=now, until=now + 86_400, actor="kim", reason="x")
    await stage.workers[2].kept.put(pause)
    await stage.engine.ask_others()
    assert [PSP] == [each.target for each in stage.engine.pauses]
    assert 200 == await stage.end(monkeypatch)
    await stage.look()
    assert [False] * 3 == stage.holding()


async def test_a_pause_that_cannot_be_taken_over_now_does_not_end_the_looks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for a moment: the others seemed to stand for good as they had stood then."""
    now = stage.clock.now()
    pause = Pause(target=PSP, at=now, until=now + 86_400, actor="kim", reason="x")
    await stage.workers[2].kept.put(pause)
    with monkeypatch.context() as patched:

        async def without_memory(_: object) -> None:
            raise MemoryError("for a test")

        patched.setattr(stage.workers[0], "adopt_pauses", without_memory)
        await stage.engine.ask_others()
    await stage.engine.ask_others()
    assert [PSP] == [each.target for each in stage.engine.pauses]


@pytest.mark.parametrize("again", ["", "k", "another"], ids=["not again", "same key", "new key"])
async def test_a_pause_is_ended_at_a_worker_that_was_away_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """It held its sagas for seven days: no list showed that, and no order reached it."""
    await stage.put()
    stage.clock.at += 5
    stage.workers[1].away = True
    assert 503 == await stage.end(monkeypatch, "k")
    assert [False, True, False] == stage.holding()
    stage.workers[1].away = False
    if again:
        assert {"k": 200, "another": 404}[again] == await stage.end(monkeypatch, again)
    await stage.look()
    assert [False] * 3 == stage.holding()
    assert [()] * 3 == [each.pauses for each in stage.workers]


async def test_a_late_copy_of_a_pause_holds_nothing_that_was_let_go(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that was away had not heard of its key, and would have begun the pause anew."""
    stage.workers[1].away = True
    with pytest.raises(WorkerLost):
        await stage.put("p")
    stage.workers[1].away = False
    await stage.look()
    stage.clock.at += 5
    assert 200 == await stage.end(monkeypatch, "k")
    stage.clock.at += 5
    with pytest.raises(ActRepeated):
        await stage.put("p")
    await stage.look()
    assert [False] * 3 == stage.holding()


async def test_a_pause_that_is_put_anew_outlives_the_end_of_the_former_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest word counts, also where the clock was set back in between."""
    await stage.put()
    assert 200 == await stage.end(monkeypatch)
    assert 404 == await stage.end(monkeypatch)
    stage.clock.at -= 60
    stage.workers[1].away = True
    with pytest.raises(WorkerLost):
        await stage.put()
    stage.workers[1].away = False
    await stage.look()
    assert [True] * 3 == stage.holding()
