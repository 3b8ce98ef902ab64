"""What the endpoints find in the application, by typed keys."""

from __future__ import annotations

import msgspec
from aiohttp import web

from stage.inbound.admission import Admission
from stage.ports.clock import Clock
from stage.ports.engine import Engine
from stage.ports.observer import Observer, Span
from stage.ports.stage import Participant
from stage.wire.descriptor import Descriptor
from stage.wire.limits import Limits


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the endpoints need, given once at start. Times in seconds."""

    engine: Engine
    participant: Participant
    observer: Observer
    clock: Clock
    descriptor: Descriptor
    limits: Limits
    admission: Admission = msgspec.field(default_factory=Admission)
    wait_seconds_max: float = 25.0
    body_seconds_max: float = 10.0


EDGE: web.AppKey[Edge] = web.AppKey("edge", Edge)
SAGA_ID: web.RequestKey[str] = web.RequestKey("saga_id", str)
SPAN: web.RequestKey[Span] = web.RequestKey("span", Span)
