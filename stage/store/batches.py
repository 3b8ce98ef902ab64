"""One batch after the other on the connection that writes: units, number, COMMIT.

A unit that fails is left out of its batch. When it takes the whole transaction with it, or COMMIT
refuses what it wrote, the units of the batch are run again, each in a transaction of its own. One
that meets a lock there is moved aside, where that is possible, so that no other unit waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec
from msgspec.structs import replace

from stage.core.errors import StoreUnavailable
from stage.store.connection import CommitRefused, Connection
from stage.store.errors import Contended
from stage.store.pace import Pace
from stage.store.queue import Waiting

Committed = Callable[[int, float], None]
"""Notified of each batch that became durable: its units, and the seconds that COMMIT took.

It never raises: the callers of the batch have not been answered yet."""


class Away(msgspec.Struct, frozen=True):
    """The batch was certainly not written, and the connection is not to be trusted."""

    batch: Sequence[Waiting]
    error: StoreUnavailable
    before: Sequence[Waiting] = ()
    """Units that were run one by one before it, and have their outcome."""
    behind: Sequence[Waiting] = ()
    """Units behind it, which were not written."""


class InDoubt(msgspec.Struct, frozen=True):
    """The COMMIT of the batch of that number raised (rule 8). `before`, `behind`: see Away."""

    batch: Sequence[Waiting]
    number: int
    error: BaseException
    before: Sequence[Waiting] = ()
    behind: Sequence[Waiting] = ()


Trouble = Away | InDoubt

Aside = Callable[[Waiting], bool]
"""Takes a unit over, which then is none of this batch; False: it has to be run here."""


class Batches:
    """Runs batches, numbers them, and knows whether the last one found the database there."""

    def __init__(
        self, pace: Pace, committed: Committed | None = None, aside: Aside | None = None
    ) -> None:
        self._pace = pace
        self._committed = committed
        self._aside = aside
        self.number = 0
        """The number of the last batch that was sent to COMMIT."""
        self.available = True
        """False from the moment a write failed for want of the database until one succeeds."""
        self.trouble = ""
        """Why it is not available, where a unit met it within its transaction."""

    async def run(self, connection: Connection, batch: Sequence[Waiting]) -> Trouble | None:
        """Run a batch as one transaction, or its units one by one when the transaction broke.

        Afterwards every unit has its outcome, unless there is trouble.
        """
        try:
            await connection.begin(patient=self._is_patient(batch))
        except StoreUnavailable as error:
            return Away(batch, error)
        if (last := await connection.run_units(batch)) is not None:
            return await self._run_broken(connection, batch, last)
        return await self._commit(connection, batch)

    async def run_singly(self, connection: Connection, batch: Sequence[Waiting]) -> Trouble | None:
        """Run each unit in a transaction of its own, so that a poisoned one fails alone."""
        for place, waiting in enumerate(batch):
            trouble = await self.run(connection, [waiting])
            if trouble is not None:
                return replace(trouble, before=batch[:place], behind=batch[place + 1 :])
        return None

    def _is_patient(self, batch: Sequence[Waiting]) -> bool:
        """A lone unit that cannot be moved aside, or was not, waits for the locks it needs."""
        if len(batch) > 1:
            return False
        return self._aside is None or batch[0].deferrable or batch[0].repeated

    def _goes_aside(self, waiting: Waiting) -> bool:
        """Whether the unit is one for a lane; where all are full it fails, and holds up nobody.

        Deferrable ones stay: the next one of their saga follows.
        """
        if self._aside is None or waiting.deferrable or waiting.repeated:
            return False
        waiting.moved = self._aside(waiting)
        return True

    async def _run_broken(
        self, connection: Connection, batch: Sequence[Waiting], last: Waiting
    ) -> Trouble | None:
        """The `last` unit took the whole transaction with it."""
        contended = isinstance(last.error, Contended)
        if len(batch) > 1:
            if contended:
                self._pace.collided()
            return await self.run_singly(connection, batch)
        if contended:
            if not self._goes_aside(last) and not last.repeated:
                last.repeated = True
                return await self.run(connection, batch)
        elif isinstance(last.error, StoreUnavailable):
            self.available, self.trouble = False, str(last.error)
        return None

    async def _commit(self, connection: Connection, batch: Sequence[Waiting]) -> Trouble | None:
        failed = [waiting.error for waiting in batch if waiting.error is not None]
        away = next((error for error in failed if isinstance(error, StoreUnavailable)), None)
        if away is not None:
            self.trouble = str(away)
        if len(failed) == len(batch):
            await connection.drop()
            if away is not None:
                self.available = False
            return None
        self.number += 1
        try:
            await connection.number(self.number)
        except StoreUnavailable as error:
            return Away(batch, error)
        except CommitRefused as refusal:
            return await self._run_refused(connection, batch, refusal)
        began = perf_counter()
        try:
            await connection.commit()
        except CommitRefused as refusal:
            return await self._run_refused(connection, batch, refusal)
        except BaseException as error:
            return InDoubt(batch, self.number, error)
        self.available = away is None
        self._pace.committed(len(batch))
        if self._committed is not None:
            self._committed(len(batch) - len(failed), perf_counter() - began)
        return None

    async def _run_refused(
        self, connection: Connection, batch: Sequence[Waiting], refusal: CommitRefused
    ) -> Trouble | None:
        """The database refused what the batch wrote: only the unit whose write it was fails."""
        contended = isinstance(refusal.__cause__, Contended)
        if len(batch) > 1:
            if contended:
                self._pace.collided()
            return await self.run_singly(connection, batch)
        if contended and self._goes_aside(batch[0]):
            batch[0].error = refusal.__cause__
            return None
        if refusal.again and _is_first(batch[0], contended=contended):
            return await self.run(connection, batch)
        batch[0].error = refusal.__cause__
        return None


def _is_first(waiting: Waiting, *, contended: bool) -> bool:
    """Whether a unit has yet to be run again for that reason; from here on it has been.

    A lock and an insert that came first count apart: behind the one, the other may follow.
    """
    if contended:
        first, waiting.repeated = not waiting.repeated, True
    else:
        first, waiting.reread = not waiting.reread, True
    return first
