"""The screens by their names in the table of routes, and the page for whatever went wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from stage.console import draw
from stage.console.live import Live
from stage.console.many import parked, press_parked, press_sweep, sweep
from stage.console.now import now
from stage.console.one import press_saga, saga
from stage.console.peers import peers, press_peers
from stage.console.reconcile import press_reconcile, reconcile
from stage.console.story import audit, chain, search
from stage.inbound.problems import answer_of_error
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.problem import WireError, decode_problem

Screen = Callable[[Service, Request], Awaitable[Answer]]


async def file(service: Service, request: Request) -> Answer:
    """The style or the script of the pages."""
    found = draw.file(request.parameters["name"])
    if found is None:
        raise WireError(404, "Not Found", "the console has no such file", hint="see /console")
    return found


SCREENS: Final[Mapping[str, Screen]] = {
    "now": now,
    "parked": parked,
    "press_parked": press_parked,
    "sweep": sweep,
    "press_sweep": press_sweep,
    "press_saga": press_saga,
    "peers": peers,
    "press_peers": press_peers,
    "audit": audit,
    "reconcile": reconcile,
    "press_reconcile": press_reconcile,
    "search": search,
    "file": file,
}


class Console:
    """The console of one stage."""

    def __init__(self, trace_url: str = "") -> None:
        """`trace_url` is where traces are shown, with {trace_id} in it; empty: nowhere."""
        self._screens: Mapping[str, Screen] = {
            **SCREENS,
            "live": Live().answer,
            "saga": partial(saga, trace_url=trace_url),
            "chain": partial(chain, trace_url=trace_url),
        }

    async def show(self, name: str, service: Service, request: Request) -> Answer:
        """The page of that name; a problem of the API is a page too. Raises what is a defect."""
        try:
            return await self._screens[name](service, request)
        except Exception as error:
            answer = answer_of_error(request, error, service.jitter())
            problem = None if answer is None else decode_problem(answer.body)
            if answer is None or problem is None:
                raise
            return draw.page(
                "problem.html", request, service.clock.now(), answer.status, problem=problem
            )
