"""`POST /sagas`: run this stage for the saga in the body (protocol 3.3)."""

from __future__ import annotations

from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.inbound.accepted import accepted, link_saga
from stage.inbound.admission import RETRY_AFTER_SECONDS, NotSaid
from stage.inbound.caller import check_opener
from stage.inbound.former_names import under_its_name
from stage.inbound.read import deadline_of, decoded, key_of, read_json, wait_of
from stage.inbound.refused import barred
from stage.inbound.request import JSON, PROBLEM_JSON, Answer, Request
from stage.inbound.service import Service
from stage.ports.engine import Busy, Reply
from stage.wire import headers as h
from stage.wire.envelope import decode_envelope
from stage.wire.problem import WireError

TOO_LARGE = 413


async def execute(service: Service, request: Request) -> Answer:
    """Accept, join or replay; answer when the saga has ended, or 202 when the wait ran out."""
    await _admit(service, request)  # before the body is read, so that it costs little
    try:
        body = await read_json(request)
    except WireError as error:
        if error.status != TOO_LARGE:
            raise  # a body that broke off is sent again: its sender has no answer
        raise await barred(service, request, error) from None
    try:
        return await _run(service, request, body)
    except WireError as error:
        raise await barred(service, request, error) from None


async def _run(service: Service, request: Request, body: bytes) -> Answer:
    """Run the saga in the body."""
    about = request.about
    envelope = await decoded(
        service.admission.decoding, body, lambda body: decode_envelope(body, service.limits)
    )
    saga_id = about.saga_id = envelope.saga_id
    check_opener(about.principal, envelope)
    about.span.about(saga_id)
    service.observer.bind(saga_id, about.span.context)
    h.check_idempotency_key(request.headers.getall(h.IDEMPOTENCY_KEY, ()), saga_id)
    deadline = deadline_of(request, envelope.deadline, service.clock.now())
    wait, respond_async = wait_of(request, service.wait_seconds_max, service.wait_seconds_max)
    upstream = about.opener = envelope.upstream

    async def accept(name: str) -> Reply | None:
        return await service.engine.accept(
            envelope.sent_by(name),
            trace=about.span.context,
            deadline=deadline,
            respond_async=respond_async,
            wait_seconds=wait,
        )

    try:
        with service.admission.place(saga_id, upstream):
            names = (upstream, *service.neighbours.names_of(upstream))
            reply = await under_its_name(names, accept)
    except CommitInDoubt:
        raise  # it may have been accepted just now
    except (Busy, StoreUnavailable) as error:
        await _check_never_seen(service, saga_id, error)
        raise
    if reply is None:
        applied = ((h.PREFERENCE_APPLIED, "respond-async"),) if respond_async else ()
        return accepted(request, f"sagas/{saga_id}", *applied)
    link_saga(request, reply.traceparent)
    content_type = JSON if reply.status == 200 else PROBLEM_JSON
    replayed = ((h.IDEMPOTENCY_REPLAYED, "true"),) if reply.replayed else ()
    return Answer(status=reply.status, headers=(content_type, *replayed), body=reply.body)


async def _admit(service: Service, request: Request) -> None:
    """Let a start in, or the repeat of one. Raises Busy for a saga never seen, or NotSaid."""
    try:
        service.admission.start(request.about.principal.name)
    except Busy as error:
        saga_id = key_of(request.headers.getall(h.IDEMPOTENCY_KEY, ()))
        if not saga_id:
            raise NotSaid(str(error), error.retry_after) from error
        if await service.lookups.was_seen(saga_id):
            return  # a repeat runs nothing, and its answer is stored or under way
        await _check_never_seen(service, saga_id, error)
        raise


async def _check_never_seen(service: Service, saga_id: str, error: Exception) -> None:
    """Raise NotSaid unless the saga was never seen: `not_executed` has to stay true (I10)."""
    if await service.lookups.was_seen(saga_id) is not False:
        detail = str(error) if isinstance(error, Busy) else "the database is away"
        raise NotSaid(detail, getattr(error, "retry_after", RETRY_AFTER_SECONDS)) from error
