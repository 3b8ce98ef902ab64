"""F27: three replicas are replaced one by one by another release, forward and back, under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.gateway.nginx import NGINX
from tests.acceptance.kills import books
from tests.acceptance.kills.load import Load
from tests.acceptance.replicas import database
from tests.acceptance.replicas.trial import APART_SECONDS as APART
from tests.acceptance.replicas.trial import HERE, Replicas, Trial
from tests.kits import Strikes
from tests.sizes import SIZES

RATE = 40.0
READ_SECONDS = 60
"""Longer than a busy machine takes: nginx gives up no request by itself."""
ROLLING_SECONDS = 30.0
"""The load ends by then at the latest; with the update it ends sooner."""
SETTLED_SECONDS = 0.3
DRAIN_DELAY_SECONDS = 3.0
"""The proxy lets go of a connection 0.2 s after it was used, or as late as a busy machine lets it:
where the replica closes it first, the proxy answers 502 to what it was about to send there."""
EXPECTED = {200, 202, 409, 410, 503}
"""All that a caller may be answered; 503 comes with Retry-After."""


async def replace(chain: Replicas, release: str, count: int = 3) -> list[int | None]:
    """Replace one replica after the other; the exit statuses of those that went."""
    exits = []
    for replica in chain.replicas[:count]:
        exits.append(await replica.stop())
        replica.become(release)
        await replica.start()
        await asyncio.sleep(SETTLED_SECONDS)
    return exits


async def updated(chain: Replicas, load: Load, sagas: int) -> list[int | None]:
    """Replace all replicas under load, forward and back; the exit statuses of all that went."""
    exits: list[int | None] = []
    offering = asyncio.create_task(load.offer(sagas))
    for _ in range(SIZES.rollings):
        for release in ("new", "old"):
            exits += await replace(chain, release)
    exits += await replace(chain, "new", 1)  # what it accepted may wait for it
    load.stop()
    await offering
    return exits


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.kit("F27")
@pytest.mark.timeout(900)
async def test_releases_side_by_side_lose_nothing(
    tmp_path: Path, postgres_url: str, strikes: Strikes
) -> None:
    """An older replica leaves the sagas of the newer release to it; both answer for all."""
    seconds = SIZES.rollings * ROLLING_SECONDS
    sagas, seed = int(seconds * RATE), SIZES.seed
    trial = Trial(
        strikes=0,
        sagas=sagas,
        seed=seed,
        rate=RATE,
        seconds=seconds,
        folder=tmp_path,
        drain_delay_seconds=DRAIN_DELAY_SECONDS,
    )
    chain = Replicas(trial, postgres_url, f"{HERE}.releases", read_seconds=READ_SECONDS)
    for replica in chain.replicas:
        replica.become("old")
    load = Load(chain.ports["client-order"], chain.ports["shipping"], seed, RATE)
    try:
        await chain.start()
        exits = await updated(chain, load, sagas)
        rest = await chain.rest(load)
        await database.copy(chain.url, tmp_path / "payment.db")
    finally:
        await load.close()
        await chain.close()
    read, answers = books.check(tmp_path, load.placed, apart_seconds=APART), chain.door.answers()
    violations = [f"{each.promise}: {each.saga_id}: {each.what}" for each in read.violations]
    note = f"{len(load.placed)} sagas, answers {dict(answers)}, at rest after {rest} s"
    struck = 2 * SIZES.rollings
    strikes.report("updates", struck, violations=len(violations), seed=seed, note=note)
    assert [] == violations[:20]
    assert rest is not None
    assert {0} == set(exits)
    assert set() == set(answers) - EXPECTED, chain.door.errors()
    counts = await database.steps(postgres_url)
    assert 0 < counts["note"] < counts["record"], "both releases were at work"
