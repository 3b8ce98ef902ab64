"""The stage is started again: what it takes over, and what it leaves alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stage.engine.limits import EVICT_AFTER_SECONDS, RECOVERY_SCAN_SECONDS
from tests.scenario.chain import running_chain

SCANS = 3


async def test_a_saga_that_waits_for_long_is_taken_over_once_a_start(tmp_path: Path) -> None:
    """Downstream asked for patience: the scan leaves the saga alone until then (rule 16).

    It was once brought back by every scan, and parked as a crash loop after six of them.
    """
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="flaky", seconds=4 * EVICT_AFTER_SECONDS)
        await chain.send("s-1", Prefer="respond-async")
        await chain.until("s-1", lambda saga: "next_action_at" in saga)
    async with running_chain(tmp_path) as chain:
        await asyncio.sleep(SCANS * RECOVERY_SCAN_SECONDS + 0.5)
        assert 1 == (await chain.events("s-1")).count("recovered")
        assert not (await chain.view("s-1"))["parked"]
