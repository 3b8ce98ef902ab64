"""A chain driven by a workflow: what the stages really did, in each story."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from examples.temporal.processes import (
    POLL_SECONDS,
    STAGES,
    NoServer,
    Services,
    TemporalServer,
    Worker,
    program,
)
from stage.orchestrators.temporal.client import Chain, Handle, end_of
from stage.orchestrators.temporal.workflow import COMPENSATE, ChainEnd, CompensateAsk

DATA = {"order_id": "o-1", "amount": 100}
EXECUTED = [(1, 1)] * 3
ONLY_COMPENSATED = [(1, 0)] * 3
NOTHING = (0, 0)
WAIT_SECONDS_MAX = 60.0
CANCELLED_SECONDS = 1.0
"""The worker hears of a cancellation meanwhile."""


class World:
    """All that a story needs."""

    def __init__(self, folder: Path) -> None:
        self.server = TemporalServer(folder)
        self.services = Services(folder)
        self.worker = Worker(self.services.config(folder, self.server))
        self.chain: Chain | None = None

    async def start(self) -> None:
        await self.server.start()
        await self.services.start()
        await self.worker.start()
        client = await Client.connect(self.server.address)
        self.chain = Chain(client, STAGES, task_queue="sagas")

    async def stop(self) -> None:
        await self.worker.stop()
        await self.services.stop()
        await self.server.kill()

    async def run(self, saga_id: str, *, deadline: float | None = None) -> ChainEnd:
        """Start a saga and wait for its end."""
        assert self.chain is not None
        return await end_of(await self.chain.start(saga_id, DATA, deadline=deadline))

    async def compensate(self, saga_id: str) -> ChainEnd:
        """Ask to compensate and wait for the end."""
        assert self.chain is not None
        asked = CompensateAsk(requested_by="kim", reason="withdrawn")
        return await end_of(await self.chain.compensate(saga_id, asked))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    found = World(tmp_path_factory.mktemp("temporal"))
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_it_completes_and_returns_what_all_added(world: World) -> None:
    end = await world.run("t-done")
    assert "executed" == end.outcome
    assert {name: {"id": f"{name}-t-done"} for name in STAGES} == end.data
    assert EXECUTED == await world.services.books("t-done")


@pytest.mark.parametrize("place", range(3))
async def test_a_no_undoes_those_before_it(world: World, place: int) -> None:
    saga_id = f"t-refused-{place}"
    await world.services.script(STAGES[place], script="refuse", match=saga_id)
    end = await world.run(saga_id)
    assert "compensated" == end.outcome
    assert end.reason.startswith(STAGES[place])
    assert [(1, 0)] * place + [NOTHING] * (3 - place) == await world.services.books(saga_id)


async def test_a_lost_answer_is_asked_again_and_done_once(world: World) -> None:
    await world.services.script("payment", script="crash-answer", match="t-lost", times=1)
    assert "executed" == (await world.run("t-lost")).outcome
    assert EXECUTED == await world.services.books("t-lost")


async def test_a_gateway_s_no_is_in_doubt_and_compensated(world: World) -> None:
    await world.services.script("payment", script="gateway", code=403, match="t-gate")
    end = await world.run("t-gate", deadline=time.time() + 3)
    assert "compensated" == end.outcome
    assert [(1, 0), (1, 0), NOTHING] == await world.services.books("t-gate")


async def test_a_late_failure_undoes_a_saga_that_is_over(world: World) -> None:
    assert "executed" == (await world.run("t-late")).outcome
    assert "compensated" == (await world.compensate("t-late")).outcome
    assert ONLY_COMPENSATED == await world.services.books("t-late")


async def test_a_stage_that_fails_late_has_the_others_compensated(world: World) -> None:
    """It asks the orchestrator, its upstream, when the workflow is over already."""
    await world.services.script("shipping", script="late-failure", seconds=0.5, match="t-tail")
    assert "executed" == (await world.run("t-tail")).outcome
    await world.services.until("t-tail", ONLY_COMPENSATED)
    assert world.chain is not None
    assert "compensated" == (await end_of(world.chain.find("t-tail"))).outcome


async def test_a_late_failure_turns_a_saga_that_is_further_on(world: World) -> None:
    """The first stage fails while the second one works."""
    await world.services.script("inventory", script="late-failure", seconds=0.2, match="t-head")
    await world.services.script("payment", script="slow", seconds=2.0, match="t-head")
    assert "compensated" == (await world.run("t-head")).outcome
    assert all(standing == 0 for _, standing in await world.services.books("t-head"))
    assert NOTHING == (await world.services.books("t-head"))[2]


async def test_compensated_before_it_comes_it_never_runs(world: World) -> None:
    assert "compensated" == (await world.compensate("t-early")).outcome
    assert "compensated" == (await world.run("t-early")).outcome
    assert [NOTHING] * 3 == await world.services.books("t-early")


async def test_a_request_to_compensate_turns_a_running_saga_round(world: World) -> None:
    await world.services.script("payment", script="hang", match="t-turn")
    assert world.chain is not None
    running = await world.chain.start("t-turn", DATA)
    await world.services.until_asked("payment", "t-turn")
    await world.compensate("t-turn")
    assert "compensated" == (await end_of(running)).outcome
    assert all(standing == 0 for _, standing in await world.services.books("t-turn"))


async def test_a_cancelled_workflow_leaves_nothing(world: World) -> None:
    await world.services.script("shipping", script="hang", match="t-cancel")
    assert world.chain is not None
    running = await world.chain.start("t-cancel", DATA)
    await world.services.until_asked("shipping", "t-cancel")
    await running.cancel()
    assert "compensated" == (await end_of(running)).outcome
    assert all(standing == 0 for _, standing in await world.services.books("t-cancel"))


async def test_a_cancellation_on_the_way_back_ends_no_asking(world: World) -> None:
    """A stage is away, an operator cancels in impatience: it is asked until it is back."""
    saga_id = "t-back"
    await world.services.script("shipping", script="refuse", match=saga_id)
    away = {"script": "compensate-gateway", "code": 503, "match": saga_id}
    await world.services.script("payment", **away)
    assert world.chain is not None
    running = await world.chain.start(saga_id, DATA)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not (await pending(running))[COMPENSATE] > 1:  # noqa: ASYNC110 - another process
            await asyncio.sleep(POLL_SECONDS)
    await running.cancel()
    await asyncio.sleep(CANCELLED_SECONDS)
    await world.services.script("payment", script="accept", match=saga_id)
    assert "compensated" == (await end_of(running)).outcome
    assert [(1, 0), (1, 0), NOTHING] == await world.services.books(saga_id)


async def pending(running: Handle) -> Counter[str]:
    """How often the activities that are not done were begun, by type."""
    described = await running.describe()
    activities = described.raw_description.pending_activities
    return Counter({each.activity_type.name: each.attempt for each in activities})


async def test_duplicates_are_one_run_with_one_answer(world: World) -> None:
    ends = [await world.run("t-twice") for _ in range(3)]
    assert ends[0] == ends[1] == ends[2]
    assert EXECUTED == await world.services.books("t-twice")


async def test_a_deadline_ends_the_way_forward_and_not_the_way_back(world: World) -> None:
    await world.services.script("shipping", script="hang", match="t-deadline")
    end = await world.run("t-deadline", deadline=time.time() + 2)
    assert "compensated" == end.outcome
    assert all(standing == 0 for _, standing in await world.services.books("t-deadline"))


async def test_an_effect_that_stays_is_named_and_does_not_stop_the_others(world: World) -> None:
    await world.services.script("payment", script="compensate-fails", match="t-fails")
    assert "executed" == (await world.run("t-fails")).outcome
    end = await world.compensate("t-fails")
    assert ("failed_to_compensate", ["payment"]) == (end.outcome, end.stands)
    assert [(1, 0), (1, 1), (1, 0)] == await world.services.books("t-fails")
    await world.services.script("payment", script="accept", match="t-fails")
    assert "compensated" == (await world.compensate("t-fails")).outcome  # by a person, again
    assert ONLY_COMPENSATED == await world.services.books("t-fails")


async def test_a_worker_that_is_stopped_hands_its_sagas_over(world: World) -> None:
    """SIGTERM: another worker goes on at once. The kills are in the suite for all callers."""
    await world.services.script("payment", script="slow", seconds=1.0, match="t-stop")
    assert world.chain is not None
    running = await world.chain.start("t-stop", DATA)
    await world.services.until_asked("payment", "t-stop")
    assert 0 == await world.worker.stop()
    await world.worker.start()
    assert "executed" == (await end_of(running)).outcome
    assert EXECUTED == await world.services.books("t-stop")
