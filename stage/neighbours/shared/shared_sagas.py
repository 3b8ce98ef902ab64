"""`GET /sagas?since=` of both neighbours: the sagas that they share with the stage."""

from __future__ import annotations

import time
from collections.abc import Iterable

from aiohttp import web

from stage.wire import headers as h
from stage.wire.envelope import Envelope, encode_envelope, format_instant
from stage.wire.outcome import Outcome
from stage.wire.shared import SHARED_PAGE_MAX, SharedPage, SharedSaga, Side
from stage.wire.strict_json import decode_object
from stage.wire.views import encode_view

Shared = tuple[Envelope, Outcome]
"""The envelope that passed between the neighbour and the stage, and what became of it."""


def shared_page(
    request: web.Request, name: str, side: Side, sagas: Iterable[Shared]
) -> web.Response:
    """A page of them, whenever they changed; `after` counts the sagas of the pages before."""
    now = format_instant(time.time())
    after = request.query.get("after", "0")
    first = int(after) if after.isdigit() else 0
    every = list(sagas)
    behind = first + SHARED_PAGE_MAX
    page = SharedPage(
        stage=name,
        shared_with=request.query.get("with", ""),
        sagas=[
            SharedSaga(
                saga_id=envelope.saga_id,
                side=side,
                outcome=outcome,
                accepted_at=now,
                updated_at=now,
                envelope=decode_object(encode_envelope(envelope)),
            )
            for envelope, outcome in every[first:behind]
        ],
        next=str(behind) if behind < len(every) else None,
    )
    return web.Response(body=encode_view(page), content_type=h.CONTENT_JSON)
