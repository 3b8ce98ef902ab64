"""The door to the console: its routes stand in our table, its pages in a room above this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.problem import WireError


def page(name: str) -> Callable[[Service, Request], Awaitable[Answer]]:
    """The endpoint of the page of that name."""

    async def endpoint(service: Service, request: Request) -> Answer:
        if service.console is None:
            raise WireError(
                404,
                "No console here",
                "the packages that draw the console are not installed",
                hint="pip install 'saga-stage[console]'; the API and the command line have"
                " everything that it shows",
            )
        return await service.console(name, service, request)

    return endpoint
