"""An attempt that is alone is awaited by its saga's task, which is never in the way."""

from __future__ import annotations

import asyncio

import pytest

from stage.core import events as e
from stage.engine.embedded.inline import HandedOver, await_inline
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.saga.opening import OpenRequest
from stage.ports.observer import TraceContext
from stage.telemetry.null import PassthroughSpan

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
