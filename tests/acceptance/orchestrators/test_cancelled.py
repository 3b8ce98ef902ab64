"""A cancellation, or a request to compensate, that comes together with an answer of a stage: both
in one workflow task.

The worker of workflows is stopped while a stage is asked, so that the next one finds both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Worker

from examples.temporal.processes import POLL_SECONDS, NoServer, TemporalServer, program
from stage.orchestrators.temporal.client import Chain, Handle, end_of
from stage.orchestrators.temporal.workflow import (
    COMPENSATE,
    EXECUTE,
    CompensateAsk,
    SagaChain,
    StageAsk,
)

STAGES = ("inventory", "payment", "shipping")
QUEUE = "sagas"
WAIT_SECONDS_MAX = 60.0


class Stages:
    """In place of all stages: each does what it is asked to, once the door is open."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.undone: list[str] = []
        self.begun = asyncio.Event()
        self.door = asyncio.Event()

    @activity.defn(name=EXECUTE)
    async def execute(self, ask: StageAsk) -> dict[str, Any]:
        """Run one stage."""
        self.begun.set()
        await self.door.wait()
        self.done.append(ask.stage)
        return {ask.stage: {}}

    @activity.defn(name=COMPENSATE)
    async def compensate(self, ask: StageAsk) -> None:
        """Answer for one stage."""
        self.begun.set()
        await self.door.wait()
        self.undone.append(ask.stage)


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Client]:
    """A client of a dev server of its own."""
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    server = TemporalServer(folder)
    try:
        await server.start()
        yield await Client.connect(server.address)
    finally:
        await server.kill()


async def until_answered(running: Handle) -> None:
    """Return when the history has the end of an activity."""
    done = EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while done not in await types_in(running):  # noqa: ASYNC110 - another process
            await asyncio.sleep(POLL_SECONDS)


async def types_in(running: Handle) -> set[int]:
    """The types of the events that its history has by now."""
    return {event.event_type for event in (await running.fetch_history()).events}


@pytest.mark.timeout(150)
async def test_all_are_asked_where_a_cancellation_comes_with_an_answer(tmp_path: Path) -> None:
    """The saga ends compensated, and none of its stages is left out."""
    stages, workflows = Stages(), [SagaChain]
    async with (
        connected(tmp_path) as client,
        Worker(client, task_queue=QUEUE, activities=[stages.compensate]),
    ):
        chain = Chain(client, STAGES, task_queue=QUEUE)
        async with Worker(client, task_queue=QUEUE, workflows=workflows):
            running = await chain.compensate("t-both", CompensateAsk(requested_by="kim"))
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await stages.begun.wait()
        await running.cancel()
        stages.door.set()
        await until_answered(running)
        async with Worker(client, task_queue=QUEUE, workflows=workflows):
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                assert "compensated" == (await end_of(running)).outcome
    assert list(reversed(STAGES)) == stages.undone


@pytest.mark.timeout(150)
@pytest.mark.parametrize("answer_first", [True, False])
@pytest.mark.parametrize("by", ["signal", "cancellation"])
async def test_no_further_stage_is_run_where_a_turn_comes_with_an_answer(
    tmp_path: Path, by: str, answer_first: bool
) -> None:
    """The stage that has answered is compensated, and those behind it are never asked."""
    stages, workflows = Stages(), [SagaChain]
    both = [stages.execute, stages.compensate]
    async with (
        connected(tmp_path) as client,
        Worker(client, task_queue=QUEUE, activities=both),
    ):
        chain = Chain(client, STAGES, task_queue=QUEUE)
        async with Worker(client, task_queue=QUEUE, workflows=workflows):
            running = await chain.start("t-turned", {})
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await stages.begun.wait()
        if answer_first:
            stages.door.set()
            await until_answered(running)
        if by == "signal":
            await chain.compensate("t-turned", CompensateAsk(requested_by="kim"))
        else:
            await running.cancel()
        stages.door.set()
        await until_answered(running)
        async with Worker(client, task_queue=QUEUE, workflows=workflows):
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                assert "compensated" == (await end_of(running)).outcome
    assert [STAGES[0]] == stages.done == stages.undone
