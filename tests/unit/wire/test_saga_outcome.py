"""The outcome that is shown of a saga, by its state and whether it was forgotten."""

from __future__ import annotations

import pytest

from stage.core.states import SagaState
from stage.wire.outcome import Outcome
from stage.wire.saga_outcome import outcome_of

BY_STATE = {
    SagaState.ACTIVE: (Outcome.IN_PROGRESS, Outcome.UNKNOWN),
    SagaState.COMPENSATING: (Outcome.IN_PROGRESS, Outcome.UNKNOWN),
    SagaState.COMPLETED: (Outcome.EXECUTED, Outcome.EXECUTED),
    SagaState.COMPENSATED: (Outcome.COMPENSATED, Outcome.COMPENSATED),
    SagaState.FAILED_TO_COMPENSATE: (Outcome.UNKNOWN, Outcome.UNKNOWN),
}


@pytest.mark.parametrize("state", SagaState)
def test_a_forgotten_saga_has_ended_well_or_nobody_knows(state: SagaState) -> None:
    """None is in progress: nothing is ever done for it again."""
    shown, forgotten = BY_STATE[state]
    assert shown == outcome_of(state, forgotten=False)
    assert forgotten == outcome_of(state, forgotten=True)
