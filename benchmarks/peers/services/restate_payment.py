"""The payment service on Restate: a service of durable `ctx.run` steps, behind its ingress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import hypercorn
import hypercorn.asyncio
import restate
from restate.exceptions import TerminalError

from benchmarks.peers.services.work import (
    Envelope,
    Neighbours,
    Payments,
    Refused,
    answer_of,
    options,
)


async def main() -> None:
    """Serve the deployment until the process is ended; Restate calls it."""
    given = options("database")
    payments = await Payments.open(given.database)
    neighbours = Neighbours(given.neighbours)
    payment = restate.Service("payment")

    @payment.handler()
    async def run(ctx: restate.Context, envelope: Envelope) -> dict[str, Any]:
        """Reserve, charge, record, hand on; compensated in reverse when a step is refused."""
        saga_id = envelope["saga_id"]
        compensations: list[tuple[str, Callable[..., Awaitable[None]], object]] = []
        once = restate.RunOptions[Any]()
        try:
            compensations.append(("release", payments.release, saga_id))
            await ctx.run_typed("reserve", payments.reserve, once, envelope)
            compensations.append(("refund", neighbours.refund, envelope))
            charge_id = await ctx.run_typed("charge", charge, once, envelope)
            await ctx.run_typed("record", payments.record, once, saga_id, charge_id)
            added = await ctx.run_typed("hand on", hand_on, once, envelope, charge_id)
        except TerminalError:
            for name, step, argument in reversed(compensations):
                await ctx.run_typed(name, step, once, argument)
            raise
        return answer_of(envelope, charge_id, added)

    async def charge(envelope: Envelope) -> str:
        return str(await final(neighbours.charge(envelope)))

    async def hand_on(envelope: Envelope, charge_id: str) -> dict[str, Any]:
        return dict(await final(neighbours.hand_on(envelope, charge_id)))

    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{given.port}"]
    config.h2_max_concurrent_streams = 2_147_483_647
    config.keep_alive_max_requests = 2_147_483_647
    config.keep_alive_timeout = 2_147_483_647
    await hypercorn.asyncio.serve(restate.app(services=[payment]), config)


async def final(call: Awaitable[Any]) -> Any:
    """A business no must not be repeated."""
    try:
        return await call
    except Refused as error:
        raise TerminalError(str(error), status_code=409) from error


if __name__ == "__main__":
    asyncio.run(main())
