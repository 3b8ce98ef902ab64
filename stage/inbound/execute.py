"""`POST /sagas`: run this stage for the saga in the body (protocol 3.3)."""

from __future__ import annotations

import msgspec
from aiohttp import web

from stage.inbound.middleware import link_saga
from stage.inbound.read import deadline_of, read_body, wait_of
from stage.inbound.render import refusal
from stage.inbound.service import EDGE, SAGA_ID, SPAN
from stage.ports.engine import DeadlineOver, PayloadDiffers
from stage.wire import headers as h
from stage.wire.envelope import decode_envelope
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE


async def execute(request: web.Request) -> web.Response:
    """Accept, join or replay; answer when the saga has ended, or 202 when the wait ran out."""
    edge = request.app[EDGE]
    body = await read_body(request, edge)
    envelope = decode_envelope(body, edge.limits)
    request[SPAN].about(envelope.saga_id)
    request[SAGA_ID] = envelope.saga_id
    edge.observer.bind(envelope.saga_id, request[SPAN].context)
    h.check_idempotency_key(request.headers.getall(h.IDEMPOTENCY_KEY, []), envelope.saga_id)
    deadline = deadline_of(request, envelope.deadline, edge.clock.now())
    wait, respond_async = wait_of(request, edge.wait_seconds_max, edge.wait_seconds_max)
    with edge.admission:
        try:
            reply = await edge.engine.accept(
                envelope,
                trace=request[SPAN].context,
                deadline=deadline,
                respond_async=respond_async,
                wait_seconds=wait,
            )
        except (PayloadDiffers, DeadlineOver) as error:
            raise refusal(error) from None
    if reply is None:
        return _accepted(request, envelope.saga_id, respond_async)
    link_saga(request, reply.traceparent)
    content_type = h.CONTENT_JSON if reply.status == 200 else CONTENT_TYPE
    response = web.Response(status=reply.status, body=reply.body, content_type=content_type)
    response.headers[h.SAGA_ID] = envelope.saga_id
    if reply.replayed:
        response.headers[h.IDEMPOTENCY_REPLAYED] = "true"
    return response


def _accepted(request: web.Request, saga_id: str, respond_async: bool) -> web.Response:
    response = accepted_response(request, saga_id)
    if respond_async:
        response.headers[h.PREFERENCE_APPLIED] = "respond-async"
    return response


def accepted_response(request: web.Request, saga_id: str) -> web.Response:
    """202: durably accepted, still running."""
    body = msgspec.json.encode({"saga_id": saga_id, "outcome": Outcome.IN_PROGRESS})
    response = web.Response(status=202, body=body, content_type=h.CONTENT_JSON)
    response.headers[h.LOCATION] = str(request.app.router["saga"].url_for(saga_id=saga_id))
    response.headers[h.RETRY_AFTER] = "1"
    response.headers[h.SAGA_ID] = saga_id
    return response
