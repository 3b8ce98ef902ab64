"""The remains of a saga that is closed by a person: forgotten, or erased (decision 0072)."""

from __future__ import annotations

from msgspec.structs import replace

from stage.core import events as e
from stage.core.advice import way_out
from stage.core.states import SagaState
from stage.core.unseen import proves_age, sent_at_of
from stage.engine.saga.acts import how_it_stands
from stage.engine.saga.context import any_payload
from stage.engine.saga.dropped import DROP_AGE_SECONDS_MIN
from stage.ports.store import Act, SagaRow
from stage.wire.answers import render_past_retention, without_contents
from stage.wire.ending import RenderedAnswer

DAY_SECONDS = 86_400.0
_OVER = (SagaState.COMPLETED, SagaState.COMPENSATED)


def is_given_up(row: SagaRow) -> bool:
    """Whether nobody will do anything for it any more, though it may not have ended."""
    return row.answered and row.due_at is None and not row.parked


def refuse_erasure(row: SagaRow) -> str:
    """Why the contents of a saga may not be erased yet, with the fix; empty when they may."""
    if row.closed_at is not None and row.parked:
        return f"it waits for a person: {row.parked}. Then erase it"
    if row.closed_at is not None or row.given_up:
        return ""
    if row.state is SagaState.FAILED_TO_COMPENSATE:
        return (
            "effects of it stand, and its journal is all that tells which: resolve it once they are"
            " undone by hand, or forget it, then erase it"
        )
    if row.parked:
        ways = [way for way in (way_out(row.parked_cause), "forget it") if way]
        return (
            f"it is parked, and what is to be erased is needed to go on: {', or '.join(ways)}."
            " Then erase it"
        )
    if row.due_at is not None:
        return (
            "it is unfinished: wait for its end, or compensate it and wait for that, then erase it"
        )
    return ""


def refuse_closed(row: SagaRow, verb: e.Verb) -> str:
    """Why a verb cannot be done to a closed saga that waits for a person; empty where it can."""
    if not row.parked or isinstance(verb, e.Forgotten):
        return ""
    return f"it is closed, so that it can only be forgotten: {row.parked}"


def closed(row: SagaRow, at: float) -> SagaRow:
    """The row that a given-up saga leaves: its answer and its payload hash stay."""
    return replace(row, epoch=row.epoch + 1, envelope=b"", closed_at=row.closed_at or at)


def erased(row: SagaRow, at: float) -> SagaRow:
    """The row that an erased saga leaves: its id, its outcome, and who opened it.

    The payload hash goes too, because a payload of few possible values can be guessed from it.
    """
    body = without_contents(row.id, row.answer_status or 0, row.answer_body)
    return replace(
        closed(row, at),
        fingerprint=any_payload(row.fingerprint),
        tracestate="",
        answer_body=body,
    )


def refuse_purge(row: SagaRow, now: float) -> str:
    """Why a saga may not be purged yet, with the fix; empty when it may."""
    if row.state not in _OVER or row.due_at is not None or row.parked:
        return "it is not over, or something of it stands: only sagas that ended well are purged"
    if row.closed_at is None:
        return "its compensation window is not over: wait until it is closed"
    sent_at = sent_at_of(row.id)
    if not row_may_go(row):
        return "its answer is dropped already, and its row stays" if row.answer_dropped else ""
    if sent_at is not None and sent_at > now - DROP_AGE_SECONDS_MIN:
        days = DROP_AGE_SECONDS_MIN / DAY_SECONDS
        return f"its id is younger than {days:g} days: a repeat of it may be on its way"
    return ""


def row_may_go(row: SagaRow) -> bool:
    """Whether the row may go: the instant in its id proves that a repeat comes too late.

    The row of any other saga stays, without its answer.
    """
    return row.closed_at is not None and proves_age(row.id, row.closed_at)


def purge_act(before: SagaRow, actor: str, reason: str, at: float) -> Act:
    """The act as the audit keeps it, which is all that is left of the saga."""
    answer = f"answered {before.answer_status}" if before.answered else "never answered"
    return Act(
        at=at,
        actor=actor,
        act="purged",
        target=before.id,
        reason=reason,
        before=f"{how_it_stands(before)}, {answer}",
        after="dropped" if row_may_go(before) else "its answer is dropped",
    )


def answer_past_retention(row: SagaRow) -> RenderedAnswer:
    """The answer in place of one that was dropped for its age: the outcome is known all the same.

    Retention drops answers only of sagas that completed or were compensated. One row always gets
    the same bytes.
    """
    return render_past_retention(
        row.id,
        row.answer_status or 0,
        executed=row.state is SagaState.COMPLETED,
        trace_id=row.trace.trace_id or None,
    )


def erasure_act(before: SagaRow, after: SagaRow, actor: str, reason: str, at: float) -> Act:
    """The act as the audit keeps it."""
    return Act(
        at=at,
        actor=actor,
        act="erased",
        target=after.id,
        reason=reason,
        before=how_it_stands(before),
        after=how_it_stands(after),
    )
