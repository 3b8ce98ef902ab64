"""The attempts of a step: what one repeats, which bytes it sends, and the event of its end."""

from __future__ import annotations

from typing import assert_never

import msgspec

from stage.core import events as e
from stage.core.commands import Activity, Do
from stage.core.errors import StageError
from stage.core.outcome import FailureKind
from stage.core.saga import Saga, StepState
from stage.ports.observer import Span
from stage.ports.stage import Failed, Finished, Turn
from stage.wire.text import sendable


def links_of(step: StepState, activity: Activity) -> tuple[str, ...]:
    """The attempts that a further one of the same step repeats, looks for or compensates."""
    match activity:
        case Activity.PROBE:
            spans = step.span, step.probe_span
        case Activity.COMPENSATE:
            spans = step.span, step.compensation_span
        case Activity.EXECUTE | Activity.TELL:
            spans = step.span, ""
        case _:
            assert_never(activity)
    return tuple(filter(None, spans))


def end_span(span: Span, event: e.Event) -> None:
    """End the span of an attempt with its end, which is durable by now."""
    span.end(e.name_of(event), getattr(event, "reason", ""), at=event.at)


def stored_requests(saga: Saga, do: Do) -> tuple[e.Request, ...]:
    """The requests of that attempt whose intent is durable; a repeat sends the same bytes."""
    known = saga.steps.get(do.step)
    if known is None or do.activity is Activity.PROBE:
        return ()
    return known.requests if do.activity is Activity.EXECUTE else known.compensation_requests


def outcome_event(do: Do, turn: Turn, at: float) -> e.Outcome:
    """The event that the end of an author's function becomes in the journal."""
    match turn:
        case Finished():
            match do.activity:
                case Activity.EXECUTE:
                    return e.StepSucceeded(at=at, step=do.step, result=turn.result)
                case Activity.PROBE:
                    if bytes(turn.result) == b"null":
                        return e.ProbeNotThere(at=at, step=do.step)
                    return e.ProbeFound(at=at, step=do.step, result=turn.result)
                case Activity.COMPENSATE | Activity.TELL:
                    return e.CompensationSucceeded(at=at, step=do.step)
                case _:
                    assert_never(do.activity)
        case Failed():
            cut = msgspec.structs.replace(turn, reason=sendable(turn.reason))
            return _failure_event(do, cut, at)
        case _:
            raise StageError(f"step {do.step!r} has not ended: {turn!r}")


def _failure_event(do: Do, failed: Failed, at: float) -> e.Outcome:
    if do.activity is Activity.PROBE:
        return e.ProbeFailed(
            at=at, step=do.step, reason=failed.reason, retry_after=failed.retry_after
        )
    if do.activity is Activity.TELL:
        return e.TellDelayed(at=at, reason=failed.reason, retry_after=failed.retry_after)
    if do.activity is Activity.COMPENSATE:
        if failed.kind is FailureKind.REFUSED:
            return e.CompensationRefused(at=at, step=do.step, reason=failed.reason)
        return e.CompensationDelayed(
            at=at, step=do.step, reason=failed.reason, retry_after=failed.retry_after
        )
    match failed.kind:
        case FailureKind.REFUSED:
            return e.StepRefused(
                at=at, step=do.step, reason=failed.reason, may_stand=failed.may_stand
            )
        case FailureKind.TRANSIENT:
            return e.StepTransient(
                at=at,
                step=do.step,
                reason=failed.reason,
                retry_after=failed.retry_after,
                may_stand=failed.may_stand,
            )
        case FailureKind.IN_DOUBT:
            return e.StepInDoubt(at=at, step=do.step, reason=failed.reason)
        case _:
            assert_never(failed.kind)
