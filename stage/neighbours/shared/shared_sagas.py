"""`GET /sagas?since=` of both neighbours: the sagas that they share with the stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aiohttp import web

from stage.wire import headers as h
from stage.wire.envelope import Envelope, encode_envelope
from stage.wire.outcome import Outcome
from stage.wire.shared import SHARED_PAGE_MAX, SharedPage, SharedSaga, Side
from stage.wire.strict_json import decode_object
from stage.wire.views import encode_view


class Shared(NamedTuple):
    """One of them: the envelope that passed between the neighbour and the stage, and its end."""

    envelope: Envelope
    outcome: Outcome
    opened_at: str
    """A stage that lost the saga takes it that it was on its way by then."""
    changed_at: str


def shared_page(
    request: web.Request, name: str, side: Side, sagas: Iterable[Shared]
) -> web.Response:
    """A page of them, whenever they changed; `after` counts the sagas of the pages before."""
    after = request.query.get("after", "0")
    first = int(after) if after.isdigit() else 0
    every = list(sagas)
    behind = first + SHARED_PAGE_MAX
    page = SharedPage(
        stage=name,
        shared_with=request.query.get("with", ""),
        sagas=[
            SharedSaga(
                saga_id=saga.envelope.saga_id,
                side=side,
                outcome=saga.outcome,
                accepted_at=saga.opened_at,
                updated_at=saga.changed_at,
                envelope=decode_object(encode_envelope(saga.envelope)),
            )
            for saga in every[first:behind]
        ],
        next=str(behind) if behind < len(every) else None,
    )
    return web.Response(body=encode_view(page), content_type=h.CONTENT_JSON)
