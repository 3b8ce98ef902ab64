"""The clock of a neighbour is nobody's proof: a lost saga is as old as it can be, and no older."""

from __future__ import annotations

from typing import Any

import pytest

from stage.engine.clock import SystemClock
from stage.engine.reconcile import MARGIN_SECONDS, Reconciler
from stage.engine.saga.adoption import Adoption
from stage.store.memory import MemoryStore
from stage.wire.envelope import format_instant
from tests.unit.engine.test_adoption import AS_OF, NOW, adoption, store, written
from tests.unit.engine.test_contested import ORDERED, Lists

__all__ = ["adoption", "store"]


@pytest.mark.parametrize(
    "at",
    ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z", "9999-12-31"],
)
async def test_a_saga_is_no_older_than_the_time_that_is_asked_for(
    adoption: Adoption, store: MemoryStore, at: str
) -> None:
    """Downstreams would say at each undo that it is from before their birth, for ever.

    A row with an instant that lies in no year broke the lists of the stage.
    """
    lists: Any = Lists(ORDERED, at=at)
    reconciler = Reconciler(("payment",), store, lists, adoption, SystemClock())
    since = NOW - 60.0
    (lost,) = (await reconciler.ask(["order"], since)).lost
    assert min(lost.known_at) >= since
    _, row, _ = await written(adoption, store, lost)
    assert AS_OF <= row.accepted_at <= NOW
    assert format_instant(row.accepted_at)


async def test_a_backup_of_the_year_one_is_asked_for_in_words(
    adoption: Adoption, store: MemoryStore
) -> None:
    """An hour before it there is no year."""
    lists: Any = Lists(ORDERED)
    reconciler = Reconciler(("payment",), store, lists, adoption, SystemClock())
    for as_of, since in ((-62_135_596_800.0, 0.0), (NOW, NOW - MARGIN_SECONDS)):
        found = await reconciler.reconcile(["order"], as_of, {})
        assert (since, since) == (lists.since, found.since)
        assert format_instant(lists.since)
