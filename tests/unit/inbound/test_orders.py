"""Orders of operators: each is signed, within the same limits at every endpoint."""

from __future__ import annotations

import msgspec
import pytest

from stage.inbound.orders import ACTOR_CHARS_MAX, check_rate, check_signed, check_step
from stage.wire.problem import WireError


class Signed(msgspec.Struct, frozen=True):
    """An order that is nothing but signed."""

    actor: str
    reason: str


@pytest.mark.parametrize(
    "actor, reason, word",
    [
        ("", "why", "must not be empty"),
        ("kim", " \n", "must not be empty"),
        ("k" * (ACTOR_CHARS_MAX + 1), "why", f"the actor has {ACTOR_CHARS_MAX + 1} characters"),
        ("kim", "w" * 11, "the reason has 11 characters"),
    ],
)
def test_an_order_without_a_signature_that_can_be_kept_is_refused(
    actor: str, reason: str, word: str
) -> None:
    """The error names the part that is wrong."""
    with pytest.raises(WireError) as refused:
        check_signed(Signed(actor, reason), 10)
    assert 422 == refused.value.status
    assert word in refused.value.detail


def test_an_order_at_the_limits_is_taken() -> None:
    """The limits are the longest that is kept."""
    check_signed(Signed("k" * ACTOR_CHARS_MAX, "w" * 10), 10)
    check_step("charge")
    check_rate(200.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, 200.1, float("nan")])
def test_a_rate_at_which_no_sweep_may_go_is_refused(rate: float) -> None:
    """Not a number is no rate either."""
    with pytest.raises(WireError, match="rate_per_second"):
        check_rate(rate)
