"""The part of a limit for one caller of several (rule 37)."""

from __future__ import annotations

import pytest

from stage.core.shares import NOBODY, STRANGERS, Shares

ONE = Shares(frozenset({"order"}))
TWO = Shares(frozenset({"order", "shop"}))


@pytest.mark.parametrize(
    "shares, caller, limit, most",
    [
        (NOBODY, STRANGERS, 100, 100),
        (ONE, "order", 100, 100),
        (ONE, STRANGERS, 100, 50),
        (TWO, "order", 100, 50),
        (TWO, "order", 101, 50),
        (TWO, STRANGERS, 100, 50),
        (TWO, "order", 1, 1),
        (TWO, "order", 0, 1),
    ],
)
def test_nobody_takes_all_where_there_are_others(
    shares: Shares, caller: str, limit: int, most: int
) -> None:
    """The only named caller may, and strangers where no caller has a name; one is always left."""
    assert most == shares.most(caller, limit)


def test_all_names_that_are_not_configured_are_one_caller() -> None:
    assert ("order", STRANGERS, STRANGERS) == tuple(
        TWO.caller(name) for name in ("order", "somebody", "")
    )


def test_a_caller_that_was_renamed_has_one_share() -> None:
    """Under its former name it was one of those that are not configured."""
    shares = Shares(frozenset({"order"}), {"shop": "order"})
    assert ("order", "order", STRANGERS) == tuple(
        shares.caller(name) for name in ("order", "shop", "somebody")
    )
