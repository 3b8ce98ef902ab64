"""The age of a saga: time as its journal shows it, which no clock can make jump (rule 34).

Instants in a journal come from the clocks of several processes, and each may have been wrong. The
distance between two entries counts only as far as a wait or an attempt accounts for it. So neither
a clock that was set nor days without a process use up the patience for an undo, and nothing waits
for an instant that lies further ahead than any wait of the policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from stage.core.saga import Saga

GAP_SECONDS_MAX: Final = 600.0
"""The most that the time between two entries counts: the longest wait, or a slow attempt."""
WAIT_SECONDS_MAX: Final = 600.0
"""No policy waits for so long: an instant further ahead came from a clock that was wrong."""


def age_at(saga: Saga, at: float) -> float:
    """Seconds that the saga has lived at an instant after its last entry."""
    if not saga.length:
        return 0.0
    gap = at - saga.updated_at
    if gap <= 0.0:
        return saga.age
    return saga.age + (gap if gap < GAP_SECONDS_MAX else GAP_SECONDS_MAX)


def counted(instants: Iterable[float]) -> float:
    """The seconds that count towards an age between the first and the last of these instants.

    The instants are those of journal entries, in their order; the last may be the present one.
    """
    gaps = (after - before for before, after in pairwise(instants))
    return sum(min(max(0.0, gap), GAP_SECONDS_MAX) for gap in gaps)


def lasted(saga: Saga, since: float | None, at: float) -> float:
    """Seconds between an age of the saga and an instant; 0.0 where nothing has begun."""
    return 0.0 if since is None else age_at(saga, at) - since


def is_due(due: float, now: float) -> bool:
    """True when the instant `due` has come, or lies too far ahead to be true."""
    return now >= due or due - now > WAIT_SECONDS_MAX
