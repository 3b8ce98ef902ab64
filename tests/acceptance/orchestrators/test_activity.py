"""A stage as the worker of an activity, on an emulator of Step Functions: `ministack`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from stage.demo.chain import LOOPBACK, Service, free_ports
from stage.demo.client import Client
from stage.orchestrators.step_functions import document
from tests.acceptance.orchestrators.parts import ORDER

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("botocore", "ministack")),
        reason="botocore and ministack are missing: pip install botocore ministack",
    ),
]
REGION = "us-east-1"
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1
SECRETS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
}


class World:
    """The emulator, an activity, a state machine that uses it, and the stage that works on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, psp, payment = free_ports(3)
        self.endpoint = f"http://{LOOPBACK}:{self._port}"
        self.psp = Service("psp", psp, ["stage.demo.psp"], folder / "psp.log")
        self._payment_port = payment
        self.payment: Service | None = None
        self.client = Client()
        self.api: Any = None
        self._emulator: Process | None = None
        self._machines: dict[str, str] = {}
        """The ARN of each state machine by its name."""

    async def start(self) -> None:
        """Start all."""
        from botocore.session import get_session

        await self.client.__aenter__()
        self._emulator = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ministack"),
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={
                **os.environ,
                "GATEWAY_PORT": str(self._port),
                "BIND_HOST": LOOPBACK,
                "TMPDIR": str(self._folder),  # where it leaves a file of its port
            },
        )
        await asyncio.gather(self.psp.start(), self._until_open())
        self.api = get_session().create_client(
            "stepfunctions",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        await self._start_stage(await self._make_machine())

    async def _make_machine(self) -> str:
        """Make an activity and the state machines that use it; the ARN of the activity."""
        made = await self.call("create_activity", name="payment")
        activity = str(made["activityArn"])
        chain = document.Chain(stages=("payment",), activities={"payment": activity})
        machines = {
            "by-hand": definition(activity),
            "forward": shown(document.forward(chain)),
            "backward": document.backward(chain),
        }
        for name, states in machines.items():
            made = await self.call(
                "create_state_machine",
                name=name,
                definition=json.dumps(states),
                roleArn="arn:aws:iam::000000000000:role/pay",
            )
            self._machines[name] = made["stateMachineArn"]
        return activity

    async def _start_stage(self, activity: str) -> None:
        self.payment = Service(
            "payment",
            self._payment_port,
            [
                *("stage", "serve", "stage.demo.payment:payment", "--auth", "none"),
                *("--database", f"sqlite:///{self._folder / 'payment.db'}"),
                *("--external", f"psp={self.psp.url}", "--sfn-activity", activity),
            ],
            self._folder / "payment.log",
        )
        os.environ.update({**SECRETS, "AWS_ENDPOINT_URL": self.endpoint})
        try:
            await self.payment.start()
        finally:
            for name in (*SECRETS, "AWS_ENDPOINT_URL"):
                del os.environ[name]

    async def _until_open(self) -> None:
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                try:
                    _, writer = await asyncio.open_connection(LOOPBACK, self._port)
                except OSError:
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    writer.close()
                    return

    async def stop(self) -> None:
        """Stop all."""
        await self.client.__aexit__()
        services = [self.psp, *([] if self.payment is None else [self.payment])]
        await asyncio.gather(*(each.stop() for each in services))
        if self._emulator is not None and self._emulator.returncode is None:
            self._emulator.kill()
            await self._emulator.wait()

    async def call(self, method: str, **given: Any) -> Any:
        """A call of the API."""
        return await asyncio.to_thread(getattr(self.api, method), **given)

    async def run(self, name: str, *, machine: str = "by-hand", **given: Any) -> dict[str, Any]:
        """An execution under that name, once it is over."""
        begun = await self.call(
            "start_execution",
            stateMachineArn=self._machines[machine],
            name=name,
            input=json.dumps(given or {"data": ORDER}),
        )
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                seen = await self.call("describe_execution", executionArn=begun["executionArn"])
                if seen["status"] != "RUNNING":
                    found: dict[str, Any] = seen
                    return found
                await asyncio.sleep(POLL_SECONDS)


def shown(made: dict[str, Any]) -> dict[str, Any]:
    """The document with another last state: the emulator leaves out the output of `Succeed`."""
    last = made["States"]["executed"]
    made["States"]["executed"] = {"Type": "Pass", "Output": last["Output"], "End": True}
    return made


def definition(activity: str) -> dict[str, Any]:
    """One stage forward; whatever it fails with, it is asked to compensate."""
    return {
        "StartAt": "Pay",
        "States": {
            "Pay": {
                "Type": "Task",
                "Resource": activity,
                "HeartbeatSeconds": 20,
                "Parameters": {"saga_id.$": "$$.Execution.Name", "data.$": "$.data"},
                "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Undo"}],
                "End": True,
            },
            "Undo": {
                "Type": "Task",
                "Resource": activity,
                "HeartbeatSeconds": 20,
                "Parameters": {"saga_id.$": "$$.Execution.Name", "compensate": "it failed"},
                "Next": "Undone",
            },
            "Undone": {"Type": "Fail", "Error": "Saga.Compensated"},
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    made = World(tmp_path_factory.mktemp("activity"))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def test_an_execution_has_its_saga_run_by_the_worker(world: World) -> None:
    """Its output is what the stage answered."""
    end = await world.run("s-1")
    assert "SUCCEEDED" == end["status"], end
    assert "executed" == json.loads(end["output"])["outcome"]
    assert (1, 1) == await world.client.charges(world.psp, "s-1")


async def test_a_refused_saga_is_caught_and_compensated(world: World) -> None:
    """The card is declined: the state machine goes its way back."""
    await world.client.script(world.psp, {"script": "refuse", "match": "s-2"})
    end = await world.run("s-2")
    assert "FAILED" == end["status"], end
    assert "Saga.Compensated" == end["error"]
    assert (0, 0) == await world.client.charges(world.psp, "s-2")


async def test_a_doubt_is_settled_under_the_task(world: World) -> None:
    """The answer of the API was lost: the task waits until the probe has found the charge."""
    script = {"script": "effect-then-drop", "times": 1, "match": "s-3"}
    await world.client.script(world.psp, script)
    end = await world.run("s-3")
    assert "SUCCEEDED" == end["status"], end
    assert (1, 1) == await world.client.charges(world.psp, "s-3")


async def test_the_document_by_activities_runs_a_saga_and_takes_it_back(world: World) -> None:
    """As `stage asl --activity` prints it, forward and then backward."""
    end = await world.run("s-4", machine="forward")
    assert "SUCCEEDED" == end["status"], end
    output = json.loads(end["output"])
    assert "executed" == output["outcome"]
    assert {*ORDER, "payment"} <= set(output["data"])
    assert (1, 1) == await world.client.charges(world.psp, "s-4")

    end = await world.run(
        "back-4", machine="backward", saga_id="s-4", reason="the parcel came back"
    )
    assert ("FAILED", "Saga.Compensated") == (end["status"], end["error"]), end
    assert (1, 0) == await world.client.charges(world.psp, "s-4")


async def test_the_document_by_activities_compensates_a_refused_saga(world: World) -> None:
    """The error of the task leads back, and the execution fails with what came of it."""
    await world.client.script(world.psp, {"script": "refuse", "match": "s-5"})
    end = await world.run("s-5", machine="forward")
    assert ("FAILED", "Saga.Compensated") == (end["status"], end["error"]), end
    assert (0, 0) == await world.client.charges(world.psp, "s-5")
