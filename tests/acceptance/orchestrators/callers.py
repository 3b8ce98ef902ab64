"""The callers of a chain, behind one interface: nobody, a workflow of Temporal, Step Functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from examples.step_functions.interpreter import End, Execution
from examples.temporal.processes import TemporalServer, Worker, chain_file
from stage.demo.chain import LOOPBACK, Service, free_ports, url
from stage.orchestrators.step_functions import document
from stage.orchestrators.temporal.client import Chain, end_of
from stage.orchestrators.temporal.workflow import CompensateAsk
from stage.wire.envelope import format_instant
from tests.acceptance.orchestrators.parts import ORDER, STAGES, UNTIL_SECONDS_MAX, Parts

BUDGET_SECONDS = 30.0
BUDGET_SECONDS_MAX = 3_600
POLL_SECONDS = 0.1
LEASE_SECONDS = 2
"""After so long without a sign of its worker a saga is given to another one."""
OUTCOMES = {
    "completed": "executed",
    document.COMPENSATED: "compensated",
    document.FAILED_TO_COMPENSATE: "failed_to_compensate",
}
ASKED = {"requested_by": "order", "reason": "withdrawn"}


class NotThere(Exception):
    """This caller has no such process."""


class Caller(Protocol):
    """Runs sagas over `parts`. Outcomes are executed, compensated, failed_to_compensate."""

    parts: Parts

    async def start(self) -> None:
        """Start everything."""
        ...

    async def stop(self) -> None:
        """Stop everything."""
        ...

    async def run(self, saga_id: str, seconds: float = BUDGET_SECONDS) -> str:
        """Run a saga, or join its run: the outcome."""
        ...

    async def compensate(self, saga_id: str) -> str:
        """Have a saga compensated, whatever became of it: the outcome."""
        ...

    async def late(self, saga_id: str) -> str:
        """The outcome after the tail has failed late."""
        ...

    async def lose_worker(self) -> None:
        """Kill the process that drives sagas, and start it again. Raises NotThere."""
        ...

    async def lose_server(self) -> None:
        """Kill the server behind it, and start it again. Raises NotThere."""
        ...


class PlainChain:
    """order begins sagas; payment hands them on to shipping."""

    def __init__(self, folder: Path, *engine: str) -> None:
        """`engine` are options of payment."""
        (port,) = free_ports(1)
        door = url(port)
        self.parts = Parts(folder, caller="order", door=door, hands_on=True, engine=engine)
        head = ["stage.neighbours.upstream", "--name", "order", "--stage", self.parts.payment.url]
        head += ["--budget", str(BUDGET_SECONDS_MAX)]
        self._order = Service("order", port, head, folder / "order.log")

    async def start(self) -> None:
        """See `Caller`."""
        await asyncio.gather(self.parts.start(), self._order.start())

    async def stop(self) -> None:
        """See `Caller`."""
        await asyncio.gather(self.parts.stop(), self._order.stop())

    async def run(self, saga_id: str, seconds: float = BUDGET_SECONDS) -> str:
        """See `Caller`."""
        budget_ms = str(int(seconds * 1000))
        headers = {"Saga-Id": saga_id, "Saga-Budget-Ms": budget_ms, "Prefer": "wait=20"}
        where = f"{self._order.url}/orders"
        await self.parts.client.post(where, ORDER, headers, timeout=UNTIL_SECONDS_MAX)
        return await self._ended(saga_id, frozenset({"active", "compensating"}), seconds)

    async def compensate(self, saga_id: str) -> str:
        """See `Caller`."""
        where = f"{self.parts.payment.url}/sagas/{saga_id}/compensate"
        reply = await self.parts.client.post(where, ASKED)
        word = msgspec.json.decode(reply.body)["outcome"]
        return "compensated" if word in ("compensated", "not_executed") else "failed_to_compensate"

    async def late(self, saga_id: str) -> str:
        """See `Caller`."""
        return await self._ended(saga_id, frozenset({"completed", "compensating"}))

    async def _ended(self, saga_id: str, before: frozenset[str], budget: float = 0.0) -> str:
        async with asyncio.timeout(budget + UNTIL_SECONDS_MAX):
            while True:
                saga = await self.parts.client.saga(self._order, saga_id)
                if saga is not None and saga["state"] not in before:
                    return OUTCOMES.get(saga["state"], str(saga["state"]))
                await asyncio.sleep(POLL_SECONDS)

    async def lose_worker(self) -> None:
        """See `Caller`."""
        raise NotThere

    async def lose_server(self) -> None:
        """See `Caller`."""
        raise NotThere


class TemporalEngine(PlainChain):
    """A plain chain whose real stage is driven by workflows: one a saga."""

    def __init__(self, folder: Path) -> None:
        self._server = TemporalServer(folder)
        lease = ("--lease-seconds", str(LEASE_SECONDS))
        where = ("--temporal-address", self._server.address)
        super().__init__(folder, "--engine", "temporal", *where, *lease)

    async def start(self) -> None:
        """See `Caller`."""
        await self._server.start()
        await super().start()

    async def stop(self) -> None:
        """See `Caller`."""
        await super().stop()
        await self._server.kill()

    async def lose_worker(self) -> None:
        """See `Caller`. The worker of the workflows is the stage."""
        await self.parts.payment.kill()
        await self.parts.payment.start()

    async def lose_server(self) -> None:
        """See `Caller`."""
        await self._server.kill()
        await self._server.start()


class TemporalChain:
    """A workflow asks payment, then shipping."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.parts = Parts(folder, caller="temporal", door=url(port))
        self._server = TemporalServer(folder)
        door = f"{LOOPBACK}:{port}"
        file = chain_file(folder, self._server.address, self.parts.urls(), door=door)
        self._worker = Worker(file)
        self._chain: Chain | None = None

    @property
    def chain(self) -> Chain:
        """The chain, once it is started."""
        assert self._chain is not None
        return self._chain

    async def start(self) -> None:
        """See `Caller`."""
        await asyncio.gather(self.parts.start(), self._server.start())
        await self._worker.start()
        client = await Client.connect(self._server.address)
        self._chain = Chain(client, STAGES, task_queue="sagas")

    async def stop(self) -> None:
        """See `Caller`."""
        await self._worker.stop()
        await self.parts.stop()
        await self._server.kill()

    async def run(self, saga_id: str, seconds: float = BUDGET_SECONDS) -> str:
        """See `Caller`."""
        handle = await self.chain.start(saga_id, ORDER, deadline=time.time() + seconds)
        async with asyncio.timeout(seconds + UNTIL_SECONDS_MAX):
            while True:
                try:
                    return (await end_of(handle)).outcome
                except RPCError as error:
                    # The client asks a server that is away for ten seconds; a start takes longer.
                    if error.status is not RPCStatusCode.UNAVAILABLE:
                        raise

    async def compensate(self, saga_id: str) -> str:
        """See `Caller`."""
        asked = CompensateAsk(requested_by="order", reason="withdrawn")
        return (await end_of(await self.chain.compensate(saga_id, asked))).outcome

    async def late(self, saga_id: str) -> str:
        """See `Caller`."""
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            end = await end_of(self.chain.find(saga_id))
            while "executed" == end.outcome:
                end = await end_of(self.chain.find(saga_id))
                await asyncio.sleep(POLL_SECONDS)
        return end.outcome

    async def lose_worker(self) -> None:
        """See `Caller`."""
        await self._worker.kill()
        await self._worker.start()

    async def lose_server(self) -> None:
        """See `Caller`."""
        await self._server.kill()
        await self._server.start()


