"""The remains of a saga that is closed by a person: forgotten, or erased (decision 0072)."""

from __future__ import annotations

from msgspec.structs import replace

from stage.core.states import SagaState
from stage.engine.saga.acts import how_it_stands
from stage.engine.saga.context import any_payload
from stage.ports.store import Act, SagaRow
from stage.wire.answers import without_contents


def is_given_up(row: SagaRow) -> bool:
    """Whether nobody will do anything for it any more, though it may not have ended."""
    return row.answered and row.due_at is None and not row.parked


def refuse_erasure(row: SagaRow) -> str:
    """Why the contents of a saga may not be erased yet, with the fix; empty when they may."""
    if row.closed_at is not None or row.given_up:
        return ""
    if row.state is SagaState.FAILED_TO_COMPENSATE:
        return (
            "effects of it stand, and its journal is all that tells which: resolve it once they are"
            " undone by hand, or forget it, then erase it"
        )
    if row.parked:
        return (
            "it is parked, and what is to be erased tells how to go on: retry, settle, abandon or"
            " compensate it, or forget it, then erase it"
        )
    if row.due_at is not None:
        return (
            "it is unfinished: wait for its end, or compensate it and wait for that, then erase it"
        )
    return ""


def closed(row: SagaRow, at: float) -> SagaRow:
    """The row that a saga leaves which was given up: its answer and its payload hash stay."""
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
