"""F9: a replica is stopped past its lease and goes on: every stale write is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.acceptance.replicas.zombies import Outcome, Pair
from tests.kits import Strikes
from tests.sizes import SIZES


@pytest.mark.kit("F9")
@pytest.mark.timeout(1_800)
async def test_nothing_of_a_zombie_counts(
    tmp_path: Path, postgres_url: str, strikes: Strikes
) -> None:
    """Nothing it wrote lands, nothing leaves it, and its callers hear what the others say."""
    dice = random.Random(f"{SIZES.seed}/zombies")
    pair = Pair(tmp_path, postgres_url)
    outcomes: list[Outcome] = []
    async with pair.running():
        while _struck(outcomes) < SIZES.zombies and len(outcomes) < 2 * SIZES.zombies:
            outcomes.append(await pair.strike(dice))
    wrong = [line for outcome in outcomes for line in outcome.wrong]
    taken = sum(outcome.taken_over for outcome in outcomes)
    refused = sum(outcome.refused for outcome in outcomes)
    strikes.report(
        "zombies",
        _struck(outcomes),
        violations=len(wrong),
        seed=SIZES.seed,
        note=f"{taken} sagas taken over, {refused} stale writes refused",
    )
    assert [] == wrong
    assert _struck(outcomes) == SIZES.zombies
    assert refused


def _struck(outcomes: list[Outcome]) -> int:
    """How many had sagas in their hands: on a busy machine all may end before the signal comes."""
    return sum(1 for outcome in outcomes if outcome.taken_over)
