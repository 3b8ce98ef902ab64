"""Retention: sagas that are over are closed, and dropped in the end, after set times (rule 21).

Closing drops the undo data of a saga that is over for longer than the compensation window. Answers,
rows and acts of the audit are kept for ever, unless the operator says for how long (decision 0080).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from stage.core.errors import NewerJournal, StoreUnavailable
from stage.engine.clock import STEADY_SECONDS_MAX, STEADY_SECONDS_MIN, jump_of
from stage.engine.embedded.limits import (
    CLOSE_PAUSE_SECONDS_MAX,
    CLOSE_PAUSE_SECONDS_MIN,
    CLOSE_SAGAS_MAX,
    CLOSE_SHARE,
    DROP_ACTS_MAX,
    EngineLimits,
)
from stage.engine.saga.dropped import DroppedRows
from stage.ports.clock import Clock
from stage.ports.observer import DroppedKind, Observer, TraceContext
from stage.ports.store import Changes, Store, Unit

QUIET_SECONDS: Final = (STEADY_SECONDS_MIN, 3_600.0, 4 * 3_600.0)
"""Spans before a start in which a change of a saga is looked for; behind the last, a day counts."""
Batch = Callable[[Unit], Awaitable[int]]


class Retention:
    """Closes and drops in bounded batches. A round goes on after any error."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        clock: Clock,
        limits: EngineLimits,
        dropped: DroppedRows,
    ) -> None:
        self._store = store
        self._observer = observer
        self._clock = clock
        self._window_seconds = limits.compensation_window_seconds
        self._dropped = dropped
        self._drops: list[tuple[DroppedKind, Batch, int]] = []
        """The kinds of things that are dropped, the batch of each, and the most in one."""
        kept: Final = (
            (DroppedKind.ANSWER, limits.answers_retention_seconds, self._drop_answers),
            (DroppedKind.ROW, limits.rows_retention_seconds, self._drop_rows),
            (DroppedKind.ACT, limits.audit_retention_seconds, self._drop_acts),
        )
        for kind, seconds, batch in kept:
            if seconds is not None:
                most = DROP_ACTS_MAX if kind is DroppedKind.ACT else CLOSE_SAGAS_MAX
                self._drops.append((kind, partial(batch, seconds=seconds), most))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.get_running_loop().create_task(self._keep_going())

    def stop(self) -> None:
        """Begin no further round."""
        if self._task is not None:
            self._task.cancel()

    async def _keep_going(self) -> None:
        loop = asyncio.get_running_loop()
        await self._clock.sleep(min(self._window_seconds, await self._steady_seconds()))
        while True:
            began = loop.time()
            if jump_of(self._clock):  # what is dropped by a wrong clock is gone (rule 34)
                await self._clock.sleep(CLOSE_PAUSE_SECONDS_MAX)
                continue
            try:
                more = await self._round()
            except StoreUnavailable:
                more = False
            except Exception as error:
                more = False
                self._observer.defect("retention", "", TraceContext(), error)
            if not more:
                pause = min(CLOSE_PAUSE_SECONDS_MAX, self._window_seconds / 10)
                await self._clock.sleep(max(CLOSE_PAUSE_SECONDS_MIN, pause))
            else:
                took = loop.time() - began
                await self._clock.sleep(took * (1.0 / CLOSE_SHARE - 1.0))

    async def _steady_seconds(self) -> float:
        """How long nothing is closed or dropped behind a start (rule 34).

        A process may have been started while the clock was wrong, and nobody saw that jump. It is
        no longer than the time since a saga changed last, so that it waits as behind a jump of
        that length. The clock of a server was not started with this process.
        """
        if self._window_seconds <= STEADY_SECONDS_MIN or self._store.ownership.renew_seconds:
            return STEADY_SECONDS_MIN
        began = self._clock.now()
        try:
            for seconds in QUIET_SECONDS:
                since = Changes(at=began - seconds, limit=1)
                if any(row.updated_at < began for row in await self._store.changed(since)):
                    return seconds
            known = await self._store.changed(Changes(at=0.0, limit=1))
        except (StoreUnavailable, NewerJournal):  # of a row that another release has to read
            return STEADY_SECONDS_MAX
        except Exception as error:
            self._observer.defect("retention", "", TraceContext(), error)
            return STEADY_SECONDS_MAX
        return STEADY_SECONDS_MAX if known else STEADY_SECONDS_MIN

    async def _round(self) -> bool:
        """One batch of each kind; whether there is more to do.

        Nothing is dropped of a restored database until it is released: reconciliation compares the
        lists of the neighbours with its rows.
        """
        more = await self._store.transact(self._close_batch) >= CLOSE_SAGAS_MAX
        for kind, batch, most in self._drops:
            if self._store.identity.awaits_release:
                break
            if gone := await self._store.transact(batch):
                self._observer.dropped(kind, gone)
            more = more or gone >= most
        if self._store.ownership.renew_seconds is not None or self._drops:
            await self._dropped.refresh()
        return more

    async def _close_batch(self, unit: Unit) -> int:
        now = self._clock.now()
        return await unit.close_ended(now - self._window_seconds, now, CLOSE_SAGAS_MAX)

    async def _drop_answers(self, unit: Unit, *, seconds: float) -> int:
        return await unit.drop_answers(self._clock.now() - seconds, CLOSE_SAGAS_MAX)

    async def _drop_rows(self, unit: Unit, *, seconds: float) -> int:
        return await unit.drop_rows(self._clock.now() - seconds, CLOSE_SAGAS_MAX)

    async def _drop_acts(self, unit: Unit, *, seconds: float) -> int:
        return await unit.drop_acts(self._clock.now() - seconds, DROP_ACTS_MAX)
