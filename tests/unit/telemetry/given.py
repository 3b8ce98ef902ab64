"""Values that several of these tests observe."""

from __future__ import annotations

from collections.abc import Sequence

from stage.core.commands import AttemptKind
from stage.ports.observer import Attempt, TraceContext


def an_attempt(
    saga_id: str = "s-1",
    step: str = "charge",
    kind: AttemptKind = AttemptKind.EXECUTE,
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
        kind=kind,
        number=number,
        peer=peer,
        parent=parent or TraceContext(),
        links=tuple(links),
    )
