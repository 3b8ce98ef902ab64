"""F5: real processes killed at random under load, behind a faulty network; the books decide.

`make kills` runs level L.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from tests.acceptance.collector import Collector
from tests.acceptance.kills import books, traces
from tests.acceptance.kills.load import Placed
from tests.acceptance.kills.proxy import FAULTS
from tests.acceptance.kills.supervisor import KILLED, Trial, run
from tests.kits import Strikes
from tests.sizes import SIZES, TIER, Sizes

TRACED = replace(
    SIZES, kills=SIZES.traced_kills, sagas=SIZES.traced_sagas, rate=100, seconds=60, seed=7
)
CALM = replace(SIZES, kills=0, sagas=120, rate=120, seconds=60, seed=5)


def trial_of(folder: Path, sizes: Sizes) -> Trial:
    """A trial of these sizes."""
    return Trial(
        kills=sizes.kills,
        sagas=sizes.sagas,
        seed=sizes.seed,
        rate=sizes.rate,
        seconds=sizes.seconds,
        folder=folder,
    )


@pytest.mark.kit("F5")
@pytest.mark.timeout(1_200)
def test_nothing_is_lost_doubled_standing_or_stuck(tmp_path: Path, strikes: Strikes) -> None:
    """All promises hold for every saga, and every kind of fault and kill did strike."""
    trial = trial_of(tmp_path, SIZES)
    result = asyncio.run(run(trial, lambda _: None))
    note = (
        f"{result.offered_per_second:g} sagas/s offered,"
        f" at rest {result.rest_seconds} s after the last kill"
    )
    broken = sum(result.broken.values())
    strikes.report("kills", result.kills, violations=broken, seed=trial.seed, note=note)
    strikes.report("sagas", result.sagas)
    assert {} == result.broken, "\n".join(result.stories[:40])
    assert result.rest_seconds is not None
    assert set(FAULTS) <= set(result.network)
    assert set(KILLED) == set(result.strikes["kills"])
    if TIER == "prove":  # a few kills may all have struck two of them
        assert {"order", "payment", "shipping"} == set(result.strikes["striking"])
    assert result.strikes["striking"] and result.strikes["starting"]
    assert result.replayed
    assert (trial.kills, trial.sagas) == (result.kills, result.sagas)


@pytest.mark.kit("F16")
@pytest.mark.timeout(200)
async def test_the_trace_of_a_recovered_or_compensated_saga_is_whole(
    tmp_path: Path, strikes: Strikes
) -> None:
    """F16: one trace a saga and stage; what was cut off or undone is linked to."""
    collector = Collector()
    async with TestServer(collector.app) as server:
        url = f"http://{server.host}:{server.port}"
        trial = replace(trial_of(tmp_path, TRACED), collector=url)
        result = await run(trial, lambda _: None)
    found = traces.check(tmp_path, result.struck, collector)
    checked = f"{found.recovered} recoveries and {found.compensated} compensations"
    strikes.report(
        "kills",
        result.kills,
        violations=len(found.wrong) + sum(result.broken.values()),
        seed=TRACED.seed,
        note=f"{checked} linked, {len(collector)} spans",
    )
    assert {} == result.broken
    assert [] == found.wrong[:20]
    assert found.recovered
    assert found.compensated


# --- the kit itself ------------------------------------------------------------------------------

COMPLETED = "(SELECT id FROM saga WHERE state = 'completed' LIMIT 1)"
AN_UNDO = "(SELECT number FROM ledger WHERE direction = -1 LIMIT 1)"
A_JOURNAL = "(SELECT max(saga_id) FROM journal)"
A_CHARGE = "(SELECT max(key) FROM charge)"
TAMPERINGS = {
    "lost": ("order", f"DELETE FROM saga WHERE id = {COMPLETED}"),
    "doubled": ("payment", f"INSERT INTO ledger VALUES (NULL, {COMPLETED}, 'reserve', 1)"),
    "standing": ("payment", f"DELETE FROM ledger WHERE number = {AN_UNDO}"),
    "stuck": ("shipping", f"UPDATE saga SET state = 'active' WHERE id = {COMPLETED}"),
    "agreed": ("shipping", f"UPDATE saga SET state = 'compensated' WHERE id = {COMPLETED}"),
    "epoch": (
        "payment",
        f"UPDATE journal SET epoch = 9 WHERE number = 1 AND saga_id = {A_JOURNAL}",
    ),
    "same bytes": ("world", f"UPDATE charge SET mismatched = 1 WHERE key = {A_CHARGE}"),
}
"""A promise, and the change to one book that breaks it."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Placed]]:
    """The books of a short trial without kills, and what the client placed."""
    folder = tmp_path_factory.mktemp("calm")
    placed: list[Placed] = []
    trial = trial_of(folder, CALM)
    result = asyncio.run(run(trial, lambda _: None, placed))
    assert {} == result.broken
    return folder, placed


@pytest.mark.parametrize("promise", TAMPERINGS)
def test_the_books_show_what_is_broken(
    promise: str, calm: tuple[Path, list[Placed]], tmp_path: Path
) -> None:
    """One row changed in one book, and exactly one saga breaks that promise."""
    folder, placed = calm
    shutil.copytree(folder, tmp_path / "books")
    book, change = TAMPERINGS[promise]
    with closing(sqlite3.connect(tmp_path / "books" / f"{book}.db")) as database:
        assert 1 == database.execute(change).rowcount
        database.commit()
    found = books.check(tmp_path / "books", placed)
    assert 1 == found.broken(promise)
    assert 1 == len({violation.saga_id for violation in found.violations})
