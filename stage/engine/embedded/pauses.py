"""The pauses as this process obeys them: read again and again, for any replica may write them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from stage.core.act_key import ActKey
from stage.core.errors import CommitInDoubt, StoreUnavailable
from stage.core.pause import Pause, Way, ended, held_peers, in_force, intake, newer
from stage.engine.embedded.to_its_end import to_its_end
from stage.engine.saga.repeats import refuse_repeat
from stage.ports.clock import Clock
from stage.ports.observer import Observer, TraceContext
from stage.ports.store import Act, Store, Unit
from stage.wire.envelope import format_instant

PAUSE_LOOK_SECONDS: Final = 1.0
"""How soon a replica obeys a pause that another one wrote, and how late one may end."""

PAUSED: Final = "paused"
RESUMED: Final = "resumed"
"""The acts of the audit."""

T = TypeVar("T")
Hold = Callable[[Mapping[str, frozenset[Way]]], None]


class Pauses:
    """The pauses in force. While the database is away, those last read hold until they end."""

    def __init__(self, store: Store, clock: Clock, observer: Observer, hold: Hold) -> None:
        """`hold` is given the ways that are held, by peer."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._hold = hold
        self._known: tuple[Pause, ...] = ()
        self._changes = 0
        """How often pauses were put or ended here."""
        self._obeyed = 0
        """As many of these changes are in `_known`."""
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        """Obey what is written, before anything leaves, and look for changes from then on."""
        await self.read()
        self._task = asyncio.get_running_loop().create_task(self._keep_looking())

    def stop(self) -> None:
        """Look no further."""
        if self._task is not None:
            self._task.cancel()

    @property
    def active(self) -> tuple[Pause, ...]:
        """The pauses in force."""
        return in_force(self._known, self._clock.now())

    @property
    def written(self) -> tuple[Pause, ...]:
        """The newest word on each target, as last read: also pauses that are over or were ended."""
        return self._known

    @property
    def intake(self) -> Pause | None:
        """The pause of new sagas, if there is one."""
        return intake(self.active) if self._known else None

    async def put(self, pause: Pause, act_key: ActKey | None = None) -> None:
        """Write a pause, in place of one of the same target and way, and obey it."""
        await to_its_end(self._put(pause, act_key))

    async def _put(self, pause: Pause, act_key: ActKey | None) -> None:
        async with self._writing:
            before = ""
            for held in in_force(await self._store.pauses(), pause.at):
                if (held.target, held.way) == (pause.target, pause.way):
                    before = f"{_words(held)} by {held.actor}"

            async def unit(unit: Unit) -> None:
                await refuse_repeat(unit, act_key)
                await unit.put_pause(pause)
                await unit.keep_act(_paused(pause, before))
                if act_key is not None:
                    await unit.keep_act_key(act_key, pause.at)

            await self._change(unit)

    async def end(
        self,
        pause: Pause,
        actor: str,
        reason: str,
        at: float | None,
        act_key: ActKey | None = None,
    ) -> bool:
        """End a pause before its time; False where another order ended it, or put another one.

        Then nothing is kept of this order, and `active` has what is in force by now.
        """
        now = self._clock.now() if at is None else at
        end = ended(pause, now, actor, reason)

        async def unit(unit: Unit) -> bool:
            await refuse_repeat(unit, act_key)
            dropped = await unit.drop_pause(pause.target, pause.way, pause.at)
            if dropped:
                await unit.put_pause(end)  # a worker that is away still has the pause
                await unit.keep_act(_resumed(pause, now, actor, reason))
                if act_key is not None:  # a late copy would end a pause that was put there since
                    await unit.keep_act_key(act_key, now)
            return dropped

        return await to_its_end(self._end(unit))

    async def _end(self, unit: Callable[[Unit], Awaitable[bool]]) -> bool:
        async with self._writing:
            return await self._change(unit)

    async def _change(self, unit: Callable[[Unit], Awaitable[T]]) -> T:
        """Run a unit that puts or ends pauses, and obey what is written then.

        Where that cannot be read now, the next look does: no repeat would, which changes nothing.
        """
        try:
            value = await self._store.transact(unit)
        except CommitInDoubt:
            self._changes += 1  # it may be written
            raise
        self._changes += 1
        await self.read()
        return value

    async def adopt(self, others: Sequence[Pause]) -> None:
        """Write and obey newer words of other workers: this one was away when they were said.

        Their acts are in their own files, and the audit is that of all.
        """
        if not newer(others, self._known):
            return
        async with self._writing:
            words = newer(others, await self._store.pauses())

            async def unit(unit: Unit) -> None:
                for word in words:
                    await unit.put_pause(word)

            await self._change(unit)

    async def _keep_looking(self) -> None:
        while True:
            await self._clock.sleep(PAUSE_LOOK_SECONDS)
            try:
                alone = self._store.ownership.renew_seconds is None  # nobody else writes one
                if alone and self._obeyed == self._changes:
                    self._hold(held_peers(self.active))
                else:
                    await self.read()
            except StoreUnavailable:
                self._hold(held_peers(self.active))  # those that are known may end meanwhile
            except Exception as error:
                self._observer.defect("pauses", "", TraceContext(), error)

    async def read(self) -> None:
        """Read what is written: another replica may have put or ended one. Then obey it."""
        changes = self._changes
        found = tuple(await self._store.pauses())
        if changes >= self._obeyed:  # otherwise a read that began later ended before this one
            self._known, self._obeyed = found, changes
        self._hold(held_peers(self.active))


def _words(pause: Pause) -> str:
    ways = pause.way.value if pause.way else "both ways"
    return f"{ways} held until {format_instant(pause.until)}"


def _paused(pause: Pause, before: str) -> Act:
    return Act(
        at=pause.at,
        actor=pause.actor,
        act=PAUSED,
        target=pause.target,
        reason=pause.reason,
        before=before,
        after=_words(pause),
    )


def _resumed(pause: Pause, at: float, actor: str, reason: str) -> Act:
    return Act(
        at=at,
        actor=actor,
        act=RESUMED,
        target=pause.target,
        reason=reason,
        before=_words(pause),
    )
