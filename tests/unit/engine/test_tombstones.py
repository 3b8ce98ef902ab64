"""The allowances of tombstones: each caller has its own, and time gives more."""

from __future__ import annotations

import pytest

from stage.core.shares import Shares
from stage.engine.saga.tombstones import IDLE_SECONDS_MAX, KNOWN, UNKNOWN, TombstoneShares
from stage.ports.engine import Busy


def taken(shares: TombstoneShares, asker: str, now: float) -> int:
    """How many that asker may leave at that instant."""
    count = 0
    while count <= KNOWN.burst:
        try:
            shares.take(asker, now)
        except Busy:
            return count
        count += 1
    raise AssertionError("there is no end")


def test_each_upstream_has_its_own_and_all_others_have_one() -> None:
    shares = TombstoneShares(Shares(frozenset({"order", "shop"})))
    assert UNKNOWN.burst == taken(shares, "a", 0.0)
    assert 0 == taken(shares, "b", 0.0)
    assert KNOWN.burst == taken(shares, "order", 0.0)
    assert KNOWN.burst == taken(shares, "shop", 0.0)
    assert KNOWN.burst == taken(shares, "operator kim", 0.0)
    assert 0 == taken(shares, "operator lee", 0.0)


def test_time_gives_more_up_to_the_burst() -> None:
    shares = TombstoneShares(Shares(frozenset({"order"})))
    taken(shares, "order", 0.0)
    assert KNOWN.per_second == taken(shares, "order", 1.0)
    assert KNOWN.burst == taken(shares, "order", 1e6)


def test_without_names_all_callers_are_one() -> None:
    shares = TombstoneShares()
    assert KNOWN.burst == taken(shares, "a", 0.0)
    assert 0 == taken(shares, "b", 0.0)


def test_a_clock_that_jumps_gives_little_and_takes_nothing() -> None:
    shares = TombstoneShares(Shares(frozenset({"order"})))
    taken(shares, "x", 1e9)
    assert 0 == taken(shares, "x", 0.0)
    assert min(UNKNOWN.burst, IDLE_SECONDS_MAX * UNKNOWN.per_second) == taken(shares, "x", 1e9)


def test_the_refusal_says_when_to_ask_again() -> None:
    shares = TombstoneShares(Shares(frozenset({"order"})))
    taken(shares, "x", 0.0)
    with pytest.raises(Busy) as caught:
        shares.take("x", 0.0)
    assert 1.0 / UNKNOWN.per_second == pytest.approx(caught.value.retry_after)
