"""`python -m examples.step_functions`: the two documents beside it, two services, and three sagas.

AWS runs the documents as `template.yaml` deploys them. Here a small interpreter does, so that they
can be watched without an account. It needs `jsonata-python`; `make demo` once installs it.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from examples.step_functions.interpreter import End, Execution
from examples.temporal.processes import Services

FOLDER = Path(__file__).parent
STAGES = ("payment", "shipping")
SUBSTITUTION = re.compile(r"\$\{(\w+)\}")
ORDER = {"order_id": "o-1", "amount": 100}


class StateMachines:
    """The documents, with the addresses of services in place of what CloudFormation fills in."""

    def __init__(self, services: Services, session: aiohttp.ClientSession) -> None:
        self._values = {
            name: value
            for stage, service in services.services.items()
            for name, value in (
                (f"{stage.title()}Url", service.url),
                (f"{stage.title()}Connection", f"connection/{stage}"),
            )
        }
        self._session = session

    async def run(self, document: str, name: str, given: dict[str, Any]) -> End:
        """Execute one of them to its end."""
        text = (FOLDER / f"{document}.asl.json").read_text()
        filled = SUBSTITUTION.sub(lambda found: self._values[found[1]], text)
        return await Execution(json.loads(filled), name, given, self._session).run()


async def main() -> None:
    """Start the services, run the stories, stop them."""
    with tempfile.TemporaryDirectory() as name:
        services = Services(Path(name), STAGES)
        try:
            await services.start()
            async with aiohttp.ClientSession() as session:
                await tell(StateMachines(services, session), services)
        finally:
            await services.stop()


async def tell(machines: StateMachines, services: Services) -> None:
    """One saga completes, one is refused by its last stage, one is undone after its end."""
    await show("completed", await machines.run("forward", "completed", {"data": ORDER}), services)
    await services.script("shipping", script="refuse", match="refused")
    await show("refused", await machines.run("forward", "refused", {"data": ORDER}), services)
    await show("late", await machines.run("forward", "late", {"data": ORDER}), services)
    asked = {"saga_id": "late", "reason": "the parcel came back"}
    await show("late", await machines.run("backward", "late-back", asked), services)


async def show(saga_id: str, end: End, services: Services) -> None:
    """Print the end of an execution, and what the services did."""
    outcome = end.error or str(end.output["outcome"])
    stand = ", ".join(
        f"{name} {done} done {stands} stand"
        for name, (done, stands) in zip(STAGES, await services.books(saga_id), strict=True)
    )
    print(f"{saga_id:10} {outcome:18} {stand}")


if __name__ == "__main__":
    asyncio.run(main())
