"""Whether a saga that is not there may have been here, and its row dropped (decision 0080)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stage.core.unseen import may_be_dropped, sent_at_of
from stage.ports.clock import Clock
from stage.ports.engine import PastRetention
from stage.ports.store import Dropped, Store, Unit

DROP_AGE_SECONDS_MIN: Final = 7 * 86_400.0
"""No row is dropped whose id is of a later instant than so long ago."""
LOOK_AGE_SECONDS: Final = 86_400.0
"""The database is asked about ids that are older. No row of a younger one was dropped, unless a
clock was wrong by days: then the last known mark says so."""


class DroppedRows:
    """The mark up to which rows were dropped, as far as this process needs to know it."""

    def __init__(
        self, store: Store, clock: Clock, look_age_seconds: float = LOOK_AGE_SECONDS
    ) -> None:
        self._store = store
        self._clock = clock
        self._look_age_seconds = look_age_seconds
        self.known = Dropped()
        """As it was read last; it only ever grows."""

    async def refresh(self) -> None:
        """Read it: another replica may have dropped rows, or an older process."""
        self.known = await self._store.dropped()

    async def refuse_in(self, unit: Unit, saga_id: str) -> None:
        """Raise PastRetention for a saga that is not there and may have been dropped."""
        if await self.has_in(unit, saga_id):
            raise past_retention(saga_id)

    async def has_in(self, unit: Unit, saga_id: str) -> bool:
        """Whether a saga that is not there may have been dropped; asked within a unit."""
        if may_be_dropped(saga_id, self.known.ids_until):
            return True
        return self._is_old(saga_id) and may_be_dropped(saga_id, (await unit.dropped()).ids_until)

    async def has(self, saga_id: str) -> bool:
        """Whether a saga that is not there may have been dropped; asked outside of a unit."""
        return bool(await self.among([saga_id]))

    async def among(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """The ids, of sagas that are not there, that may have been dropped. One look for all."""
        if any(self._is_old(each) for each in saga_ids):
            await self.refresh()
        until = self.known.ids_until
        return frozenset(each for each in saga_ids if may_be_dropped(each, until))

    def _is_old(self, saga_id: str) -> bool:
        sent_at = sent_at_of(saga_id)
        return sent_at is not None and sent_at < self._clock.now() - self._look_age_seconds


def past_retention(saga_id: str) -> PastRetention:
    """Why nothing is said of the saga."""
    return PastRetention(
        f"saga {saga_id} is not here, and its id is older than rows that were dropped for their"
        " age: whether it was executed here is not known any more, and it is never run anew"
    )
