"""Each simulated replica looks for its mail at a pace of its own, which differs by seed."""

from __future__ import annotations

from typing import Any

import pytest

from stage.engine.embedded.engine import EmbeddedEngine
from stage.simulation import node
from stage.simulation.loop import WallClock
from stage.simulation.world import Scenario, simulate_world


def test_replicas_look_for_mail_at_their_own_paces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of the engine sleeps for as long as the world has drawn."""
    paces: list[float] = []
    slept: set[float] = set()
    sleep = WallClock.sleep

    class Watched(EmbeddedEngine):
        def __init__(self, *given: Any, limits: Any, **named: Any) -> None:
            paces.append(limits.mail_seconds)
            super().__init__(*given, limits=limits, **named)

    async def watched(clock: WallClock, seconds: float) -> None:
        slept.add(seconds)
        await sleep(clock, seconds)

    monkeypatch.setattr(node, "EmbeddedEngine", Watched)
    monkeypatch.setattr(WallClock, "sleep", watched)
    for seed in range(4):
        simulate_world(seed, Scenario(sagas=2, always=frozenset({"replicas"})))
    least, most = node.MAIL_LOOK_SECONDS
    assert len(paces) == len(set(paces)) and least <= min(paces) < max(paces) <= most
    assert slept & set(paces)
