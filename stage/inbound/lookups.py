"""Looks whether sagas were seen, before a start is shed with the word `not_executed` (I10).

A start may be the repeat of one that was executed, whose answer was lost. Shedding has to be cheap,
so all ids that are asked for while one look-up is under way share the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from stage.core.errors import StoreUnavailable
from stage.ports.engine import SagaLost, Unsettled

Seen = Callable[[Sequence[str]], Awaitable[frozenset[str]]]

IDS_MAX = 500
"""How many share one look-up; more than that, and nothing is said of the others."""


class Lookups:
    """Touched from the event loop only."""

    def __init__(self, seen: Seen) -> None:
        """`seen` is `ports.engine.Queries.seen`."""
        self._seen = seen
        self._waiting: dict[str, asyncio.Future[bool | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def was_seen(self, saga_id: str) -> bool | None:
        """Whether the saga was accepted or buried here; None when that is not known now."""
        loop = asyncio.get_running_loop()
        found = self._waiting.get(saga_id)
        if found is None:
            if len(self._waiting) >= IDS_MAX:
                return None
            found = self._waiting[saga_id] = loop.create_future()
            if self._task is None:
                self._task = loop.create_task(self._look())
        return await asyncio.shield(found)

    async def which(self, saga_ids: Sequence[str]) -> frozenset[str] | None:
        """The given ids that were accepted or buried here; None when that is not known now."""
        try:
            return await self._seen(saga_ids)
        except (StoreUnavailable, SagaLost, Unsettled):
            return None

    async def _look(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                seen: frozenset[str] | None = None
                try:
                    seen = await self.which(tuple(asked))
                finally:
                    for saga_id, found in asked.items():
                        if not found.done():
                            found.set_result(None if seen is None else saga_id in seen)
        finally:
            self._task = None
