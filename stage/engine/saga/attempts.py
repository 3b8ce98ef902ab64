"""The attempts of a step: what one repeats, which bytes it sends, and the event of its end."""

from __future__ import annotations

from typing import Final, assert_never

import msgspec

from stage.core import events as e
from stage.core.commands import AttemptKind, Do
from stage.core.errors import StageError
from stage.core.event_table import reason_of
from stage.core.failure import FailureKind
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, Tell
from stage.engine.saga.words import Redact, as_they_are, readable
from stage.ports.observer import Span
from stage.ports.stage import Failed, Finished, Send, Turn

_BEGUN: Final = {
    Phase.STARTED: AttemptKind.EXECUTE,
    Phase.PROBING: AttemptKind.PROBE,
    Phase.COMPENSATING: AttemptKind.COMPENSATE,
}
"""The kind of the attempt that a step has in flight, by its phase."""
_WITHDRAWN: Final = Failed(kind=FailureKind.TRANSIENT, reason="withdrawn before it left")


def links_of(step: StepState, kind: AttemptKind) -> tuple[str, ...]:
    """The attempts that a further one of the same step repeats, looks for or compensates."""
    match kind:
        case AttemptKind.PROBE:
            spans = step.span, step.probe_span
        case AttemptKind.COMPENSATE:
            spans = step.span, step.compensation_span
        case AttemptKind.EXECUTE | AttemptKind.TELL:
            spans = step.span, ""
        case _:
            assert_never(kind)
    return tuple(filter(None, spans))


def end_span(span: Span, event: e.Event) -> None:
    """End the span of an attempt with its end, which is durable by now."""
    if span.span_id:  # nothing is reported of one without
        span.end(e.name_of(event), reason_of(event), at=event.at)


def stored_requests(saga: Saga, do: Do) -> tuple[e.Request, ...]:
    """The requests of that attempt whose intent is durable; a repeat sends the same bytes."""
    known = saga.steps.get(do.step)
    if known is None or do.kind is AttemptKind.PROBE:
        return ()
    return known.requests if do.kind is AttemptKind.EXECUTE else known.compensation_requests


def as_repeat(do: Do, turn: Turn, stored: tuple[e.Request, ...]) -> Turn:
    """The turn, or the end of the attempt where today's code would not repeat the stored request.

    The stored body is repeated whatever the function computes today (rule 5). Another method or
    path means that the function now does something else, and would take the answer to the stored
    request for that to its own (rule 31). Queries are data, as bodies are.
    """
    if not isinstance(turn, Send) or turn.ordinal > len(stored):
        return turn
    before, now = stored[turn.ordinal - 1], turn.request
    if before is now or (before.method, _path(before)) == (now.method, _path(now)):
        return turn
    backward = do.kind is AttemptKind.COMPENSATE
    mend = "retry it with --anew" if backward else "settle it, or deploy the code that sent it"
    return Failed(
        kind=FailureKind.REFUSED if backward else FailureKind.IN_DOUBT,
        reason=(
            f"not sent: {before.method} {_path(before)} may have had an effect, and today's code"
            f" would send {now.method} {_path(now)} in its place: {mend}"
        ),
        changed=True,
    )


def _path(request: e.Request) -> str:
    return request.path.partition("?")[0]


def end_event(do: Do, turn: Turn, at: float, redact: Redact = as_they_are) -> e.AttemptEnd:
    """The event that the end of an author's function becomes in the journal."""
    match turn:
        case Finished():
            match do.kind:
                case AttemptKind.EXECUTE:
                    return e.StepSucceeded(at=at, step=do.step, result=turn.result)
                case AttemptKind.PROBE:
                    if bytes(turn.result) == b"null":
                        return e.ProbeNotThere(at=at, step=do.step)
                    return e.ProbeFound(at=at, step=do.step, result=turn.result)
                case AttemptKind.COMPENSATE | AttemptKind.TELL:
                    return e.CompensationSucceeded(at=at, step=do.step)
                case _:
                    assert_never(do.kind)
        case Failed():
            cut = msgspec.structs.replace(turn, reason=readable(redact, turn.reason))
            return _failure_event(do, cut, at)
        case _:
            raise StageError(f"step {do.step!r} has not ended: {type(turn).__name__}")


def withdrawn(do: Do, at: float) -> e.AttemptEnd:
    """The end of an attempt that was taken back before it left."""
    return end_event(do, _WITHDRAWN, at)


def in_flight(saga: Saga) -> list[Do]:
    """The attempts that its journal has begun and not ended, in the order of their steps.

    Each may have left, or wait for its turn still.
    """
    steps = saga.steps.items()
    begun = [Do(kind=_BEGUN[s.phase], step=name) for name, s in steps if s.phase in _BEGUN]
    return [*begun, Do(kind=AttemptKind.TELL)] if saga.tell is Tell.IN_FLIGHT else begun


def _failure_event(do: Do, failed: Failed, at: float) -> e.AttemptEnd:
    if do.kind is AttemptKind.PROBE:
        return _probe_event(do, failed, at)
    if do.kind is AttemptKind.TELL:
        return e.TellDelayed(at=at, reason=failed.reason, retry_after=failed.retry_after)
    if do.kind is AttemptKind.COMPENSATE:
        return _compensation_event(do, failed, at)
    match failed.kind:
        case FailureKind.REFUSED:
            return e.StepRefused(
                at=at,
                step=do.step,
                reason=failed.reason,
                may_stand=failed.may_stand,
                said=failed.said,
            )
        case FailureKind.TRANSIENT:
            return e.StepTransient(
                at=at,
                step=do.step,
                reason=failed.reason,
                retry_after=failed.retry_after,
                may_stand=failed.may_stand,
                may_come=failed.may_come,
                final=failed.final,
            )
        case FailureKind.PENDING:
            return e.StepPending(
                at=at, step=do.step, reason=failed.reason, retry_after=failed.retry_after
            )
        case FailureKind.DEFECT:
            return e.StepTransient(
                at=at, step=do.step, reason=failed.reason, defect=True, final=failed.final
            )
        case FailureKind.IN_DOUBT:
            doubt = e.StepInDoubt(at=at, step=do.step, reason=failed.reason, final=failed.final)
            return msgspec.structs.replace(doubt, changed=failed.changed)
        case _:
            assert_never(failed.kind)


def _probe_event(do: Do, failed: Failed, at: float) -> e.AttemptEnd:
    if failed.kind is FailureKind.REFUSED and failed.said:
        return e.ProbeRefused(at=at, step=do.step, reason=failed.reason)
    ends = e.ProbePending if failed.kind is FailureKind.PENDING else e.ProbeFailed
    return ends(at=at, step=do.step, reason=failed.reason, retry_after=failed.retry_after)


def _compensation_event(do: Do, failed: Failed, at: float) -> e.AttemptEnd:
    unsettled = failed.kind in (FailureKind.IN_DOUBT, FailureKind.PENDING)
    certain = not (failed.may_stand or failed.changed or unsettled)
    if failed.kind is FailureKind.REFUSED:
        return e.CompensationRefused(at=at, step=do.step, reason=failed.reason, certain=certain)
    return e.CompensationDelayed(
        at=at,
        step=do.step,
        reason=failed.reason,
        retry_after=failed.retry_after,
        may_come=failed.may_come,
        certain=certain,
    )
