"""The payment service on Temporal: a workflow of activities, or of local activities."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from benchmarks.peers.services.work import (
        Envelope,
        Neighbours,
        Payments,
        Refused,
        answer_of,
        options,
        serve,
    )

QUEUE = "payment"
TIMEOUT = timedelta(seconds=30)
RETRY = RetryPolicy(non_retryable_error_types=[Refused.__name__])


class Activities:
    """The steps that have effects."""

    def __init__(self, payments: Payments, neighbours: Neighbours) -> None:
        self._payments = payments
        self._neighbours = neighbours

    @activity.defn
    async def reserve(self, envelope: dict[str, Any]) -> None:
        """Write the payment down before anything leaves."""
        await self._payments.reserve(envelope)

    @activity.defn
    async def release(self, envelope: dict[str, Any]) -> None:
        """Give the reservation back."""
        await self._payments.release(envelope["saga_id"])

    @activity.defn
    async def charge(self, envelope: dict[str, Any]) -> str:
        """Charge the card."""
        return await self._neighbours.charge(envelope)

    @activity.defn
    async def refund(self, envelope: dict[str, Any]) -> None:
        """Give the money back."""
        await self._neighbours.refund(envelope)

    @activity.defn
    async def record(self, envelope: dict[str, Any], charge_id: str) -> None:
        """Write down what was charged."""
        await self._payments.record(envelope["saga_id"], charge_id)

    @activity.defn
    async def hand_on(self, envelope: dict[str, Any], charge_id: str) -> dict[str, Any]:
        """Call the downstream."""
        return await self._neighbours.hand_on(envelope, charge_id)


@workflow.defn
class Payment:
    """The order of the steps, and their compensations in reverse."""

    @workflow.run
    async def run(self, envelope: dict[str, Any], local: bool) -> dict[str, Any]:
        """The answer for upstream."""
        self._local = local
        compensations: list[Callable[..., Any]] = [Activities.release]
        try:
            await self._do(Activities.reserve, envelope)
            compensations.append(Activities.refund)
            charge_id = await self._do(Activities.charge, envelope)
            await self._do(Activities.record, envelope, charge_id)
            added = await self._do(Activities.hand_on, envelope, charge_id)
        except ActivityError:
            for step in reversed(compensations):
                await self._do(step, envelope)
            raise
        return answer_of(envelope, charge_id, added)

    async def _do(self, step: Callable[..., Any], *arguments: object) -> Any:
        if self._local:
            return await workflow.execute_local_activity_method(
                step, args=arguments, start_to_close_timeout=TIMEOUT, retry_policy=RETRY
            )
        return await workflow.execute_activity_method(
            step, args=arguments, start_to_close_timeout=TIMEOUT, retry_policy=RETRY
        )


async def main() -> None:
    """Serve until the process is ended. The worker is in this process, as a service has it."""
    given = options("server", "database", "activities")
    local = given.activities == "local"
    client = await Client.connect(given.server)
    payments = await Payments.open(given.database)
    does = Activities(payments, Neighbours(given.neighbours, given.downstream))

    async def run(envelope: Envelope) -> dict[str, Any]:
        handle = await client.start_workflow(
            Payment.run,
            args=[envelope, local],
            id=envelope["saga_id"],
            task_queue=QUEUE,
            request_eager_start=local,
        )
        return await handle.result()

    all_of_them = (
        *(does.reserve, does.charge, does.record),
        *(does.hand_on, does.release, does.refund),
    )
    async with Worker(client, task_queue=QUEUE, workflows=[Payment], activities=all_of_them):
        await serve(given.port, run)


if __name__ == "__main__":
    asyncio.run(main())
