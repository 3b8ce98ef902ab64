"""The descriptor that a stage publishes at `/.well-known/stage`."""

from __future__ import annotations

from typing import Any

import msgspec

from stage.wire.envelope import PROTOCOL
from stage.wire.limits import DEFAULT_LIMITS, Limits


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A stage as its neighbours see it.

    `accepts` and `adds` are JSON Schemas: of what is read from `data`, and of what is put under
    the name of the stage. `pivot` names the call after which the stage only goes forward.
    """

    name: str
    protocol: int = PROTOCOL
    accepts: dict[str, Any]
    adds: dict[str, Any]
    limits: Limits = DEFAULT_LIMITS
    compensation_window_seconds: float
    answers_retention_seconds: float | None = None
    """How long the answer of a saga is kept once its window is over; None: for ever."""
    rows_retention_seconds: float | None = None
    """How long anything is kept of a saga whose id is a UUIDv7; None: for ever."""
    pivot: str | None = None

    def encode(self) -> bytes:
        """The body of the answer: the same descriptor, the same bytes."""
        return msgspec.json.encode(self, order="deterministic")
