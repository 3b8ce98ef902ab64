"""Failures within a simulated process, and the units that a script leaves out."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.recovery import Recovery
from stage.simulation.faults import Faults
from stage.simulation.world import Scenario, World, simulate_world


def _broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("planted")


@pytest.mark.parametrize(
    "owner, method", [(LiveSagas, "_may_leave"), (LiveSagas, "_leave"), (Recovery, "_open_some")]
)
def test_a_background_task_that_fails_is_a_violation(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """Nothing awaits the tasks of the engine: a failure in one is reported as a defect."""
    monkeypatch.setattr(owner, method, _broken)

    result = simulate_world(3, Scenario(sagas=2, without=frozenset({"crash", "drain", "zombie"})))

    assert "defect" in {each.invariant for each in result.violations}


class _Counted(Faults, kw_only=True):
    """A script that only counts its pauses."""

    scripted = True
    pauses: int = 0

    async def pause(self, where: str) -> None:
        self.pauses += 1


def test_retention_is_no_point_of_a_script() -> None:
    """An idle world comes to no pause, though retention looks for old sagas all the time."""
    scripts: list[_Counted] = []

    def make(random: Random) -> _Counted:
        scripts.append(_Counted(rates={}, random=random))
        return scripts[0]

    async def idle(world: World) -> None:
        await asyncio.sleep(60.0)

    result = simulate_world(0, Scenario(sagas=0, chain=("plain",), faults=make, drive=idle))

    assert not result.violations
    assert 0 == scripts[0].pauses
