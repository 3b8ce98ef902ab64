"""A request to run a saga that is refused for what it is: the saga never runs here (I10).

Its sender takes 400, 413 and 422 with `not_executed` for final. A repeat of the same bytes could be
accepted by a later release, so a tombstone is left before that is said (decision 0051).
"""

from __future__ import annotations

from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.inbound.read import key_of
from stage.inbound.request import Request
from stage.inbound.service import Service
from stage.ports.engine import Busy, SagaLost, Unsettled
from stage.ports.ownership import HeldElsewhere
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError

NOT_LEFT = (Busy, SagaLost, StoreUnavailable, CommitInDoubt, Unsettled, HeldElsewhere)
"""Reasons for which no tombstone can be left."""
FINAL = frozenset({400, 413, 422})
REASON = "its first request was refused"
NOT_SURE = "compensate here before yourself: whether anything of this saga stands is not said"


async def barred(service: Service, request: Request, error: WireError) -> WireError:
    """The error to answer with, once it is true for ever.

    `unknown` stands in it where the saga is here, from another request, or where no tombstone could
    be left: a no in doubt, after which the sender asks to compensate. The error stays as it is
    where nobody can tell which saga it was about.
    """
    saga_id = request.about.saga_id or key_of(request.headers.getall(h.IDEMPOTENCY_KEY, ()))
    if error.status not in FINAL or error.outcome is not Outcome.NOT_EXECUTED or not saga_id:
        return error
    request.about.saga_id = saga_id
    try:
        upstream = request.about.opener or request.about.principal.name or "unknown"
        if await service.engine.bar(
            saga_id, upstream=upstream, reason=REASON, trace=request.about.span.context
        ):
            return error
    except NOT_LEFT:
        pass
    return WireError(
        error.status,
        error.title,
        error.detail,
        hint=f"{error.hint}; {NOT_SURE}" if error.hint else NOT_SURE,
        outcome=Outcome.UNKNOWN,
        type=error.type,
    )
