"""Where a saga and its steps can be."""

from __future__ import annotations

from enum import StrEnum


class SagaState(StrEnum):
    """Where the saga stands at this stage. `parked` is a flag beside it, not a state."""

    ACTIVE = "active"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED_TO_COMPENSATE = "failed_to_compensate"


ENDED = frozenset({SagaState.COMPLETED, SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE})


class Phase(StrEnum):
    """Where one step stands."""

    STARTED = "started"
    """An attempt is in flight."""
    WAITING = "waiting"
    """The last attempt did not happen, or is pending downstream; the next is due later."""
    IN_DOUBT = "in_doubt"
    """Nobody knows whether the last attempt happened."""
    PROBING = "probing"
    """A probe is in flight."""
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    COMPENSATING = "compensating"
    """An attempt to undo is in flight."""
    COMPENSATION_WAITING = "compensation_waiting"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    """It cannot be undone by itself; a person has to."""


IN_FLIGHT = frozenset({Phase.STARTED, Phase.PROBING, Phase.COMPENSATING})


class Tell(StrEnum):
    """Whether upstream has to be told that this saga failed after it was told yes."""

    NO = "no"
    DUE = "due"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    REFUSED = "refused"
