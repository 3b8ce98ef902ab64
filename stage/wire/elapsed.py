"""How long a step took, from the view of its saga and the entries of the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from stage.core.states import Phase
from stage.wire.envelope import parse_instant
from stage.wire.views import StepView

UNDER_WAY: Final = frozenset(
    phase.value
    for phase in (
        *(Phase.STARTED, Phase.WAITING, Phase.IN_DOUBT, Phase.PENDING, Phase.PROBING),
        *(Phase.COMPENSATING, Phase.COMPENSATION_WAITING),
    )
)
"""Phases in which time goes on for a step."""


def elapsed(step: StepView, entries: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """Seconds from its first entry to its last one, or to now where it has not come to an end.

    None without an entry.
    """
    found = [_instant(each.get("at")) for each in entries if each.get("step") == step.name]
    at = [each for each in found if each is not None]
    if not at:
        return None
    return max(0.0, (now if step.phase in UNDER_WAY else at[-1]) - at[0])


def _instant(value: object) -> float | None:
    """The instant; None where a neighbour of another release wrote something else."""
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        return None
