"""The outcome of a saga, in the one member that decides what a neighbour does next."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The part of a saga that stands at the stage that answers and behind it (protocol 3.3)."""

    NOT_EXECUTED = "not_executed"
    """Nothing happened."""
    IN_PROGRESS = "in_progress"
    """It was taken over durably and still runs."""
    EXECUTED = "executed"
    """It is done, here and downstream."""
    COMPENSATED = "compensated"
    """It happened and was undone: nothing of it stands."""
    UNKNOWN = "unknown"
    """Nobody who answers here knows, or a part of it stands."""