class StepFunctionsChain:
    """The documents of `stage asl`, interpreted: see `interpreter`."""

    def __init__(self, folder: Path) -> None:
        self.parts = Parts(folder, caller="step_functions", door=url(9))
        self._session: aiohttp.ClientSession | None = None
        self._running: dict[str, asyncio.Task[End]] = {}

    async def start(self) -> None:
        """See `Caller`."""
        await self.parts.start()
        self._session = aiohttp.ClientSession()

    async def stop(self) -> None:
        """See `Caller`."""
        if self._session is not None:
            await self._session.close()
        await self.parts.stop()

    async def run(self, saga_id: str, seconds: float = BUDGET_SECONDS) -> str:
        """See `Caller`. A name that was used joins its execution, as StartExecution does."""
        if saga_id not in self._running:
            given = {"data": ORDER, "deadline": format_instant(time.time() + seconds)}
            execution = self._execution(document.forward(self._document()), saga_id, given)
            self._running[saga_id] = asyncio.create_task(execution.run())
        return _outcome(await self._running[saga_id])

    async def compensate(self, saga_id: str) -> str:
        """See `Caller`."""
        given = {"saga_id": saga_id, "reason": "withdrawn"}
        made = document.backward(self._document())
        return _outcome(await self._execution(made, f"{saga_id}-back", given).run())

    async def late(self, saga_id: str) -> str:
        """See `Caller`. An execution that is over hears of nothing: somebody starts the other."""
        return await self.compensate(saga_id)

    def _execution(self, made: document.State, name: str, given: document.State) -> Execution:
        assert self._session is not None
        return Execution(made, name, given, self._session)

    def _document(self) -> document.Chain:
        connections = dict.fromkeys(STAGES, "arn:aws:events:eu-west-1:1:connection/stage/1")
        return document.Chain(stages=STAGES, urls=self.parts.urls(), connections=connections)

    async def lose_worker(self) -> None:
        """See `Caller`."""
        raise NotThere

    async def lose_server(self) -> None:
        """See `Caller`."""
        raise NotThere


def _outcome(end: End) -> str:
    return OUTCOMES[end.error] if end.error else str(end.output["outcome"])


CALLERS: dict[str, Callable[[Path], Caller]] = {
    "plain": PlainChain,
    "temporal": TemporalChain,
    "temporal_engine": TemporalEngine,
    "step_functions": StepFunctionsChain,
}
