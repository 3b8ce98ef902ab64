"""The outcome of a saga that a caller is shown: by its state, and whether a person gave it up."""

from __future__ import annotations

from typing import Final

from stage.core.states import SagaState
from stage.wire.outcome import Outcome

_OUTCOMES: Final = {
    SagaState.ACTIVE: Outcome.IN_PROGRESS,
    SagaState.COMPENSATING: Outcome.IN_PROGRESS,
    SagaState.COMPLETED: Outcome.EXECUTED,
    SagaState.COMPENSATED: Outcome.COMPENSATED,
    SagaState.FAILED_TO_COMPENSATE: Outcome.UNKNOWN,
}
_ENDED_WELL: Final = frozenset({SagaState.COMPLETED, SagaState.COMPENSATED})


def outcome_of(state: SagaState, *, forgotten: bool) -> Outcome:
    """The outcome that every look at the saga shows.

    A saga that was forgotten keeps its state and never goes on. While it is shown as in progress,
    a caller waits for an end that never comes (decision 0028).
    """
    if forgotten and state not in _ENDED_WELL:
        return Outcome.UNKNOWN
    return _OUTCOMES[state]
