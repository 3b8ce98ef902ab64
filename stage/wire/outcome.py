"""What became of a saga, as told to a neighbour: the one member that decides what it does next."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What stands of a saga at the stage that answers, and behind it (protocol 3.3)."""

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
