"""Clocks that jump under a running stage (rule 34, case 9)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from stage.bootstrap import wiring
from stage.engine import clock as clocks
from stage.engine.embedded import retention
from tests.scenario.chain import Chain, running_chain
from tests.waits import HANG_SECONDS, until

DAY = 86_400.0


class WallClock:
    """The wall clock of the machine, which can be set."""

    ahead = 0.0

    def __call__(self) -> float:
        """Seconds since the epoch, and by how much it was set."""
        return time.time() + self.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The wall clock of every stage of the test, whose closing begins at once."""
    wall = WallClock()
    monkeypatch.setattr(wiring, "wall_of", lambda _: wall)
    monkeypatch.setattr(retention, "STEADY_SECONDS_MIN", 0.05)
    monkeypatch.setattr(retention, "CLOSE_PAUSE_SECONDS_MAX", 0.1)
    return wall


async def closed(chain: Chain, saga_id: str) -> bool:
    """Whether the undo data of the saga was dropped."""
    return not await chain.events(saga_id)


async def test_a_clock_8_days_ahead_for_a_while_drops_no_undo_data(
    tmp_path: Path, wall: WallClock
) -> None:
    """Seen: all completed sagas lost theirs within 13 s. It can still be compensated."""
    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        wall.ahead = 8 * DAY
        await asyncio.sleep(1.0)
        _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
        assert b"\nstage_clock_jump_seconds 69" in metrics
        assert not await closed(chain, "s-1")
        assert 200 == (await chain.send("s-2"))[0], "sagas go on"
        wall.ahead = 0.0
        await asyncio.sleep(0.5)
        assert not await closed(chain, "s-1")
        assert 200 == (await chain.compensate("s-1"))[0]
        assert (2, 1) == await chain.charges()


async def test_a_clock_that_stays_ahead_is_believed_in_time(
    tmp_path: Path, wall: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round: retention is delayed and not given up."""
    monkeypatch.setattr(clocks, "STEADY_SECONDS_MIN", 0.5)
    monkeypatch.setattr(clocks, "STEADY_SECONDS_MAX", 0.5)
    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        wall.ahead = 8 * DAY
        await until(lambda: closed(chain, "s-1"))


async def test_a_step_back_does_not_make_a_saga_wait(tmp_path: Path, wall: WallClock) -> None:
    """A retry that is due in a moment comes then, with a clock that was put back by an hour."""
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="flaky")
        sending = asyncio.ensure_future(chain.send("s-1"))
        await chain.until_charged()
        wall.ahead = -3_600.0
        status, _, _ = await asyncio.wait_for(sending, HANG_SECONDS)
        assert 200 == status
