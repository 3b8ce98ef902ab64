"""Answers before the commit that ends the saga, and the cases that wait for it (decision 0011)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from stage.core import events as e
from stage.core.states import SagaState
from stage.demo.payment import payment
from stage.engine.clock import SystemClock
from stage.engine.embedded import limits
from stage.engine.embedded.engine import EmbeddedEngine
from stage.ports.engine import Snapshot
from stage.ports.neighbour import (
    CompensateReply,
    ForwardReply,
    InProgress,
    NotExecuted,
    OutcomeReply,
)
from stage.ports.observer import TraceContext
from stage.ports.ownership import Ownership
from stage.ports.stage import Lost
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.store.sole_owner import SoleOwner
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest
from tests.unit.engine.test_cost import ORDER, Agreeable, Counted
from tests.waits import HANG_SECONDS

T = TypeVar("T")


class Unsure(SoleOwner):
    """Another process may write."""

    sure = False


class Shared(MemoryStore):
    """A store that others may write to, or not; it remembers which units were deferrable."""

    alone = True
    deferrable: list[bool]

    @property
    def ownership(self) -> Ownership:
        """Sure of what it owns, or never sure."""
        return super().ownership if self.alone else Unsure(self.due)

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """Remember, and run."""
        self.deferrable.append(deferrable)
        return await super().transact(work, deferrable=deferrable)


@pytest.mark.parametrize("alone", [True, False])
async def test_where_others_write_the_answer_waits_for_its_commit(alone: bool) -> None:
    """A process that lost the saga without knowing it must not answer (rule 17)."""
    assert payment.migrations is not None
    store = Shared(migrations=(payment.migrations,))
    store.alone, store.deferrable = alone, []
    await store.open()
    engine = EmbeddedEngine(payment.bind(("shipping",)), store, Agreeable().peers, NullObserver())
    await engine.start()
    await Counted(engine, Counter()).run("s-1")
    await engine.drain(1.0)
    await store.close()
    assert alone is any(store.deferrable)


class Stuck(Shared):
    """Deferrable units are never written."""

    reachable = True

    @property
    def available(self) -> bool:
        """As the test sets it."""
        return self.reachable

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """Run it, or wait for ever."""
        if deferrable:
            await asyncio.Event().wait()
        return await super().transact(work, deferrable=deferrable)


@pytest.mark.parametrize("reachable, seconds", [(True, 0.01), (False, 3600.0)])
async def test_a_query_does_not_wait_long_for_an_end_that_is_not_written(
    monkeypatch: pytest.MonkeyPatch, reachable: bool, seconds: float
) -> None:
    """At most WRITTEN_SECONDS_MAX, and not at all while the database is away."""
    monkeypatch.setattr(limits, "WRITTEN_SECONDS_MAX", seconds)
    assert payment.migrations is not None
    store = Stuck(migrations=(payment.migrations,))
    store.deferrable = []
    await store.open()
    engine = EmbeddedEngine(payment.bind(("shipping",)), store, Agreeable().peers, NullObserver())
    await engine.start()
    await Counted(engine, Counter()).run("s-1")
    store.reachable = reachable

    async with asyncio.timeout(HANG_SECONDS):
        entries = await engine.journal("s-1")
    assert entries and not isinstance(entries[-1].event, e.Completed)
    await engine.drain(0.0)
    await store.close()


class Showing(Agreeable):
    """A downstream with scripted answers, taken in turn; after them it says yes."""

    def __init__(self, looks: Sequence[OutcomeReply], replays: Sequence[ForwardReply]) -> None:
        self.looks, self.replays = list(looks), list(replays)
        self.asked: list[str] = []
        self.budgets: list[float | None] = []
        self.bodies: set[bytes] = set()

    async def get_outcome(self, peer: str, saga_id: str, **more: Any) -> OutcomeReply:
        """The next of them."""
        self.asked.append("look")
        return self.looks.pop(0) if self.looks else await super().get_outcome(peer, saga_id, **more)

    async def forward(self, peer: str, saga_id: str, body: bytes, **more: Any) -> ForwardReply:
        """Done at first, then the next of them."""
        self.budgets.append(more["budget"])
        self.bodies.add(body)
        self.asked.append("forward")
        if len(self.budgets) > 1 and self.replays:
            return self.replays.pop(0)
        return await super().forward(peer, saga_id, body, **more)

    async def compensate(
        self, peer: str, saga_id: str, request: CompensateRequest, **more: Any
    ) -> CompensateReply:
        """Done."""
        self.asked.append("compensate")
        return await super().compensate(peer, saga_id, request, **more)


class Later(SystemClock):
    """A clock that can be put forward."""

    ahead = 0.0

    def now(self) -> float:
        """See ports.clock.Clock."""
        return super().now() + self.ahead


async def in_the_end(engine: EmbeddedEngine) -> Snapshot:
    """The saga once it has ended."""
    async with asyncio.timeout(HANG_SECONDS):
        while (seen := await engine.get_saga("s-1", 1.0)) is None or not seen.saga.ended:
            pass
    return seen


LOST = Lost(reason="no answer", retry_after=0.02)
RUNS = InProgress(retry_after=0.01)
TURNED_AWAY = NotExecuted(reason="answered 403")
OVER = NotExecuted(reason="answered 410", saga_over=True)


@pytest.mark.parametrize(
    "looks, replays, asked",
    [
        ([], [], "look forward"),
        ([LOST, RUNS], [], "look look look forward"),
        ([], [LOST, RUNS, TURNED_AWAY], "look forward " * 3 + "look forward"),
        ([OVER], [], "look compensate"),
        ([LOST, OVER], [], "look look compensate"),
        ([], [OVER], "look forward compensate"),
        ([TURNED_AWAY], [], "look look forward"),
    ],
)
# Long because it is one story over two processes.
async def test_after_the_deadline_an_end_that_was_lost_is_looked_for(
    looks: Sequence[OutcomeReply], replays: Sequence[ForwardReply], asked: str
) -> None:
    """A saga answered 200 completes, unless downstream itself says that it is not done there."""
    assert payment.migrations is not None
    store, clock = Stuck(migrations=(payment.migrations,)), Later()
    store.deferrable = []
    await store.open()
    downstream = Showing(looks, replays)
    stage = payment.bind(("shipping",))
    first = EmbeddedEngine(stage, store, downstream.peers, NullObserver(), clock=clock)
    await first.start()
    reply = await first.accept(
        Envelope(saga_id="s-1", data=ORDER),
        trace=TraceContext(),
        deadline=clock.now() + 60.0,
        respond_async=False,
        wait_seconds=20.0,
    )
    assert reply is not None and 200 == reply.status
    await first.drain(0.0)  # its end was not written

    clock.ahead = 3600.0
    again = EmbeddedEngine(stage, store, downstream.peers, NullObserver(), clock=clock)
    await again.start()
    seen = await in_the_end(again)
    entries = await again.journal("s-1")
    await again.drain(0.0)
    await store.close()
    vain = [each for each in (*looks, *replays) if each is not OVER]
    assert [getattr(each, "retry_after", None) for each in vain] == [
        each.event.retry_after for each in entries if isinstance(each.event, e.ProbeFailed)
    ]
    assert ["forward", *asked.split()] == downstream.asked
    assert {None} >= set(downstream.budgets[1:]), "an answer that is only repeated has no budget"
    assert 1 == len(downstream.bodies), "it is asked for with the bytes that were sent"
    if "compensate" in asked:
        assert SagaState.COMPENSATED is seen.saga.state
    else:
        assert reply.body == seen.row.answer_body
