"""An attempt that is alone is awaited by its saga's task, which is never in the way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from stage import Http, Saga, Stage
from stage.core import events as e
from stage.core.pause import Pause, Way
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.inline import HandedOver, await_inline
from stage.engine.embedded.limits import EngineLimits
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.saga.opening import OpenRequest
from stage.ports.external import ExternalRequest
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver, PassthroughSpan
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest
from tests.unit.engine.test_cost import Agreeable
from tests.waits import until

END = e.StepSucceeded(at=2.0, step="charge")
ASKED = e.AnswerDeferred(at=1.0)


async def answered(after: asyncio.Event) -> e.Event:
    await after.wait()
    return END


async def test_an_attempt_that_nothing_interrupts_ends_in_the_task_of_its_saga() -> None:
    live, answer, others = LiveSaga(OpenRequest(saga_id="s")), asyncio.Event(), list[str]()
    waiting = asyncio.ensure_future(
        await_inline(
            live,
            answered(answer),
            lambda: others.append("another task"),
            PassthroughSpan(TraceContext()),
        )
    )
    await asyncio.sleep(0)
    assert 1 == live.in_flight == len(live.sends)
    answer.set()
    assert END == await waiting
    assert 0 == live.in_flight and not live.sends and not live.inbox and not others


async def test_an_event_that_comes_meanwhile_goes_on_in_another_task_at_once() -> None:
    """It waits for no attempt; the end of the attempt comes into the inbox behind it."""
    live, answer, others = LiveSaga(OpenRequest(saga_id="s")), asyncio.Event(), list[str]()
    waiting = asyncio.ensure_future(
        await_inline(
            live,
            answered(answer),
            lambda: others.append("another task"),
            PassthroughSpan(TraceContext()),
        )
    )
    await asyncio.sleep(0)
    _ = live.post_durably(ASKED)
    live.rouse()
    assert ["another task"] == others  # once, however much comes
    assert 1 == live.in_flight and not waiting.done()
    answer.set()
    with pytest.raises(HandedOver):
        await waiting
    assert [ASKED, END] == [item.event for item in live.inbox]
    assert 0 == live.in_flight


async def test_a_saga_that_is_lost_stops_its_attempt() -> None:
    live, others = LiveSaga(OpenRequest(saga_id="s")), list[str]()
    waiting = asyncio.ensure_future(
        await_inline(
            live,
            answered(asyncio.Event()),
            lambda: others.append("another task"),
            PassthroughSpan(TraceContext()),
        )
    )
    await asyncio.sleep(0)
    live.lose()
    with pytest.raises(HandedOver):
        await waiting
    assert ["another task"] == others and not live.inbox and 0 == live.in_flight


def shop() -> Stage[Any, Any]:
    """Two calls of a group, whose undos run at the same time."""
    stage: Stage[Any, Any] = Stage("shop", accepts=dict[str, Any])

    @stage.call(to="held", timeout=1.0, together="both")
    async def one(http: Http, saga: Saga[Any]) -> None:
        await http.post("/charges", json={})

    @one.compensation
    async def undo_one(http: Http, saga: Saga[Any], made: None) -> None:
        await http.post("/refunds", json={})

    @stage.call(to="late", timeout=1.0, together="both")
    async def other(http: Http, saga: Saga[Any]) -> None:
        await http.post("/charges", json={})

    @other.compensation
    async def undo_other(http: Http, saga: Saga[Any], made: None) -> None:
        await http.post("/refunds", json={})

    return stage


class Away(Agreeable):
    """Two APIs that are away when they are to undo something; one is asked again sooner."""

    def __init__(self) -> None:
        self.undos: list[str] = []
        self.engine: EmbeddedEngine

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """An undo finds no connection; meanwhile an operator holds those of one peer."""
        if outgoing.request.path == "/charges":
            return Answer(status=200, headers=(), body=b"{}")
        self.undos.append(outgoing.peer)
        now = time.time()
        held = Pause(
            target="externals.held", way=Way.BACKWARD, at=now, until=now + 3_600.0,
            actor="kim", reason="their night",
        )  # fmt: skip
        await self.engine.pause(held)
        again = 0.0 if outgoing.peer == "held" else 0.4
        return Lost(reason="refused", certain=True, retry_after=again)


@pytest.mark.parametrize("inline", [True, False])
async def test_an_attempt_that_is_held_keeps_no_other_step_from_its_time(inline: bool) -> None:
    """The undo of one peer waits for the end of a pause; that of the other goes out when due."""
    store, peers = MemoryStore(), Away()
    await store.open()
    engine = EmbeddedEngine(
        shop().bind(()), store, peers.peers, NullObserver(), limits=EngineLimits(inline=inline)
    )
    peers.engine = engine
    await engine.start()
    trace = TraceContext()
    _ = await engine.accept(
        Envelope(saga_id="s-1", data={}),
        trace=trace,
        deadline=None,
        respond_async=False,
        wait_seconds=20.0,
    )
    asked = CompensateRequest(requested_by="order", reason="no room")
    await engine.compensate("s-1", asked=asked, trace=trace, wait_seconds=0.0)
    await until(lambda: peers.undos.count("late") > 1)
    assert 1 == peers.undos.count("held")
    await engine.drain(1.0)
    await store.close()
