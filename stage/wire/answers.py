"""The answer to `POST /sagas` of a saga that has ended: code and bytes (protocol 3.3)."""

from __future__ import annotations

from typing import assert_never

from stage.wire.ending import Ending, EndingKind, RenderedAnswer
from stage.wire.problem import Problem
from stage.wire.replies import encode_executed


def render_ending(ending: Ending) -> RenderedAnswer:
    """Render an ending as HTTP. Raises ValueError when its data cannot be encoded as JSON."""
    hint = "compensate yourself; nothing of this saga stands here or downstream"
    match ending.kind:
        case EndingKind.COMPLETED:
            return RenderedAnswer(status=200, body=encode_executed(ending.saga_id, ending.data))
        case EndingKind.FAILED:
            status, title = 409, "Saga failed"
        case EndingKind.COMPENSATED:
            status, title = 410, "Saga was compensated"
        case EndingKind.FORGOTTEN:
            status, title = 410, "Saga was forgotten"
            hint = "compensate yourself; an operator here has taken over what may stand"
        case EndingKind.FAILED_TO_COMPENSATE:
            status, title = 500, "Saga failed and could not be undone"
            hint = (
                "ask to compensate and compensate yourself; an operator here has to settle the rest"
            )
        case _:
            assert_never(ending.kind)
    problem = Problem(
        status=status,
        title=title,
        detail=ending.reason or title,
        outcome=ending.outcome,
        retryable=False,
        saga_id=ending.saga_id,
        trace_id=ending.trace_id,
        hint=hint,
        stands=ending.stands,
    )
    return RenderedAnswer(status=status, body=problem.encode())
