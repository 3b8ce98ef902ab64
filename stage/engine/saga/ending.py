"""The ending of a saga that is over, out of its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from stage.core.questions import Standing, anything_stood, standing, standing_apart
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import FORWARD_PREFIX, Plan
from stage.engine.saga.context import Context, Output, output_of
from stage.ports.stage import Participant
from stage.wire.ending import Ending, EndingKind
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.replies import check_executed
from stage.wire.strict_json import is_plain


def ending_of(
    participant: Participant, saga: Saga, context: Context, output: Output = UNSET
) -> Ending:
    """The ending of a saga that has ended or was forgotten; `output` may be known already."""
    kind, outcome = _kind_of(saga)
    data: dict[str, Any] = {}
    if kind is EndingKind.COMPLETED:
        if output is UNSET:
            output = output_of(participant, saga, context, saga.updated_at)
        results = {name: step.result for name, step in saga.steps.items()}
        data = _added(participant.plan.stage, context.data, results, output)
    stands, may_stand = _standing(saga.under(participant.plan), saga, kind)
    return Ending(
        saga_id=saga.id,
        kind=kind,
        outcome=outcome,
        reason=saga.detail,
        stands=stands,
        may_stand=may_stand,
        data=data,
        trace_id=context.trace.trace_id or None,
    )


def completed_ending(
    participant: Participant,
    saga_id: str,
    context: Context,
    results: Mapping[str, msgspec.Raw | None],
    output: msgspec.Raw | None,
) -> Ending:
    """The ending of a saga that completed, made from its results without its state."""
    return Ending(
        saga_id=saga_id,
        kind=EndingKind.COMPLETED,
        outcome=Outcome.EXECUTED,
        data=_added(participant.plan.stage, context.data, results, output),
        trace_id=context.trace.trace_id or None,
    )


def _kind_of(saga: Saga) -> tuple[EndingKind, Outcome]:
    if saga.state is SagaState.COMPLETED:
        return EndingKind.COMPLETED, Outcome.EXECUTED
    if saga.forgotten and saga.state is not SagaState.COMPENSATED:
        return EndingKind.FORGOTTEN, Outcome.UNKNOWN
    if saga.state is SagaState.FAILED_TO_COMPENSATE:
        return EndingKind.FAILED_TO_COMPENSATE, Outcome.UNKNOWN
    outcome = Outcome.COMPENSATED if anything_stood(saga) else Outcome.NOT_EXECUTED
    return EndingKind.COMPENSATED if saga.requested_by else EndingKind.FAILED, outcome


def _standing(
    plan: Plan, saga: Saga, kind: EndingKind
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The effects that stand and those that may; None where nothing can."""
    match kind:
        case EndingKind.FAILED_TO_COMPENSATE:
            stands, may_stand = standing_apart(plan, saga)
        case EndingKind.FORGOTTEN:
            left = [name for name, step in saga.steps.items() if step.may_stand]
            left = [name for name in left if plan.step(name).compensatable]
            may_stand = tuple(n for n in left if standing(saga, n) is Standing.MAY_STAND)
            stands = tuple(name for name in left if name not in may_stand)
        case _:
            return None, None
    return stands, may_stand or None


def why_unreadable(
    stage: str,
    saga_id: str,
    data: Mapping[str, Any],
    results: Mapping[str, msgspec.Raw],
    output: msgspec.Raw | None,
) -> str:
    """Why nobody could read the answer of a saga that is done; empty where all can.

    `data` is that of the context as it was accepted.

    Each downstream keeps to the limits by itself, and all of them together need not.
    """
    parts = [bytes(each) for name, each in results.items() if name.startswith(FORWARD_PREFIX)]
    if output is not None:
        parts.append(bytes(output))
    if not parts or is_plain(b"".join(parts)):  # nearly all are: they are not read for it
        return ""
    try:
        check_executed(saga_id, _added(stage, data, results, output))
    except WireError as error:
        why = error.title  # its details quote the payload
    except ValueError as error:
        why = str(error)
    else:
        return ""
    return (
        f"no upstream could read the answer ({why}): let this stage, or those behind it, add less"
        " to the context"
    )


def _added(
    stage: str,
    data: Mapping[str, Any],
    results: Mapping[str, msgspec.Raw | None],
    output: msgspec.Raw | None,
) -> dict[str, Any]:
    """The additions of this stage and of those behind it (protocol 3.1, 3.3).

    The first to write a member holds. An answer of downstream may name what it was handed, as an
    echo or by a defect, and its journaled result keeps it: here it counts for nothing. Of two
    downstreams the first by its name holds, whichever answered first.
    """
    added: dict[str, Any] = {}
    for name in sorted(results):
        result = results[name]
        if name.startswith(FORWARD_PREFIX) and result is not None:
            for member, value in msgspec.json.decode(result).items():
                if member != stage and member not in data:
                    added.setdefault(member, value)
    if output is not None:
        added[stage] = msgspec.json.decode(output)
    return added
