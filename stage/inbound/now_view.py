"""The parts of `GET /now`: approvals; the last hour and the limits of the replica that answers."""

from __future__ import annotations

from collections.abc import Iterable

from stage.core.states import SagaState
from stage.ports.figures import Figures, Lately
from stage.ports.store import Approvals
from stage.wire.envelope import format_instant
from stage.wire.views import ApprovalsView, HourView, PlacesView, RefusalView

REFUSALS_MAX = 20


def hour_view(lately: Lately) -> HourView:
    """The last hour as people see it, the most frequent reason first."""
    ended = sum(lately.ended.values())
    completed = lately.ended.get(SagaState.COMPLETED, 0)
    frequent = sorted(lately.refused.items(), key=lambda each: (-each[1], each[0]))
    return HourView(
        seconds=lately.seconds,
        completed=completed,
        compensated=lately.ended.get(SagaState.COMPENSATED, 0),
        failed_to_compensate=lately.ended.get(SagaState.FAILED_TO_COMPENSATE, 0),
        success_ratio=round(completed / ended, 4) if ended else None,
        refusals=[
            RefusalView(step=why.step or None, reason=why.reason, sagas=count)
            for why, count in frequent[:REFUSALS_MAX]
        ],
    )


def places_view(figures: Figures) -> list[PlacesView]:
    """The limits of the replica, each with what is taken of it."""
    return [
        PlacesView(what=each.what, limit=each.limit, in_use=each.in_use) for each in figures.places
    ]


def approvals_view(approvals: Iterable[Approvals]) -> list[ApprovalsView]:
    """The steps at which a saga waits for a person's approval."""
    return [
        ApprovalsView(
            step=each.step,
            sagas=each.sagas,
            oldest_asked_at=format_instant(each.oldest_asked_at),
            first_ends_at=None
            if each.first_ends_at is None
            else format_instant(each.first_ends_at),
        )
        for each in approvals
        if each.oldest_asked_at is not None
    ]
