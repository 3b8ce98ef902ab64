"""How a saga ended at this stage, as a value; a dialect renders it as an answer."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

from stage.wire.outcome import Outcome


class EndingKind(StrEnum):
    """The five ways in which a saga is over."""

    COMPLETED = "completed"
    FAILED = "failed"
    """It turned back by itself, and nothing of it stands."""
    COMPENSATED = "compensated"
    """It was asked to compensate, and nothing of it stands."""
    FAILED_TO_COMPENSATE = "failed_to_compensate"
    FORGOTTEN = "forgotten"
    """An operator gave it up."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one saga. `data` holds what was added to the context, by the name of the stage.

    `reason` is what neighbours may read. `stands` lists the steps whose effects stand, `may_stand`
    those of which nobody knows; None where nothing can.
    """

    saga_id: str
    kind: EndingKind
    outcome: Outcome
    reason: str = ""
    stands: tuple[str, ...] | None = None
    may_stand: tuple[str, ...] | None = None
    data: dict[str, Any] = {}
    trace_id: str | None = None


class RenderedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An ending in one dialect: a code of that dialect, and the bytes."""

    status: int
    body: bytes


Render = Callable[[Ending], RenderedAnswer]
"""Renders an ending once, when it becomes durable; duplicates get the stored bytes."""
