"""Values that several of these tests observe."""

from __future__ import annotations

from collections.abc import Sequence

from stage.core.commands import Activity
from stage.ports.observer import Attempt, TraceContext


def an_attempt(
    saga_id: str = "s-1",
    step: str = "charge",
    activity: Activity = Activity.EXECUTE,
    number: int = 1,
    *,
    peer: str = "psp",
    parent: TraceContext | None = None,
    links: Sequence[str] = (),
) -> Attempt:
    """An attempt of the stage `payment`."""
    return Attempt(
        saga_id=saga_id,
        stage="payment",
        step=step,
        activity=activity,
        number=number,
        peer=peer,
        parent=parent or TraceContext(),
        links=tuple(links),
    )
