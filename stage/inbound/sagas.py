"""`GET /sagas/{id}` and `GET /sagas`: where a saga stands, what happened, what comes next."""

from __future__ import annotations

from msgspec.structs import replace

from stage.core.questions import awaits_opener, belongs_to
from stage.inbound.allowed import verbs_view
from stage.inbound.caller import not_here, not_yours, permit, requester_of
from stage.inbound.chain import chain
from stage.inbound.filters import filter_of, whole_number
from stage.inbound.principal import NEIGHBOURS, Who
from stage.inbound.read import saga_id_of, wait_of
from stage.inbound.request import Answer, Door, Request, json_answer
from stage.inbound.service import Service
from stage.inbound.shared import shared_sagas
from stage.inbound.views import journal_view, never_seen, plan_view, row_view, view_of_snapshot
from stage.ports.engine import OpenerUnknown, Snapshot
from stage.wire.problem import WireError
from stage.wire.views import SagaPage, SagaView

VIEWS_OF_OPERATORS = ("journal", "plan", "verbs")
"""They show the inside of this stage, which is no neighbour's."""
VIEWERS = frozenset({Who.VIEWER})
PAGE_MAX = 500
JOURNAL_PAGE_MAX = 1_000


async def query_saga(service: Service, request: Request) -> Answer:
    """One saga; `Prefer: wait=N` waits for its end, `?view=journal|plan|chain` shows more."""
    saga_id = saga_id_of(request)
    _admit(service, request)
    view = request.query_values().get("view", [""])[0]
    if view in VIEWS_OF_OPERATORS:
        permit(request.about.principal, VIEWERS)
    if view == "journal":
        return await _journal(service, request, saga_id)
    if view == "chain":
        return json_answer(await chain(service, request, await _own(service, request, saga_id)))
    if view == "verbs":
        snapshot = await _own(service, request, saga_id)
        return json_answer(await verbs_view(service, request, snapshot))
    if view == "plan":
        return json_answer(plan_view(service, await _own(service, request, saga_id)))
    if view:
        raise WireError(
            400,
            "Unknown view",
            f"there is no view {view!r}",
            hint="leave it out, or view=journal, view=plan, view=verbs, view=chain",
        )
    wait, _ = wait_of(request, 0.0, service.wait_seconds_max)
    if wait and request.about.principal.kind in NEIGHBOURS:
        await _own(service, request, saga_id)  # before it may wait
    with service.admission.watch(wait) as seconds:
        snapshot = await _own(service, request, saga_id, seconds)
    shown = view_of_snapshot(service, snapshot)
    return json_answer((await _with_shown(service, request, [shown]))[0])


async def _with_shown(service: Service, request: Request, views: list[SagaView]) -> list[SagaView]:
    """The views with what the author lets operators see; for neighbours as they are."""
    if request.about.principal.kind in NEIGHBOURS:
        return views
    shown = await service.engine.shown({view.saga_id: view.version for view in views})
    return [replace(view, shows=shown.get(view.saga_id, {})) for view in views]


def _admit(service: Service, request: Request) -> None:
    """Shed the queries of a neighbour that takes more than its share. Raises NotSaid."""
    principal = request.about.principal
    if principal.kind in NEIGHBOURS:
        service.admission.query(principal.name)


async def _own(
    service: Service, request: Request, saga_id: str, wait_seconds: float = 0.0
) -> Snapshot:
    """The saga, for a caller that may see it. Raises WireError 404, and 403 for a foreign one.

    A foreign saga is not 404: a neighbour would read that as our word that it was never here.
    """
    snapshot = await service.engine.get_saga(saga_id, wait_seconds)
    if snapshot is None:
        raise never_seen(saga_id)
    principal = request.about.principal
    plan = snapshot.saga.under(service.participant.plan)
    requester = requester_of(principal)
    if not any(belongs_to(plan, snapshot.saga, requester, name) for name in principal.names):
        if awaits_opener(snapshot.saga):
            raise OpenerUnknown(saga_id)
        raise not_yours(f"saga {saga_id} is another caller's than {principal.name!r}")
    return snapshot


async def _journal(service: Service, request: Request, saga_id: str) -> Answer:
    """A page of the journal behind `?after=K`; `Prefer: wait=N` waits for the first entry there."""
    query = request.query_values()
    after = whole_number(query, "after", 0, least=0)
    limit = whole_number(query, "limit", JOURNAL_PAGE_MAX, least=1, most=JOURNAL_PAGE_MAX)
    wait, _ = wait_of(request, 0.0, service.wait_seconds_max)
    with service.admission.watch(wait) as seconds:
        entries = await service.engine.journal(saga_id, after, seconds)
    if not entries and await service.engine.get_saga(saga_id) is None:
        raise never_seen(saga_id)
    return json_answer(journal_view(saga_id, entries, limit))


async def list_sagas(service: Service, request: Request) -> Answer:
    """Narrowed as inbound.filters says; `?after=` is the last id of the page before.

    With `?since=` the list is another one: that of a neighbour (inbound.shared).
    """
    query = request.query_values()
    _admit(service, request)
    if "since" in query:
        return await shared_sagas(service, request)
    if request.door is Door.PUBLIC:
        raise not_here()
    permit(request.about.principal, VIEWERS)
    which = filter_of(service, query, whole_number(query, "limit", 50, least=1, most=PAGE_MAX))
    rows = await service.engine.page(which)
    views = [row_view(service, row) for row in rows]
    views = await _with_shown(service, request, views)
    return json_answer(
        SagaPage(sagas=views, next=rows[-1].id if len(rows) == which.limit else None)
    )
