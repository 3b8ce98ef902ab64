"""Starts that wait for their turn before they are parsed (rule 37).

A client that is refused at once asks again at once. At five times the load the refusals alone took
all time there was, so a start that finds no place is held, and let in as soon as there is one. Most
places go to the newest, which have waited for the least and whose memory is still warm, some to the
oldest, which would be refused next. Refusals leave at a bounded rate: what it costs to refuse is
known beforehand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from stage.inbound.lookups import Lookups
from stage.inbound.overload import RATE_FREE, Overload

TICK_SECONDS = 0.01
"""How often places are given away, so that not all sagas of a moment begin at once."""
OLDEST_OF = 4
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

Answered = Callable[[bool | None], None]
"""Called with whether the start is to be parsed: it has a place, or its saga was seen. None when
it has none, and nobody knows whether its saga was seen."""


class _Held(NamedTuple):
    since: float
    saga_id: str
    answered: Answered


class HeldStarts:
    """Touched from the event loop only. As many are held as connections may be open."""

    def __init__(self, lookups: Lookups, overload: Overload) -> None:
        self._lookups = lookups
        self._overload = overload
        self._held: dict[str, deque[_Held]] = {}
        """By caller, the oldest first. No queue is empty."""
        self._given = 0
        """How many places, in all."""
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        """Whether a start is held."""
        return self._task is not None

    def hold(self, saga_id: str, caller: str, answered: Answered) -> None:
        """Call `answered` once its turn has come. `saga_id` is empty where it is not known."""
        loop = asyncio.get_running_loop()
        held = _Held(loop.time(), saga_id, answered)
        self._held.setdefault(caller, deque()).append(held)
        self._overload.holds()
        if self._task is None:
            self._task = loop.create_task(self._release())

    async def _release(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            ticks = 0
            while self._held:
                await asyncio.sleep(TICK_SECONDS)
                self._let_in()
                ticks += 1
                if ticks % TICKS_A_TURN == 0:
                    await self._refuse(self._take_due(loop.time()))
        finally:
            self._task = None

    def _let_in(self) -> None:
        """Let those in that have a place now."""
        overload = self._overload
        left = int(min(overload.rate, RATE_FREE) * TICK_SECONDS) + 1
        for caller, held in list(self._held.items()):
            while held and left and overload.lets_in(caller):
                left -= 1
                self._given += 1
                taken = held.popleft() if self._given % OLDEST_OF == 0 else held.pop()
                taken.answered(True)
            if held:
                overload.holds()
            else:
                del self._held[caller]

    def _take_due(self, now: float) -> list[_Held]:
        due: list[_Held] = []
        while self._held and len(due) < OVERDUE_PER_TURN:
            caller, held = min(self._held.items(), key=lambda item: item[1][0].since)
            least = HELD_SECONDS if len(due) < REFUSED_PER_TURN else HELD_SECONDS_MAX
            if now - held[0].since < least:
                break
            due.append(held.popleft())
            if not held:
                del self._held[caller]
        return due

    async def _refuse(self, due: list[_Held]) -> None:
        """Refuse those, apart from those whose saga was seen (I10)."""
        named = tuple(held.saga_id for held in due if held.saga_id)
        seen = await self._lookups.which(named) if named else None
        for _, saga_id, answered in due:
            answered(saga_id in seen if saga_id and seen is not None else None)
