"""`GET /sagas/{id}` and `GET /sagas`: where a saga stands, what happened, what comes next."""

from __future__ import annotations

import msgspec
from aiohttp import web

from stage.core.states import SagaState
from stage.inbound.chain import chain
from stage.inbound.read import saga_id_of, wait_of
from stage.inbound.service import EDGE
from stage.inbound.views import journal_view, never_seen, plan_view, row_view, view_of_snapshot
from stage.ports.store import Filter
from stage.wire import headers as h
from stage.wire.problem import WireError
from stage.wire.views import SagaPage

PAGE_MAX = 500


async def look(request: web.Request) -> web.Response:
    """One saga; `Prefer: wait=N` waits for a change, `?view=journal|plan|chain` shows more."""
    edge = request.app[EDGE]
    saga_id = saga_id_of(request)
    view = request.query.get("view", "")
    if view == "journal":
        entries = await edge.engine.journal(saga_id)
        if not entries and await edge.engine.get_saga(saga_id) is None:
            raise never_seen(saga_id)
        return _json(journal_view(saga_id, entries))
    if view == "chain":
        snapshot = await edge.engine.get_saga(saga_id)
        if snapshot is None:
            raise never_seen(saga_id)
        return _json(await chain(request, snapshot))
    if view == "plan":
        snapshot = await edge.engine.get_saga(saga_id)
        if snapshot is None:
            raise never_seen(saga_id)
        return _json(plan_view(edge, snapshot))
    if view:
        raise WireError(
            400,
            "Unknown view",
            f"there is no view {view!r}",
            hint="leave it out, or view=journal, view=plan, view=chain",
        )
    wait, _ = wait_of(request, 0.0, edge.wait_seconds_max)
    snapshot = await edge.engine.get_saga(saga_id, wait)
    if snapshot is None:
        raise never_seen(saga_id)
    return _json(view_of_snapshot(edge, snapshot))


async def list_sagas(request: web.Request) -> web.Response:
    """By `?state=` (repeatable) and `?parked=`; `?after=` is the last id of the page before."""
    edge = request.app[EDGE]
    query = request.query
    try:
        states = tuple(SagaState(state) for state in query.getall("state", []))
        told = query.get("limit", "50")
        if not (told.isascii() and told.isdigit() and int(told[:9]) >= 1):
            raise ValueError(f"limit {told!r} is not a number of at least 1")
        limit = min(int(told[:9]), PAGE_MAX)
    except ValueError as error:
        raise WireError(
            400,
            "Query not understood",
            str(error),
            hint=f"states are {', '.join(SagaState)}; limit is 1 to {PAGE_MAX}",
        ) from None
    parked = {"true": True, "false": False}.get(query.get("parked", ""))
    which = Filter(states=states, parked=parked, after=query.get("after", ""), limit=limit)
    rows = await edge.engine.page(which)
    views = [row_view(edge, row) for row in rows]
    return _json(SagaPage(sagas=views, next=rows[-1].id if len(rows) == limit else None))


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=h.CONTENT_JSON)
