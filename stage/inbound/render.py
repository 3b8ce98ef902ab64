"""How the refusals of the engine are said in HTTP."""

from __future__ import annotations

from stage.ports.engine import DeadlineOver, PayloadDiffers
from stage.wire.problem import WireError


def refusal(error: PayloadDiffers | DeadlineOver) -> WireError:
    """The problem of a saga that was not accepted (protocol 3.3)."""
    if isinstance(error, PayloadDiffers):
        return WireError(
            422,
            "Saga id reused with another payload",
            str(error),
            hint="use a new saga id for a new saga; a retry sends the same data",
        )
    return WireError(
        504,
        "Deadline over",
        str(error),
        hint="compensate yourself; nothing was executed here",
    )
