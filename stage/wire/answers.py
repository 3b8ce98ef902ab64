"""The answer to `POST /sagas` of a saga that has ended: code and bytes (protocol 3.3)."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from stage.wire.ending import Ending, EndingKind, RenderedAnswer
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType, decode_problem
from stage.wire.replies import encode_executed


def render_ending(ending: Ending) -> RenderedAnswer:
    """Render an ending as HTTP. Raises ValueError when its data cannot be encoded as JSON."""
    hint = "compensate yourself; nothing of this saga stands here or downstream"
    match ending.kind:
        case EndingKind.COMPLETED:
            return RenderedAnswer(status=200, body=encode_executed(ending.saga_id, ending.data))
        case EndingKind.FAILED:
            status, title, kind = 409, "Saga failed", ProblemType.FAILED
        case EndingKind.COMPENSATED:
            status, title, kind = 410, "Saga was compensated", ProblemType.COMPENSATED
        case EndingKind.FORGOTTEN:
            status, title, kind = 410, "Saga was forgotten", ProblemType.FORGOTTEN
            hint = "compensate yourself; an operator here has taken over what may stand"
        case EndingKind.FAILED_TO_COMPENSATE:
            status, title = 500, "Saga failed and could not be undone"
            kind = ProblemType.FAILED_TO_COMPENSATE
            hint = (
                "ask to compensate and compensate yourself; an operator here has to settle the rest"
            )
        case _:
            assert_never(ending.kind)
    problem = Problem(
        type=kind,
        status=status,
        title=title,
        detail=ending.reason or title,
        outcome=ending.outcome,
        retryable=False,
        saga_id=ending.saga_id,
        trace_id=ending.trace_id,
        hint=hint,
        stands=ending.stands,
        may_stand=ending.may_stand,
    )
    return RenderedAnswer(status=status, body=problem.encode())


def render_past_retention(
    saga_id: str, status: int, *, executed: bool, trace_id: str | None
) -> RenderedAnswer:
    """The answer to a duplicate of a saga whose own answer was dropped for its age.

    A compensated one keeps its code. A completed one was answered 200 with what was added to the
    context, which is gone: a 200 without it would let its sender go on without the data.
    """
    if not executed:
        detail = "the answer was dropped for its age; nothing of the saga stands"
        hint = "compensate yourself; nothing of this saga stands here or downstream"
    else:
        status = 410
        detail = "the saga was executed, and what it added to the context was dropped for its age"
        hint = "it stands here and is never run anew: do not go on without its data, and do not"
        hint += " send it under another id; let a person settle it"
    problem = Problem(
        type=ProblemType.PAST_RETENTION,
        status=status,
        title="Past retention",
        detail=detail,
        outcome=Outcome.EXECUTED if executed else Outcome.COMPENSATED,
        retryable=False,
        saga_id=saga_id,
        trace_id=trace_id,
        hint=hint,
    )
    return RenderedAnswer(status=status, body=problem.encode())


def without_contents(saga_id: str, status: int, body: bytes) -> bytes:
    """The answer without its data and without the words of authors and neighbours.

    Code, type and outcome stay, and so do the names of the steps that stand.
    """
    if not body:  # it was dropped for its age
        return b""
    if status == 200:
        return encode_executed(saga_id, {})
    problem = decode_problem(body)
    return b"" if problem is None else replace(problem, detail=problem.title).encode()
