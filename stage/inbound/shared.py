"""`GET /sagas?since=`: the sagas that this stage shares with the neighbour that asks."""

from __future__ import annotations

from stage.inbound.caller import not_yours
from stage.inbound.principal import NEIGHBOURS
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.store import Changes
from stage.wire.envelope import STAGE_NAME_RE, parse_instant
from stage.wire.problem import WireError
from stage.wire.shared import SHARED_PAGE_MAX, SharedPage, cursor_of, parse_cursor


async def shared_sagas(service: Service, request: Request) -> Answer:
    """A page of what changed since then; `?after=` is the `next` of the page before."""
    asker, query = asker_of(request), request.query_values()
    try:
        at, saga_id = parse_instant(query["since"][0]), ""
        if "after" in query:
            at, saga_id = parse_cursor(query["after"][0])
    except ValueError as error:
        raise WireError(
            400,
            "Query not understood",
            str(error),
            hint="since is an instant of RFC 3339, after the `next` of the page before",
        ) from None
    since = Changes(at=at, saga_id=saga_id, limit=SHARED_PAGE_MAX)
    shared = await service.engine.shared(asker, since)
    behind = None if shared.next is None else cursor_of(shared.next.at, shared.next.saga_id)
    stage = service.participant.plan.stage
    return json_answer(SharedPage(stage=stage, shared_with=asker, sagas=shared.sagas, next=behind))


def asker_of(request: Request) -> str:
    """The name of the neighbour that asks, as in the trail of an envelope.

    Operators may ask for any, as may everybody where callers have no names.
    """
    principal = request.about.principal
    name = request.query_values().get("with", [principal.name])[0]
    if principal.kind in NEIGHBOURS and name not in principal.names:
        raise not_yours(f"with is {name!r}, and {principal.name!r} asks")
    if not STAGE_NAME_RE.fullmatch(name):
        raise WireError(
            400,
            "Query not understood",
            "with is not the name of a stage",
            hint="send your own name: the one that the trail of your envelopes ends with",
        )
    return name
