"""Chain, Audit and the search: one saga at every stage, and the acts of people."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

import msgspec

from stage.console import draw
from stage.console.asks import Reader
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.chain import ChainView
from stage.wire.chain_rows import Row, rows_of
from stage.wire.envelope import SAGA_ID_RE, path_of_saga
from stage.wire.problem import WireError
from stage.wire.views import ActPage, SagaView, SweepsView

TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
ACTS: Final = 100
BAR_WIDTH: Final = 240


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the waterfall: from where to where it goes in a picture of BAR_WIDTH."""

    stage: str
    after_ms: int
    label: str
    backward: bool
    x: float
    width: float
    took_ms: int | None
    note: str


async def chain(service: Service, request: Request, *, trace_url: str) -> Answer:
    """The saga as each stage of its chain knows it, and all events by time."""
    path = path_of_saga(request.parameters["saga_id"])
    view = await Reader(service, request).get(ChainView, path, [("view", "chain")])
    rows = rows_of(view)
    first = rows[0].at if rows else 0.0
    last = max((row.at if row.end is None else row.end for row in rows), default=first)
    return draw.page(
        "chain.html",
        request,
        service.clock.now(),
        chain=view,
        bars=[_bar(row, first, max(last - first, 0.001)) for row in rows],
        width=BAR_WIDTH,
        trace_url=trace_url,
    )


def _bar(row: Row, first: float, span: float) -> Bar:
    end = row.at if row.end is None else row.end
    took = None if row.end is None else row.end - row.at
    return Bar(
        stage=row.stage,
        after_ms=round((row.at - first) * 1e3),
        label=row.label,
        backward=row.backward,
        x=round((row.at - first) / span * (BAR_WIDTH - 4), 1),
        width=round(max(3.0, (end - row.at) / span * (BAR_WIDTH - 4)), 1),
        took_ms=None if took is None else round(took * 1e3),
        note="its end is not known" if row.open else row.note,
    )


async def audit(service: Service, request: Request) -> Answer:
    """The acts of people, the newest first, and the sweeps."""
    reader = Reader(service, request)
    given = request.query_values()
    query = [(n, v) for n in ("target", "before") for v in given.get(n, ()) if v]
    target = given.get("target", [""])[0]
    found = await reader.get(ActPage, "/audit", [*query, ("limit", str(ACTS))])
    return draw.page(
        "audit.html",
        request,
        service.clock.now(),
        acts=found.acts,
        target=target,
        next=None if found.next is None else [("target", target), ("before", str(found.next))],
        sweeps=(await reader.get(SweepsView, "/sweeps")).sweeps,
        is_saga=lambda name: "." not in name and SAGA_ID_RE.fullmatch(name) is not None,
    )


async def search(service: Service, request: Request) -> Answer:
    """Go to the saga of that id, or to the list of those with that trace id or number."""
    words = request.query_values().get("q", [""])[0].strip()
    if SAGA_ID_RE.fullmatch(words):
        try:
            found = await Reader(service, request).get(SagaView, path_of_saga(words))
            return draw.to(request, path_of_saga(found.saga_id))
        except WireError as error:
            number = ":" in words or TRACE_ID.fullmatch(words)
            if error.status != 404 or not number:
                raise
    name = "trace_id" if TRACE_ID.fullmatch(words) else "number"
    return draw.to(request, f"/parked?{urlencode({name: words})}")
