"""Replicas of one stage whose sagas are run when and where Temporal says, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowExecutionStatus

from examples.temporal.processes import NoServer, TemporalServer, program
from stage.demo.chain import Service, free_ports, url
from stage.demo.client import Client
from stage.demo.postgres_server import Server
from stage.engine.temporal.workflow import ADVANCE
from tests.acceptance.orchestrators.callers import LEASE_SECONDS
from tests.acceptance.orchestrators.parts import ORDER
from tests.acceptance.orchestrators.tls_front import TlsFront

pytestmark = pytest.mark.asyncio(loop_scope="module")
UNTIL_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05


class World:
    """Replicas of payment on one PostgreSQL, its external API, and Temporal.

    The workers `a` and `b` have the engine of Temporal, `secured` reaches it by TLS, `embedded`
    has its own.
    """

    def __init__(self, folder: Path, database: str) -> None:
        psp, *ports = free_ports(5)
        self.server = TemporalServer(folder)
        self.psp = Service("psp", psp, ["stage.demo.psp"], folder / "psp.log")
        self.front = TlsFront(folder, self.server.address)
        secured = (
            *("--engine", "temporal", "--temporal-address", self.front.address),
            *("--temporal-ca-file", str(self.front.authority.file)),
            *("--temporal-client-cert", str(self.front.client_cert)),
            *("--temporal-client-key", str(self.front.client_key)),
        )
        driven = ("--engine", "temporal", "--temporal-address", self.server.address)
        engines = (driven, driven, (), secured)
        self.a, self.b, self.embedded, self.secured = (
            Service(
                f"payment-{number}",
                port,
                [
                    *("stage", "serve", "stage.demo.payment:payment", "--auth", "none"),
                    *("--database", database, "--external", f"psp={url(psp)}"),
                    *("--upstream", "order=http://127.0.0.1:9"),
                    *("--lease-seconds", str(LEASE_SECONDS)),
                    *engine,
                ],
                folder / f"payment-{number}.log",
            )
            for number, (port, engine) in enumerate(zip(ports, engines, strict=True))
        )
        self.client = Client()

    async def start(self) -> None:
        """Start all that a saga needs: one worker."""
        await self.client.__aenter__()
        await asyncio.gather(self.server.start(), self.psp.start())
        await self.a.start()

    async def stop(self) -> None:
        """Stop all."""
        await self.client.__aexit__()
        replicas = (self.a, self.b, self.embedded, self.secured)
        await asyncio.gather(*(each.stop() for each in (*replicas, self.psp)))
        await self.server.kill()

    async def only_a(self) -> None:
        """Have `a` and the server run, and no other replica."""
        await asyncio.gather(self.b.stop(), self.embedded.stop(), self.secured.stop())
        if not self.server.runs:
            await self.server.start()
        if not self.a.runs:
            await self.a.start()

    async def begin(self, replica: Service, saga_id: str) -> None:
        """Have a replica accept a saga, and wait no longer than for its 202."""
        data = {"saga_id": saga_id, "data": ORDER}
        reply = await self.client.post(
            f"{replica.url}/sagas", data, {"Prefer": "respond-async", "Saga-Budget-Ms": "120000"}
        )
        assert 202 == reply.status, reply

    async def ended(self, replica: Service, saga_id: str) -> dict[str, Any]:
        """The saga once it is over, as a replica shows it."""
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while True:
                saga = await self.client.saga(replica, saga_id)
                if saga is not None and saga["state"] not in ("active", "compensating"):
                    return saga
                await asyncio.sleep(POLL_SECONDS)

    async def until_called(self, replica: Service, saga_id: str, times: int) -> None:
        """Return when the charge was begun so often, by the journal."""
        where = f"{replica.url}/sagas/{saga_id}?view=journal"
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while True:
                entries = (await self.client.get(where))["entries"]
                begun = [each["event"] for each in entries if each.get("step") == "charge"]
                if begun.count("step_started") >= times:
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def runs(self, saga_id: str) -> tuple[WorkflowExecutionStatus | None, int]:
        """How the workflow of a saga stands, and how often it had the saga run."""
        client = await TemporalClient.connect(self.server.address)
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while True:
                async for found in client.list_workflows():
                    if found.id.endswith(f"/{saga_id}"):
                        handle = client.get_workflow_handle(found.id)
                        events = (await handle.fetch_history()).events
                        scheduled = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
                        asked = [each for each in events if each.event_type == scheduled]
                        names = {
                            each.activity_task_scheduled_event_attributes.activity_type.name
                            for each in asked
                        }
                        assert names == {ADVANCE}
                        if found.status is not WorkflowExecutionStatus.RUNNING:
                            return found.status, len(asked)
                await asyncio.sleep(POLL_SECONDS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    await asyncio.to_thread(postgres.sql, "CREATE DATABASE driven")
    made = World(tmp_path_factory.mktemp("driven"), postgres.url("driven"))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def one_worker(world: World) -> AsyncIterator[None]:
    """A test finds `a` and the server up, and nothing else, also behind one that failed."""
    await world.only_a()
    yield


async def test_a_saga_is_run_by_its_workflow(world: World) -> None:
    """One activity runs it, and its workflow ends with it."""
    reply = await world.client.post(
        f"{world.a.url}/sagas", {"saga_id": "driven-1", "data": ORDER}, timeout=UNTIL_SECONDS_MAX
    )
    assert (200, "executed") == (reply.status, msgspec.json.decode(reply.body)["outcome"])
    assert (WorkflowExecutionStatus.COMPLETED, 1) == await world.runs("driven-1")


async def test_a_completed_saga_is_compensated_by_a_run_of_its_own(world: World) -> None:
    """The request is written down, and starts the workflow again."""
    await world.begin(world.a, "undone-1")
    assert "completed" == (await world.ended(world.a, "undone-1"))["state"]
    await world.runs("undone-1")
    reply = await world.client.post(
        f"{world.a.url}/sagas/undone-1/compensate",
        {"requested_by": "order", "reason": "withdrawn"},
        timeout=UNTIL_SECONDS_MAX,
    )
    assert (200, "compensated") == (reply.status, msgspec.json.decode(reply.body)["outcome"])
    assert (1, 0) == await world.client.charges(world.psp, "undone-1")
    assert (WorkflowExecutionStatus.COMPLETED, 1) == await world.runs("undone-1")


async def test_a_saga_whose_worker_is_killed_goes_on_at_the_other(world: World) -> None:
    """In the call: Temporal gives it to the other replica, which settles the doubt by a probe."""
    script = {"script": "effect-then-hang", "times": 1, "match": "killed-1"}
    await world.client.script(world.psp, script)
    await world.begin(world.a, "killed-1")
    await world.client.until_charged(world.psp, "killed-1")
    await world.a.kill()
    await world.b.start()
    saga = await world.ended(world.b, "killed-1")
    assert "completed" == saga["state"]
    assert (1, 1) == await world.client.charges(world.psp, "killed-1")
    assert (WorkflowExecutionStatus.COMPLETED, 1) == await world.runs("killed-1")


async def test_the_embedded_engine_takes_a_saga_over_and_gives_it_back(world: World) -> None:
    """Both are killed in the call that a saga makes: it is charged once, and its workflow ends."""
    script = {"script": "hang", "times": 2, "match": "moved-1"}
    await world.client.script(world.psp, script)
    await world.begin(world.a, "moved-1")
    await world.until_called(world.a, "moved-1", 1)
    await world.a.kill()
    await world.embedded.start()
    await world.until_called(world.embedded, "moved-1", 2)
    await world.embedded.kill()
    await world.a.start()
    assert "completed" == (await world.ended(world.a, "moved-1"))["state"]
    assert (1, 1) == await world.client.charges(world.psp, "moved-1")
    assert (WorkflowExecutionStatus.COMPLETED, 1) == await world.runs("moved-1")


async def test_a_saga_that_comes_while_temporal_is_away_waits_for_it(world: World) -> None:
    """It is written down at once, and run when Temporal is back."""
    await world.server.kill()
    await world.begin(world.a, "patient-1")
    saga = await world.client.saga(world.a, "patient-1")
    assert saga is not None and "active" == saga["state"]
    await world.server.start()
    assert "completed" == (await world.ended(world.a, "patient-1"))["state"]
    assert (1, 1) == await world.client.charges(world.psp, "patient-1")


async def test_a_worker_shows_temporal_its_certificate(world: World) -> None:
    """Over TLS alone: the front lets nobody else in, and the saga is run."""
    await world.a.stop()
    await world.front.start()
    try:
        await world.secured.start()
        await world.begin(world.secured, "secured-1")
        assert "completed" == (await world.ended(world.secured, "secured-1"))["state"]
        assert (WorkflowExecutionStatus.COMPLETED, 1) == await world.runs("secured-1")
        assert world.front.let_in
        await world.secured.stop()
    finally:
        await world.front.stop()
