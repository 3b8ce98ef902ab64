"""Peers: how each answers, and what waits for it; pauses, and their ends."""

from __future__ import annotations

from typing import Final

from stage.console import draw
from stage.console.asks import Problem, Reader
from stage.console.forms import read_form, signed
from stage.core.pause import INTAKE, Way
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.problem import WireError
from stage.wire.views import PausesView, PeersView

MINUTES: Final = (15, 60, 240, 1_440)
MINUTE: Final = 60.0


async def peers(service: Service, request: Request) -> Answer:
    """Every peer with its pauses."""
    reader = Reader(service, request)
    found = (await reader.get(PeersView, "/peers")).peers
    return draw.page(
        "peers.html",
        request,
        service.clock.now(),
        peers=found,
        pauses=(await reader.get(PausesView, "/pauses")).pauses,
        targets=[INTAKE, *(each.peer for each in found)],
        ways=list(Way),
        minutes=MINUTES,
    )


async def press_peers(service: Service, request: Request) -> Answer:
    """Begin or end a pause: neither needs a preview, since each takes the other back."""
    reader = Reader(service, request)
    form = await read_form(request)
    order = signed(reader, form, target=form.text("target"))
    if form.text("direction"):
        order["direction"] = form.text("direction")
    if form.text("press") == "end":
        answer = await reader.post(
            "/pauses/end", {**order, "at": form.text("at") or None}, form.key
        )
    else:
        order["seconds"] = _seconds(form.text("minutes"))
        answer = await reader.post("/pauses", order, form.key)
    if isinstance(answer, Problem):
        return draw.page(
            "problem.html", request, service.clock.now(), answer.status, problem=answer
        )
    return draw.to(request, "/peers")


def _seconds(minutes: str) -> float:
    try:
        return float(minutes) * MINUTE
    except ValueError:
        raise WireError(
            400, "Time not understood", "the minutes are no number", hint="such as 60"
        ) from None
