"""The body of `GET /now`: the stage at an instant, with the figures of the replica that answers."""

from __future__ import annotations

import msgspec

from stage.core.states import SagaState
from stage.ports.figures import Figures, Lately
from stage.wire.views import NowView

REFUSALS_MAX = 20


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas that turned back for one reason; without a step they were asked to."""

    step: str | None = None
    reason: str
    sagas: int


class HourView(msgspec.Struct, frozen=True, kw_only=True):
    """The sagas of this replica that ended in the last `seconds`, or since it was started.

    `success_ratio` is the share of `completed` in all ends, None where there was none: a saga that
    is undone after it completed has ended twice. `refusals` are the most frequent reasons for which
    sagas turned back.
    """

    seconds: float
    completed: int = 0
    compensated: int = 0
    failed_to_compensate: int = 0
    success_ratio: float | None = None
    refusals: list[RefusalView] = []


class PlacesView(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of this replica, and how much of it is taken: `requests`, or `sagas`."""

    what: str
    limit: int
    in_use: int


class FiguresView(NowView, frozen=True, kw_only=True):
    """The stage at this instant; `lately` and `places` are of the replica that answers.

    `replicas` share the database; `database_bytes` are its sizes on its disk, by part.
    """

    lately: HourView | None = None
    places: list[PlacesView] = msgspec.field(default_factory=list)
    replicas: int = 1
    database_bytes: dict[str, int] = msgspec.field(default_factory=dict)


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
