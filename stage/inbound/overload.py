"""How many sagas may be started a second, learnt from how late we are (rule 37).

An event loop or a writer with too much to do answers everybody late, compensations included. So
starts are shed while it is late. It becomes later by the work that comes in beyond the work that is
done, so the rate follows that change at once, and keeps us a little late: a proportional-integral
control. It controls a rate and no number of places, because sagas that hang at a neighbour take
places and no time.

Starts that are held are let in by batches as well (start_batch.py). While that alone keeps us in
time, the rate is as high as it may be.

The rate is shared out evenly among the callers that ask, so that one that sends too much is shed
before the others are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from math import exp, inf

from stage.inbound.start_batch import LEFT_MAX, StartBatch

TICK_SECONDS = 0.1
LATE_SECONDS = 0.1
"""A tick that comes so much too late is a sign of too much work."""
LATE_TICKS = 3
"""So many of them in a row: one alone is a pause of the machine. A tick that is five times as late
counts for all."""
DECREASE = 0.9
"""The first limit, as a part of what was admitted lately."""
TARGET_SECONDS = 0.1
"""How late we want to be: never idle, and few sagas at once."""
GAIN = 0.6
"""How much the rate grows in a tick for each second that we are less late than that."""
DAMPING = 4.0
"""How much it falls for each second that we have become later since the tick before."""
INCREASE_FIRST = 1.1
"""As long as nothing has been late under this limit, which may have been set far too low."""
CHANGE_MAX = 0.3
"""In one tick: it may be a pause of the machine."""
RECOVERY = 1.2
"""While nothing is shed, the limit is forgotten fast."""
RATE_MIN = 100.0
"""Starts a second that are always admitted: a slow machine is no reason to refuse everybody."""
RATE_FREE = 20_000.0
"""Beyond it there is no limit any more."""
BURST_SECONDS = 0.1


class Overload:
    """The limit of one process. Touched from the event loop only. Times in seconds."""

    def __init__(self) -> None:
        self.rate = inf
        self.batch = StartBatch()
        self.offers: Callable[[], int] = lambda: 0
        """How many starts wait for the writer."""
        self.shed = 0
        """How many starts were shed, in all."""
        self._tokens = 0.0
        """Starts that no caller has claimed: any of them may take one."""
        self._lanes: dict[str, float] = {}
        """Starts that are kept for each caller that asked lately."""
        self._asked: set[str] = set()
        self._let_in: Counter[str] = Counter()
        """Starts since the last tick that are parsed and not judged yet, by caller."""
        self._admitted = 0.0
        self._shed_before = 0
        self._holds = False
        self._late = 0
        self._behind = 0.0
        self._is_new = False
        """Nothing has been late under this limit."""
        self._usual = 0.0
        """Starts a second that were admitted, over the last ticks."""

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.rate < inf

    def room(self, now: float) -> int:
        """How many starts may begin as the next batch.

        None while the writer has not taken the batch before on, however long that takes: with more
        of them both threads would have work, and it would take longer still.
        """
        return self.batch.room(now) if self.offers() <= LEFT_MAX else 0

    def sheds(self, caller: str = "") -> bool:
        """True when the next start of that caller would be shed."""
        return self.limited and self._tokens < 1.0 and self._lanes.get(caller, 0.0) < 1.0

    def lets_in(self, caller: str = "") -> bool:
        """Whether one more start of that caller is worth parsing, which costs a tenth of it.

        An event loop reads what hundreds of connections have sent before it judges the first of
        them. So those that were let in count until `admits` is asked, or until the next tick.
        """
        if self.limited:
            left = max(0.0, self._tokens) + max(0.0, self._lanes.get(caller, 0.0))
            if left < self._let_in[caller] + 1.0:
                return False
            self._let_in[caller] += 1
        return True

    def holds(self, caller: str = "") -> None:
        """A start of that caller waits for its turn: there is more to do than the limit allows.

        It asks, although it was not judged yet, so its caller has a part of what comes next.
        """
        self._holds = True
        self._asked.add(caller)

    def admits(self, caller: str = "", cost: float = 1.0) -> bool:
        """Take one start on, or count it as shed. `cost` is its work, as a part of a start's."""
        self._asked.add(caller)
        if self._let_in[caller] > 0:
            self._let_in[caller] -= 1
        if self.rate < inf:
            self._lanes.setdefault(caller, 1.0)  # one that has just come waits for no tick
        if self.sheds(caller):
            self.shed += 1
            return False
        if self._lanes.get(caller, 0.0) >= 1.0:
            self._lanes[caller] -= cost
        else:
            self._tokens -= cost
        self._admitted += cost
        return True

    def tick(self, late: float, waited: float = 0.0, busy: float = 1.0) -> None:
        """TICK_SECONDS have passed, and `late` seconds more.

        The oldest start that the writer has not taken on has `waited` so long. `busy` is the
        processor time of this process meanwhile, as a part of one processor.
        """
        passed = TICK_SECONDS + late
        self._let_in.clear()
        self._usual += 0.3 * (self._admitted / passed - self._usual)
        pressed = self._holds or self.shed > self._shed_before
        self._admitted, self._shed_before, self._holds = 0, self.shed, False
        # One batch that waits is bounded: the disk stands still for a moment, and all starts wait.
        bounded = self.limited and 0 < self.offers() <= self.batch.most
        behind = late if bounded else max(late, waited)
        self._late = self._late + 1 if behind > LATE_SECONDS else 0
        if self.rate < inf:
            self._steer(behind, pressed=pressed)
            if pressed:
                self.batch.tick(busy)
        elif self._late >= LATE_TICKS or behind > 5 * LATE_SECONDS:
            self.rate, self._is_new = max(RATE_MIN, self._usual * DECREASE), True
        self._behind = behind
        self._share_out(passed)

    def _steer(self, behind: float, *, pressed: bool) -> None:
        """Change a limit that there is. `pressed`: somebody waited for it, or was refused."""
        change = GAIN * (TARGET_SECONDS - behind) - DAMPING * (behind - self._behind)
        if behind > TARGET_SECONDS and behind >= self._behind:
            self._is_new = False
        if change > 0.0 and not pressed:
            change = RECOVERY - 1.0
        elif change > 0.0 and self._is_new:
            change = max(change, INCREASE_FIRST - 1.0)
        change = max(-CHANGE_MAX, min(CHANGE_MAX, change))
        # A pause of the machine makes us later in one tick and less late in the next, and both
        # together must leave the rate as it was: (1 - x)(1 + x) would wear it down.
        self.rate = max(min(RATE_MIN, self.rate), self.rate * exp(change))
        if self.rate > RATE_FREE:
            self.rate = RATE_FREE if pressed else inf

    def _share_out(self, passed: float) -> None:
        """Give each caller that asked lately the same; what one leaves, the others may take."""
        callers, self._asked = self._asked, set()
        if self.rate == inf:
            self._lanes.clear()
            return
        # A caller that asked for nothing in one tick keeps its lane for the next.
        callers |= {caller for caller, left in self._lanes.items() if left >= 1.0}
        most = max(1.0, self.rate * BURST_SECONDS)
        spare, lanes = self.rate * passed, dict.fromkeys(callers, 0.0)
        if len(callers) > 1:
            each, lane_most = spare / len(callers), max(1.0, most / len(callers))
            for caller in callers:
                lanes[caller] = min(lane_most, self._lanes.get(caller, 0.0) + each)
            spare -= sum(lanes[caller] - self._lanes.get(caller, 0.0) for caller in callers)
        self._lanes = lanes
        self._tokens = min(most, max(0.0, self._tokens) + max(0.0, spare))


async def watch_load(overload: Overload, waited: Callable[[], float]) -> None:
    """Tick for ever. `waited` says how long the oldest start has waited for the writer."""
    loop = asyncio.get_running_loop()
    while True:
        began, used = loop.time(), time.process_time()
        await asyncio.sleep(TICK_SECONDS)
        passed = loop.time() - began
        busy = (time.process_time() - used) / passed
        overload.tick(max(0.0, passed - TICK_SECONDS), waited(), busy)
