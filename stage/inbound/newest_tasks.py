"""The newest task of Step Functions for each saga, as all replicas of the stage know it.

A state machine that repeats a task waits for the last one alone, which another replica may have. So
a task is written down before anything is done for it, and its time-out has the saga compensated
only where it is still the newest. Both are one row of the database: whichever comes first counts.
"""

from __future__ import annotations

import hashlib

from stage.ports.clock import Clock
from stage.ports.store import Store, TaskBefore


class NewestTasks:
    """Each method may raise StoreUnavailable; then nothing was written, and it may be repeated.

    A token says who may end a task, so its hash is kept in place of it.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def take(self, saga_id: str, token: str) -> TaskBefore:
        """Make the task the newest of its saga; returns the one before it."""
        at, known = self._clock.now(), _hash(token)
        return await self._store.transact(lambda unit: unit.take_task(saga_id, known, at))

    async def withdraw(self, saga_id: str, token: str) -> None:
        """Take back a task that had timed out: the one before it is the newest again."""
        known = _hash(token)
        await self._store.transact(lambda unit: unit.withdraw_task(saga_id, known))

    async def give_up(self, saga_id: str, token: str) -> bool:
        """The task has timed out: True when it is the newest, so that nobody waits for the saga."""
        known = _hash(token)
        return await self._store.transact(lambda unit: unit.give_up_task(saga_id, known))

    async def end(self, saga_id: str, token: str) -> None:
        """The task was answered; nothing changes where another one is the newest."""
        known = _hash(token)
        await self._store.transact(lambda unit: unit.end_task(saga_id, known), deferrable=True)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
