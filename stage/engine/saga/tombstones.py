"""How many tombstones a caller may leave of sagas that were never seen (rules 9 and 37).

A tombstone bars an id for ever, and an id can be guessed. So each caller leaves so many a second
and no more: beyond that it has to ask again, and nothing is written.
"""

from __future__ import annotations

import msgspec

from stage.core.shares import NOBODY, STRANGERS, Shares
from stage.ports.engine import Busy

REASON_CHARS_MAX = 100
"""The part of the reason that a tombstone keeps: nobody has to find anything out about it."""
IDLE_SECONDS_MAX = 3_600.0
"""A clock that jumps gives no more than an hour's worth."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """The tombstones that a caller may leave: so many at once, and so many a second."""

    burst: float
    per_second: float


KNOWN = Allowance(burst=500.0, per_second=20.0)
"""For an upstream whose requests are lost on the way: a link that breaks under 500 sagas."""
UNKNOWN = Allowance(burst=20.0, per_second=0.1)
"""For all names together that are not configured."""


class TombstoneShares:
    """The allowances of all callers. Touched by one thread at a time: that of the writer."""

    def __init__(self, shares: Shares = NOBODY) -> None:
        """Where `shares` has no names, all callers are one that is known."""
        self._shares = shares
        self._left: dict[str, tuple[float, float]] = {}
        """The tombstones that a caller has left, and when they were counted."""

    def take(self, asker: str, now: float) -> None:
        """One tombstone for that asker at that instant. Raises Busy."""
        caller = self._caller(asker)
        allowance = KNOWN if caller or not self._shares.names else UNKNOWN
        left, since = self._left.get(caller, (allowance.burst, now))
        passed = min(max(0.0, now - since), IDLE_SECONDS_MAX)
        left = min(allowance.burst, left + passed * allowance.per_second)
        if left < 1.0:
            self._left[caller] = left, now
            raise Busy(
                "too many sagas that were never seen here are to be compensated",
                retry_after=(1.0 - left) / allowance.per_second,
            )
        self._left[caller] = left - 1.0, now

    def _caller(self, asker: str) -> str:
        # A blank is in no name of a neighbour (decision 0023).
        return self._shares.caller(asker) or (
            "operator" if asker.partition(" ")[0] == "operator" else STRANGERS
        )
