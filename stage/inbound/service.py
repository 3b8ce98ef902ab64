"""What the endpoints find in the application, by typed keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from stage.inbound.admission import Admission
from stage.ports.clock import Clock
from stage.ports.engine import Engine
from stage.ports.neighbour import Neighbours
from stage.ports.observer import Observer, Span
from stage.ports.stage import Participant
from stage.wire.descriptor import Descriptor
from stage.wire.limits import Limits


def anyone(request: web.Request) -> bool:
    """Every caller's trace is joined."""
    return True


Write = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Writes the metrics in the format that an `Accept` asks for: the text and its content type."""


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the endpoints need, given once at start. Times in seconds."""

    engine: Engine
    participant: Participant
    observer: Observer
    clock: Clock
    descriptor: Descriptor
    limits: Limits
    neighbours: Neighbours
    metrics: Write
    admission: Admission = msgspec.field(default_factory=Admission)
    wait_seconds_max: float = 25.0
    body_seconds_max: float = 10.0
    joins_trace: Callable[[web.Request], bool] = anyone
    """Whether the trace that a request names is joined, or only linked to: where callers have to
    say who they are, that of a caller who did not is not to be written into."""


EDGE: web.AppKey[Edge] = web.AppKey("edge", Edge)
SAGA_ID: web.RequestKey[str] = web.RequestKey("saga_id", str)
SPAN: web.RequestKey[Span] = web.RequestKey("span", Span)
