"""Sagas that rest are given back to the other replicas, until that has succeeded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from stage.core.errors import StoreUnavailable
from stage.engine.clock import SystemClock
from stage.engine.embedded.lease import Lease
from stage.telemetry.null import NullObserver


class Given:
    """An ownership that notes what is given up, unless its database is away."""

    def __init__(self) -> None:
        self.away = False
        self.released: list[dict[str, int | None]] = []

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """See ports.ownership.Ownership."""
        if self.away:
            raise StoreUnavailable("the database is away")
        self.released.append(dict(sagas))


def lease_over(sagas: set[str], given: Given) -> Lease:
    """The lease of a replica that has these sagas in memory."""
    rest: dict[str, Any] = {"withdrawing": None, "divide": lambda _: None}
    return Lease(cast(Any, sagas), cast(Any, given), NullObserver(), SystemClock(), **rest)


async def test_a_saga_that_could_not_be_given_back_is_given_back_later() -> None:
    """With the number of entries of its last rest."""
    given = Given()
    lease = lease_over(set(), given)
    lease._rests("s-1", 3)
    lease._rests("s-2", None)
    given.away = True
    with pytest.raises(StoreUnavailable):
        await lease._release()
    lease._rests("s-1", 5)
    given.away = False
    await lease._release()
    await lease._release()
    assert [{"s-1": 5, "s-2": None}] == given.released


async def test_a_saga_that_is_in_memory_again_is_given_back_behind_that() -> None:
    """Also one that leaves memory without a rest, such as one that could not be opened."""
    sagas, given = {"s-1"}, Given()
    lease = lease_over(sagas, given)
    lease._rests("s-1", None)
    await lease._release()
    assert [] == given.released
    sagas.clear()
    await lease._release()
    assert [{"s-1": None}] == given.released
