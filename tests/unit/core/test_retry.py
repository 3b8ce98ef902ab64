"""How often and how long: the bounds of a policy, and the promises of the defaults."""

from __future__ import annotations

import pytest

from stage.core.retry import (
    COMPENSATION,
    DEFECT,
    EXECUTION,
    NEIGHBOUR,
    NEIGHBOUR_COMPENSATION,
    NEIGHBOUR_SETTLEMENT,
    OUTAGE_BACKOFF_SECONDS_MAX,
    PATIENCE_SECONDS,
    PENDING,
    PENDING_CALL,
    PENDING_SECONDS_MAX,
    SETTLEMENT,
    RetryPolicy,
)

POLICY = RetryPolicy(attempts_max=3, backoff_seconds_min=0.5, backoff_seconds_max=8.0)
SEEDS = [f"s-{number}/charge" for number in range(300)]


@pytest.mark.parametrize(
    "policy, bounds",
    [
        (EXECUTION, (4, 0.1, 5.0)),
        (DEFECT, (None, 0.1, 60.0)),
        (SETTLEMENT, (6, 0.2, 5.0)),
        (COMPENSATION, (None, 0.1, 60.0)),
        (NEIGHBOUR, (8, 0.1, 5.0)),
        (PENDING, (1_000, 0.5, 300.0)),
        (PENDING_CALL, (None, 1.0, 600.0)),
        (NEIGHBOUR_SETTLEMENT, (20, 0.1, 60.0)),
        (NEIGHBOUR_COMPENSATION, (None, 0.1, 60.0)),
    ],
)
def test_the_defaults_are_those_that_pages_promise(
    policy: RetryPolicy, bounds: tuple[int | None, float, float]
) -> None:
    """An operator counts on them: attempts, the first wait, the longest one."""
    assert bounds == (policy.attempts_max, policy.backoff_seconds_min, policy.backoff_seconds_max)


def test_patience_lasts_three_days() -> None:
    assert 3 * 24 * 3_600.0 == PATIENCE_SECONDS == PENDING_SECONDS_MAX


@pytest.mark.parametrize("attempts, exhausted", [(0, False), (2, False), (3, True), (4, True)])
def test_the_last_attempt_is_the_one_that_reaches_the_bound(attempts: int, exhausted: bool) -> None:
    assert exhausted is POLICY.exhausted(attempts)
    assert not COMPENSATION.exhausted(1_000_000)


@pytest.mark.parametrize(
    "attempt, lasted, full",
    [
        (1, 0.0, 0.5),
        (2, 0.0, 1.0),
        (3, 0.0, 2.0),
        (5, 0.0, 8.0),
        (6, 0.0, 8.0),
        (10_000, 0.0, 8.0),
        # In a long outage they grow to a tenth of it, and to a bound of their own.
        (10, 80.0, 8.0),
        (10, 200.0, 20.0),
        (60, 1e9, OUTAGE_BACKOFF_SECONDS_MAX),
        (1, 1e9, 0.5),
    ],
)
def test_a_pause_doubles_up_to_its_bound_less_at_most_half(
    attempt: int, lasted: float, full: float
) -> None:
    """Of many sagas that wait for one peer, each comes back at a time of its own."""
    pauses = [POLICY.backoff_seconds(attempt, seed, lasted) for seed in SEEDS]

    assert full / 2 <= min(pauses) < 0.51 * full
    assert 0.99 * full < max(pauses) <= full
    assert len(set(pauses)) > 290


def test_a_replay_pauses_as_the_first_run_did() -> None:
    """The same saga, step and attempt: the same pause. Another attempt has another jitter."""
    assert POLICY.backoff_seconds(4, "s/a") == POLICY.backoff_seconds(4, "s/a", 0.0)
    assert POLICY.backoff_seconds(6, "s/a") != POLICY.backoff_seconds(7, "s/a")
