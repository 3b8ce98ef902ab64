"""Now: whether the stage works, what is under way, and what waits for a person."""

from __future__ import annotations

from stage.console import draw
from stage.console.asks import Reader
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.views import GroupsView, NowView, PausesView


async def now(service: Service, request: Request) -> Answer:
    """One page, most urgent first."""
    reader = Reader(service, request)
    return draw.page(
        "now.html",
        request,
        service.clock.now(),
        stands=await reader.get(NowView, "/now"),
        groups=(await reader.get(GroupsView, "/groups")).groups,
        pauses=(await reader.get(PausesView, "/pauses")).pauses,
    )
