"""Starts that are let in together under overload (rule 37).

The event loop and the thread of the writer share one interpreter. Where both have work all the time
they take it from each other, and a saga costs half as long again. A batch goes through the one and
then through the other. The next batch begins as soon as nearly all of this one is answered. A saga
that waits for a neighbour costs no time, so nobody waits for it.
"""

from __future__ import annotations

STARTS_MIN = 150
"""Enough for a commit to be shared by many; of more the memory has left the caches."""
STARTS_MAX = 2_000
LEFT_MAX = 5
"""So many may be unanswered when the next batch begins."""
WAITS_SECONDS = 0.05
"""A start that is not answered after that waits for something else, such as a neighbour."""
BUSY_MIN = 0.8
"""Of one processor. With less we wait: for a slow disk, which more of them share a commit of, or
for neighbours."""
GROWTH = 1.1


class StartBatch:
    """The starts that were let in lately and are not answered. Touched from the event loop only."""

    def __init__(self) -> None:
        self._most = float(STARTS_MIN)
        self._begun: dict[object, float] = {}
        """When each began, the oldest first."""

    @property
    def most(self) -> int:
        """How many starts a batch has."""
        return int(self._most)

    def room(self, now: float) -> int:
        """How many starts may begin; none as long as more than a few of the batch go on."""
        while self._begun:
            start, since = next(iter(self._begun.items()))
            if now - since < WAITS_SECONDS:
                break
            del self._begun[start]
        return self.most - len(self._begun) if self.is_over else 0

    def begins(self, start: object, now: float) -> None:
        """A start was let in."""
        self._begun[start] = now

    def ends(self, start: object) -> None:
        """It is answered, or gone; also called of one that was never let in."""
        self._begun.pop(start, None)

    @property
    def is_over(self) -> bool:
        """Whether nearly all of the batch are answered."""
        return len(self._begun) <= LEFT_MAX

    def tick(self, busy: float) -> None:
        """Starts wait, and this process was `busy` for that part of one processor lately."""
        change = GROWTH if busy < BUSY_MIN else 1.0 / GROWTH
        self._most = max(STARTS_MIN, min(STARTS_MAX, self._most * change))
