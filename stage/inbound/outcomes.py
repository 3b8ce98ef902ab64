"""The outcome that a caller is told, by the state of the saga."""

from __future__ import annotations

from typing import Final

from stage.core.states import SagaState
from stage.wire.outcome import Outcome

OUTCOMES: Final = {
    SagaState.ACTIVE: Outcome.IN_PROGRESS,
    SagaState.COMPENSATING: Outcome.IN_PROGRESS,
    SagaState.COMPLETED: Outcome.EXECUTED,
    SagaState.COMPENSATED: Outcome.COMPENSATED,
    SagaState.FAILED_TO_COMPENSATE: Outcome.UNKNOWN,
}
