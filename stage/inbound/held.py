"""Starts that wait for their turn before they are parsed (rule 37).

A client that is refused at once asks again at once. At five times the load the refusals alone took
all time there was, so a start that finds no place is held, and let in as soon as there is one. Most
places go to the newest, which have waited for the least and whose memory is still warm, some to the
oldest, which would be refused next. Refusals leave at a bounded rate: what it costs to refuse is
known beforehand. Held starts keep their connections, so where no more may be open one of them gives
way to a new one, which may bring a compensation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from enum import Enum
from typing import Protocol

from stage.inbound.lookups import IDS_MAX, Lookups
from stage.inbound.overload import BURST_SECONDS, RATE_FREE, Overload

TICK_SECONDS = 0.01
"""How often places are given away, so that not all sagas of a moment begin at once. An event loop
that is late gives away those of the time that has passed."""
OLDEST_OF = 16
"""One of so many places goes to the start that has waited for the longest."""
HELD_SECONDS = 0.5
"""How long, at least, a start is held before it is refused."""
HELD_SECONDS_MAX = 5.0
"""After that its caller may have given up."""
TICKS_A_TURN = 10
"""So many ticks lie between two turns of refusals, which share a look-up."""
REFUSED_PER_TURN = 20
"""200 a second: to refuse one costs a third of a saga. More of them wait for longer"""
OVERDUE_PER_TURN = 80
"""until they are overdue, and leave at 800 a second."""


class Turn(Enum):
    """How the wait of a held start ended."""

    PARSED = "parsed"
    """It has a place, or its saga was seen."""
    NOT_SEEN = "not seen"
    """It has no place, and its saga was never seen."""
    UNKNOWN = "unknown"
    """It has no place, and nobody knows whether its saga was seen."""
    GIVES_WAY = "gives way"
    """As UNKNOWN, and its connection is closed for another one."""


class Start(Protocol):
    """A start that is held: the connection that it came in on."""

    @property
    def held_saga_id(self) -> str:
        """Empty where it is not known. Asked only once the start is about to be refused."""
        ...

    def answer_held(self, turn: Turn) -> None:
        """Its turn has come."""
        ...


class HeldStarts:
    """Touched from the event loop only. As many are held as connections may be open.

    A connection that is lost takes its start with it: see `forget`.
    """

    def __init__(self, lookups: Lookups, overload: Overload) -> None:
        self._lookups = lookups
        self._overload = overload
        self._held: dict[str, OrderedDict[Start, float]] = {}
        """By caller, since when each is held, the oldest first; the caller first whose turn is
        next. No queue is empty."""
        self._given = 0
        """How many places, in all."""
        self._ending = False
        self._let_in_at = 0.0
        self._is_next_due = False
        """The next batch is let in as soon as the event loop comes to it."""
        self._task: asyncio.Task[None] | None = None
        self._refusing: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        """Whether a start is held."""
        return self._task is not None or self._refusing is not None

    def hold(self, start: Start, caller: str) -> None:
        """Let a start of that caller wait for its turn."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._held.setdefault(caller, OrderedDict())[start] = since
        self._overload.holds(caller)
        if self._task is None:
            self._let_in_at = since
            self._task = loop.create_task(self._release())

    def forget(self, start: Start, caller: str) -> None:
        """The connection of a start of that caller is lost; nobody waits for it any more."""
        held = self._held.get(caller)
        if held is not None and held.pop(start, None) is not None and not held:
            del self._held[caller]

    def next_batch(self) -> None:
        """Let more of them in soon, if nearly all that were let in are answered."""
        if self._held and self._overload.batch.is_over and not self._is_next_due:
            self._is_next_due = True
            asyncio.get_running_loop().call_soon(self._let_next_in)

    def _let_next_in(self) -> None:
        self._is_next_due = False
        self._let_in(asyncio.get_running_loop().time())

    def give_way(self) -> bool:
        """End the wait of one whose connection is needed, of the caller with most; False for none.

        It is the one that would be refused next.
        """
        if not self._held:
            return False
        caller, held = max(self._held.items(), key=lambda item: len(item[1]))
        oldest, _ = held.popitem(last=False)
        if not held:
            del self._held[caller]
        _answer(oldest, Turn.GIVES_WAY)
        return True

    def end(self) -> None:
        """From now on a start that has no place is refused at once: this process stops."""
        self._ending = True

    async def _release(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            ticks = 0
            while self._held:
                await asyncio.sleep(TICK_SECONDS)
                now = loop.time()
                self._let_in(now)
                ticks += 1
                # A look-up may wait for the database, and places are given away meanwhile.
                if self._refusing is None and (ticks % TICKS_A_TURN == 0 or self._ending):
                    due = self._take_due(now)
                    if due:
                        self._refusing = loop.create_task(self._refuse(due))
        finally:
            self._task = None

    def _let_in(self, now: float) -> None:
        """Let those in that have a place now, one of each caller in turn."""
        overload, passed, self._let_in_at = self._overload, now - self._let_in_at, now
        left = int(min(overload.rate, RATE_FREE) * min(passed, BURST_SECONDS)) + 1
        if overload.limited:
            left = min(left, overload.room(now))
        turn = deque(self._held)
        while left and turn:
            caller = turn.popleft()
            if not overload.lets_in(caller):
                continue
            left -= 1
            self._given += 1
            held = self._held.pop(caller)
            taken, _ = held.popitem(last=self._given % OLDEST_OF != 0)
            if held:
                self._held[caller] = held
                turn.append(caller)
            _answer(taken, Turn.PARSED)
        for caller in self._held:
            overload.holds(caller)

    def _take_due(self, now: float) -> list[Start]:
        due: list[Start] = []
        while self._held and len(due) < (IDS_MAX if self._ending else OVERDUE_PER_TURN):
            since, caller = min((next(iter(held.values())), of) for of, held in self._held.items())
            least = HELD_SECONDS if len(due) < REFUSED_PER_TURN else HELD_SECONDS_MAX
            if now - since < least and not self._ending:
                break
            start, _ = self._held[caller].popitem(last=False)
            due.append(start)
            if not self._held[caller]:
                del self._held[caller]
        return due

    async def _refuse(self, due: list[Start]) -> None:
        """Refuse those, apart from those whose saga was seen (I10)."""
        seen: frozenset[str] | None = None
        ids = [start.held_saga_id for start in due]
        try:
            named = tuple(filter(None, ids))
            seen = await self._lookups.which(named) if named else None
        finally:  # a look-up that fails holds nobody for ever
            self._refusing = None
            for start, saga_id in zip(due, ids, strict=True):
                _answer(start, _turn(saga_id, seen))


def _turn(saga_id: str, seen: frozenset[str] | None) -> Turn:
    """How a start that is due ends. `saga_id` is empty, or `seen` None, where nobody knows."""
    if not saga_id or seen is None:
        return Turn.UNKNOWN
    return Turn.PARSED if saga_id in seen else Turn.NOT_SEEN


def _answer(start: Start, turn: Turn) -> None:
    """Answer one; a connection that fails at it keeps no other one waiting."""
    try:
        start.answer_held(turn)
    except Exception as error:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "a held start is not answered", "exception": error})
