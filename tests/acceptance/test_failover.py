"""F26: the primary is lost under load, and its standby takes over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.gateway.nginx import NGINX
from tests.acceptance.replicas.failover import fail_over
from tests.acceptance.replicas.trial import Trial
from tests.kits import Strikes
from tests.sizes import SIZES, TIER

SAGAS = 240
RATE = 40.0


def trial_of(folder: Path, number: int) -> Trial:
    """A short trial in a folder of its own."""
    folder = folder / str(number)
    folder.mkdir()
    return Trial(
        strikes=0, sagas=SAGAS, seed=SIZES.seed + number, rate=RATE, seconds=120.0, folder=folder
    )


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.kit("F26")
@pytest.mark.timeout(2_400)
async def test_nothing_that_was_answered_is_lost_with_a_synchronous_standby(
    tmp_path: Path, strikes: Strikes
) -> None:
    """The replicas find the new primary by themselves, and go on."""
    outcomes = [
        await fail_over(trial_of(tmp_path, number), synchronous=True)
        for number in range(SIZES.failovers)
    ]
    broken = [line for outcome in outcomes for line in outcome.broken]
    strikes.report(
        "synchronous",
        len(outcomes),
        violations=len(broken),
        seed=SIZES.seed,
        note=f"away for {[outcome.away_seconds for outcome in outcomes]} s",
    )
    assert [] == broken


@pytest.mark.skipif(TIER != "prove", reason="make prove loses the asynchronous primary")
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.kit("F26")
@pytest.mark.timeout(2_400)
async def test_commits_that_an_asynchronous_standby_lacks_are_noticed_and_reconciled(
    tmp_path: Path, strikes: Strikes
) -> None:
    """No replica writes to it before it is accepted; then all stages and the world agree."""
    outcomes = [
        await fail_over(trial_of(tmp_path, number), synchronous=False)
        for number in range(SIZES.failovers)
    ]
    broken = [line for outcome in outcomes for line in outcome.broken]
    lost = [outcome.lost for outcome in outcomes]
    strikes.report(
        "asynchronous",
        sum(1 for each in lost if each),
        violations=len(broken),
        seed=SIZES.seed,
        note=f"{lost} answered sagas lost, {[each.adopted for each in outcomes]} adopted",
    )
    assert [] == broken
    assert all(outcome.noticed for outcome in outcomes)
    assert all(lost) and all(outcome.adopted >= outcome.lost for outcome in outcomes)
