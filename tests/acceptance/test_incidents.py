"""F30: of each incident the right alert fires within 30 s, and no wrong one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.acceptance.incidents.prometheus import PROMETHEUS, running_prometheus
from tests.acceptance.incidents.scenes import INCIDENTS, Incident
from tests.kits import Strikes
from tests.sizes import SIZES, TIER

SECONDS_MAX = 30.0 if TIER == "prove" else 90.0
"""From the cause to the alert. The small helping runs beside other tests, and scrapes that come
too late begin the time of an alert anew."""
HEALTHY_SCRAPES = 4
"""Before anything is struck; nothing may fire by then."""


@pytest.mark.kit("F30")
@pytest.mark.blocking
@pytest.mark.timeout(300)
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
async def test_the_right_alert_fires_and_no_wrong_one(tmp_path: Path, strikes: Strikes) -> None:
    """All incidents begin at once, each at a stage of its own, under one Prometheus."""
    incidents = INCIDENTS[: SIZES.incidents]
    async with AsyncExitStack() as stack:
        cases = []
        for number, incident in enumerate(incidents):
            folder = tmp_path / str(number)
            folder.mkdir()
            cases.append((incident, await stack.enter_async_context(incident.begin(folder))))
        schemes = {scene.instance: scene.scheme for _, scene in cases}
        prometheus = await stack.enter_async_context(
            running_prometheus(tmp_path, schemes, SIZES.scrape_seconds)
        )
        await prometheus.scraped(schemes, HEALTHY_SCRAPES)
        early = await prometheus.firing()
        for _, scene in cases:
            stack.callback(asyncio.create_task(_struck(scene.strike)).cancel)
        waits = [prometheus.fired(each.alert, scene.instance, SECONDS_MAX) for each, scene in cases]
        took = await asyncio.gather(*waits)
        fired = await prometheus.firing()
    late = [each.name for (each, _), seconds in zip(cases, took, strict=True) if seconds is None]
    wrong = [
        f"{each.name}: {sorted(others)}"
        for each, scene in cases
        if (others := _others(each, fired.get(scene.instance, set())))
        or (others := set() if each.began else early.get(scene.instance, set()))
    ]
    strikes.report(
        "incidents",
        len(incidents) - len(late),
        violations=len(wrong),
        note=f"within {max((each for each in took if each is not None), default=0):.0f} s",
    )
    assert ([], []) == (late, wrong)


def _others(incident: Incident, fired: set[str]) -> set[str]:
    return fired - {incident.alert} - incident.also


async def _struck(strike: Callable[[], Awaitable[object]]) -> None:
    await strike()
