"""The neighbours as a fixture, in a test as an author writes it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEST = """
import asyncio
import aiohttp
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

shop = Stage("shop", accepts=Order)

def test_a_saga_is_handed_on(stage_neighbours):
    async def story():
        async with stage_neighbours(shop) as chain, aiohttp.ClientSession() as session:
            body = {"saga_id": "s-1", "data": {"amount": 1}}
            async with session.post(f"{chain.stage}/sagas", json=body) as answer:
                assert 200 == answer.status
            async with session.get(f"{chain.downstream}/sagas/s-1") as answer:
                assert "executed" in await answer.text()
    asyncio.run(story())
"""


@pytest.mark.blocking
def test_an_author_has_both_neighbours_by_a_fixture(tmp_path: Path) -> None:
    """A stage between them takes a saga and hands it on."""
    (tmp_path / "test_shop.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path)],  # found by its entry point
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    """An author installs the package, and nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"stage": "stage.testing.plugin"} == project["entry-points"]["pytest11"]


@pytest.mark.blocking
def test_the_plugin_costs_other_tests_nothing() -> None:
    """pytest loads it in every project in which the package is installed."""
    code = (
        "import sys, stage.testing.plugin; print([name for name in sys.modules"
        " if name.startswith(('aiohttp', 'msgspec', 'opentelemetry', 'stage.engine'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "[]" == done.stdout.strip()
