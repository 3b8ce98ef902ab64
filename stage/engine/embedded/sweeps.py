"""Runs sweeps: one replica at a time, one saga after the other, at their rate.

An act of the audit is written with the verb, in one unit, and has the number of the sweep in its
reason. So a sweep that goes on after its process was lost knows the saga that it had acted on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from stage.core.errors import StoreUnavailable
from stage.core.sweep import SCRUBBED, Sweep, SweepEnd, SweepState
from stage.ports.clock import Clock
from stage.ports.engine import Busy, Unsettled
from stage.ports.observer import Observer, TraceContext
from stage.ports.store import Act, Store

SWEEP_LOOK_SECONDS: Final = 1.0
"""How soon a sweep begins, and how late one is stopped."""
SWEEPS_MAX: Final = 1_000
"""Sweeps that go on at a time, the oldest first: those behind them have their turn then."""
ACTS_MAX: Final = 20
"""Acts on one saga among which that of the sweep is looked for."""

AGAIN_SECONDS: Final = 10.0
"""How long a sweep leaves a saga on which it could not act, while it acts on the others."""
FINISH_SECONDS: Final = 60.0
"""How long a sweep waits that could not be finished, before it tries that again."""

Do = Callable[[Sweep, str], Awaitable[str]]
Finish = Callable[[Sweep], Awaitable[None]]


class Sweeps:
    """The sweeps of one database. A round goes on after any error."""

    def __init__(
        self, store: Store, clock: Clock, observer: Observer, act: Do, finish: Finish
    ) -> None:
        """`act` does the verb of a sweep to a saga; its value says why that was refused, if so.

        `finish` is called before a sweep is done. It may raise Unsettled, and is called again then.
        """
        self._store = store
        self._clock = clock
        self._observer = observer
        self._act = act
        self._finish = finish
        self._finish_at: dict[int, float] = {}
        self._again_at: dict[tuple[int, str], float] = {}
        """When a saga on which a sweep could not act is tried again, by the sweep's number."""
        self._idle = False
        """Nothing is to be done, and only this process could begin something."""
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """A sweep was begun or changed here."""
        self._idle = False

    def start(self) -> None:
        """Begin the rounds: what a process before has left goes on."""
        self._task = asyncio.get_running_loop().create_task(self._keep_going())

    def stop(self) -> None:
        """Begin no further round; what is left is pending for the next process."""
        if self._task is not None:
            self._task.cancel()

    async def _keep_going(self) -> None:
        acted = 0
        while True:
            if not acted:  # otherwise its pace has taken as long
                await self._clock.sleep(SWEEP_LOOK_SECONDS)
            acted = 0
            if self._idle or not self._mine():
                continue
            # Before the list is read: a sweep that is begun or resumed behind that wakes it.
            self._idle, left = self._store.ownership.renew_seconds is None, True
            try:
                acted, left = await self._round()
            except (StoreUnavailable, Unsettled, Busy):
                pass  # what is pending stays so
            except Exception as error:
                self._observer.defect("sweep", "", TraceContext(), error)
            if left:
                self._idle = False

    async def _round(self) -> tuple[int, bool]:
        """How many sagas were acted on, and whether another round is to follow."""
        found = await self._store.unfinished_sweeps(SWEEPS_MAX)
        running = [each for each in found if each.state is SweepState.RUNNING]
        numbers = {each.number for each in found}
        self._again_at = {each: at for each, at in self._again_at.items() if each[0] in numbers}
        acted = 0
        for turn, sweep in enumerate(running):
            if turn == 0 or await self._runs(sweep.number):  # each turn takes a second
                acted += await self._went_on(sweep)
        stopped = [each for each in found if each.state is SweepState.STOPPED]
        left = [each for each in stopped if not await self._scrubbed(each)]
        return acted, bool(running or left)

    async def _runs(self, number: int) -> bool:
        """Whether that sweep runs still: it may have been stopped in the turn of another one."""
        found = await self._store.unfinished_sweeps(SWEEPS_MAX)
        return any(each.number == number and each.state is SweepState.RUNNING for each in found)

    def _mine(self) -> bool:
        """Whether this process is the one of all replicas that runs sweeps."""
        ownership = self._store.ownership
        return ownership.share.first and ownership.sure

    async def _went_on(self, sweep: Sweep) -> int:
        """As `_go_on`; an error of one sweep keeps none behind it from going on."""
        try:
            return await self._go_on(sweep)
        except (StoreUnavailable, Unsettled, Busy):
            raise
        except Exception as error:
            self._observer.defect("sweep", "", TraceContext(), error)
            return 0

    async def _go_on(self, sweep: Sweep) -> int:
        """Act on as many sagas as the rate allows until the next look; returns their number.

        The look may find the sweep stopped, and slow acts do not put it off. No two acts begin
        closer together than the rate says.
        """
        most = max(1, int(sweep.rate_per_second * SWEEP_LOOK_SECONDS))
        began = next_at = self._clock.now()
        pause = 1.0 / sweep.rate_per_second
        pending, waits = await self._pending(sweep, most)
        for acted, saga_id in enumerate(pending):
            if not self._mine():
                return acted  # another replica goes on with it
            if acted and self._clock.now() - began >= SWEEP_LOOK_SECONDS:
                return acted
            if not await self._done(sweep, saga_id):
                waits = True
            next_at = max(next_at + pause, now := self._clock.now())
            await self._clock.sleep(next_at - now)
        if len(pending) < most and not waits and await self._finished(sweep):
            await self._store.transact(lambda unit: unit.set_sweep(sweep.number, SweepState.DONE))
        return len(pending)

    async def _pending(self, sweep: Sweep, most: int) -> tuple[list[str], bool]:
        """The next sagas of a sweep, and whether others of it wait for a further try.

        One on which it could not act gives way to those that were not tried yet: there may be so
        many of them, or each may take so long, that they would take all of the time.
        """
        number, now = sweep.number, self._clock.now()
        failed = {saga_id: at for (of, saga_id), at in self._again_at.items() if of == number}
        found = await self._store.sweep_sagas(number, SweepEnd.PENDING, most + len(failed))
        ids = [saga_id for saga_id, _ in found]
        new = [saga_id for saga_id in ids if saga_id not in failed]
        # Where these are fewer than `most`, all that are pending were found.
        again = sorted((failed[each], each) for each in ids if failed.get(each, math.inf) <= now)
        pending = [*new, *(saga_id for _, saga_id in again)][:most]
        return pending, any(each in failed and each not in pending for each in ids)

    async def _done(self, sweep: Sweep, saga_id: str) -> bool:
        """Act on one saga; False where that failed: it is tried again, behind the others."""
        try:
            refused = "" if await self._acted(sweep, saga_id) else await self._act(sweep, saga_id)
        except Exception as error:
            if not self._store.available:
                raise  # no other saga would fare better
            self._again_at[sweep.number, saga_id] = self._clock.now() + AGAIN_SECONDS
            if not isinstance(error, StoreUnavailable | Unsettled | Busy):
                self._observer.defect("sweep", saga_id, TraceContext(), error)
            return False
        await self._end(sweep, saga_id, refused)
        self._again_at.pop((sweep.number, saga_id), None)
        return True

    async def _scrubbed(self, sweep: Sweep) -> bool:
        """False while bytes may be left that a stopped sweep has erased.

        The audit keeps the act of scrubbing them, so that it is done once, if need be by the next
        process.
        """
        if not await self._finished(sweep):
            return False
        act = Act(
            at=self._clock.now(),
            actor=sweep.actor,
            act=SCRUBBED,
            target=f"sweep {sweep.number}",
            reason=sweep.why,
            before="",
            after=f"stopped, {sweep.done} sagas erased",
        )
        await self._store.transact(lambda unit: unit.keep_act(act))
        return True

    async def _finished(self, sweep: Sweep) -> bool:
        """Whether all is done that the sweep needs after its last saga."""
        now = self._clock.now()
        if now < self._finish_at.get(sweep.number, now):
            return False
        try:
            await self._finish(sweep)
        except Unsettled as error:
            self._finish_at[sweep.number] = now + FINISH_SECONDS
            self._observer.defect("sweep", "", TraceContext(), error)
            return False
        self._finish_at.pop(sweep.number, None)
        return True

    async def _acted(self, sweep: Sweep, saga_id: str) -> bool:
        """Whether the sweep acted on the saga before its process was lost."""
        acts = await self._store.acts(ACTS_MAX, target=saga_id)
        return any(act.reason == sweep.why and act.at >= sweep.at for act in acts)

    async def _end(self, sweep: Sweep, saga_id: str, refused: str) -> None:
        end = SweepEnd.REFUSED if refused else SweepEnd.DONE
        await self._store.transact(
            lambda unit: unit.end_sweep_saga(sweep.number, saga_id, end, refused)
        )
