"""How many units share a transaction: fewer after a collision, slowly more again without one.

A batch holds the row locks of its units until it commits. Where sagas update the same few rows from
several replicas, large batches wait for each other, and small ones do not.
"""

from __future__ import annotations

from typing import Final

GAIN: Final = 1 / 8
"""Units that a full batch without a collision adds: a probe for more costs a wait for a lock."""


class Pace:
    """Additive increase, multiplicative decrease, as of a window of TCP (RFC 5681, section 3.1)."""

    __slots__ = ("_most", "_units")

    def __init__(self, units_per_batch_max: int) -> None:
        self._most = units_per_batch_max
        self._units = float(units_per_batch_max)

    @property
    def units(self) -> int:
        """Units that the next batch may have: at least one."""
        return int(self._units)

    def collided(self) -> None:
        """A batch of several units met a lock that somebody else held."""
        self._units = max(1.0, self._units / 2)

    def committed(self, units: int) -> None:
        """A batch of so many units met no lock. A batch that was not full shows nothing."""
        if units >= self.units:
            self._units = min(float(self._most), self._units + GAIN)
