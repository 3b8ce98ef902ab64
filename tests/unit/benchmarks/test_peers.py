"""The figures and words about other systems, and the path by which their ingress is loaded."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.load import offer
from benchmarks.machine import Missing
from benchmarks.peers import tools
from benchmarks.peers.comparison import Sample, figures, table, words
from benchmarks.peers.systems import OURS, SYSTEMS
from benchmarks.throughput import WIDE

DBOS, RESTATE = SYSTEMS[0], SYSTEMS[-1]


def samples(system: str, *wide_rates: float) -> list[Sample]:
    return [
        Sample(
            system=system,
            connections=width,
            round=number,
            rate=rate,
            p50=0.002,
            p99=0.01,
            cpu=0.0005,
        )
        for number, rate in enumerate(wide_rates)
        for width in (1, WIDE)
    ]


def test_a_ratio_is_the_median_of_the_rounds_at_32_connections() -> None:
    """And is held against the goal of that system."""
    seen = samples("stage", 1000.0, 2000.0, 3000.0) + samples(DBOS.name, 20.0, 25.0, 80.0)
    (figure,) = figures(seen, [OURS, DBOS, RESTATE])
    assert (50.0, 40.0, True) == (figure.value, figure.goal, figure.reached)
    assert DBOS.title in figure.says


def test_without_the_stage_nothing_is_compared() -> None:
    """A ratio needs both sides in one run."""
    assert [] == figures(samples(DBOS.name, 25.0), [OURS, DBOS])


def test_the_table_has_a_line_for_each_that_was_measured() -> None:
    """A system that could not be had is left out of it."""
    text = table(samples("stage", 2000.0) + samples(DBOS.name, 25.0), [OURS, *SYSTEMS], [1, WIDE])
    lines = text.splitlines()
    assert 4 == len(lines)
    assert "| stage (SQLite) | 2000/s | 2000/s | 2.0 ms | 0.50 ms |" == lines[2]
    assert lines[3].startswith(f"| {DBOS.title} | 25/s")


def test_every_system_is_described_fairly() -> None:
    """Its promises and its gaps; those of the stage as well."""
    text = words([OURS, *SYSTEMS])
    assert len(SYSTEMS) + 1 == text.count("promises: ") == text.count("does not: ")
    assert all(len(each.promises) > 50 and len(each.lacks) > 50 for each in (OURS, *SYSTEMS))


def test_an_installed_package_is_not_installed_again(tmp_path: Path) -> None:
    """Unless other packages are wanted."""
    installed: list[str] = []
    for wanted in (["a==1"], ["a==1"], ["a==2"]):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        tools.once(home, wanted, lambda: installed.append("again"))
    assert 2 == len(installed)


def test_a_package_that_cannot_be_installed_is_missing_with_a_reason(tmp_path: Path) -> None:
    """So that the rest can be measured."""
    with pytest.raises(Missing, match="thing could not be installed: no such luck"):
        tools.run(["sh", "-c", "echo no such luck >&2; exit 1"], "thing")
    with pytest.raises(Missing, match="thing could not be installed"):
        tools.run([str(tmp_path / "absent")], "thing")


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("path", ["", "/payment/run"])
async def test_an_ingress_gets_the_id_as_the_key(path: str) -> None:
    """The stage gets neither another path nor another header."""
    seen: list[tuple[str, str | None, str]] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append((request.path, request.headers.get("Idempotency-Key"), body["saga_id"]))
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/{tail:.*}", take)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        load = await asyncio.to_thread(
            offer, "wrk", url, connections=2, seconds=1.0, run="r", path=path
        )
    assert load.requests > 0 and not load.status_errors
    for where, key, saga_id in seen:
        assert (path or "/sagas") == where
        assert key == (saga_id if path else None)
    assert len(seen) == len({saga_id for _, _, saga_id in seen})
