"""Sagas under Temporal while its worker and a stage are killed at random (F29)."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.temporal.processes import NoServer, program
from tests.acceptance.orchestrators import killing
from tests.kits import Strikes
from tests.sizes import SIZES


@pytest.mark.kit("F29")
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", killing.KILLED)
async def test_kills_lose_double_and_leave_nothing(
    tmp_path: Path, name: str, strikes: Strikes
) -> None:
    """Each saga has one outcome, and the books of the world agree with it."""
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    sagas, kills, seed = SIZES.driven_sagas, SIZES.driven_kills, SIZES.seed
    found = await killing.run(name, tmp_path, sagas=sagas, kills=kills, seed=seed)
    struck, seen = sum(found.killed.values()), sum(found.outcomes.values())
    strikes.report("kills", struck, seed=seed, note=f"{name}, killed: {found.killed}")
    strikes.report("sagas", seen, violations=len(found.wrong), note=f"{name}: {found.outcomes}")
    assert [] == found.wrong
    assert (sagas, kills) == (seen, struck)
