"""A test that failed and passes alone is named and fails no run; anything else still does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inner import run_pytest

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers("kit"):
            item.user_properties.append(("figure", marker.args[0]))
"""
TESTS = """
import os
from pathlib import Path

import pytest

def once(name):
    file = Path(__file__).with_name(name)
    seen = file.exists()
    file.touch()
    return seen

def test_that_passes():
    assert True

def test_under_load():
    print("what it said")
    assert once("load"), "too slow"

@pytest.mark.kit("F5")
def test_of_a_kit():
    assert once("kit"), "a saga was lost"

def test_that_crashes():
    if not once("crash"):
        os._exit(1)

def test_skipped_later():
    if once("skip"):
        pytest.skip("its server is gone")
    assert False, "wrong"

def test_that_fails():
    assert False, "wrong"

@pytest.mark.parametrize("number", range(4))
def test_many(number):
    assert once(f"many{number}")
"""


@pytest.mark.parametrize(
    "chosen, code, said",
    [
        ("passes or under_load", 0, "1 passed, 1 failed_under_load"),
        ("kit or under_load", 1, "2 failed"),
        ("that_fails or under_load", 1, "2 failed"),
        ("crashes or under_load", 1, "2 failed"),
        ("skipped or under_load", 1, "2 failed"),
        ("many", 1, "4 failed"),
    ],
    ids=[
        "one under load",
        "a kit",
        "one fails alone too",
        "a crash",
        "one is skipped alone",
        "too many",
    ],
)
def test_a_run_is_judged(tmp_path: Path, chosen: str, code: int, said: str) -> None:
    """By what failed, and by what fails alone as well."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = kit(figure): x\n")
    plugins = ["-p", "tests.second_run"]
    if chosen.startswith(("kit", "passes", "crashes")):
        plugins += ["-p", "xdist", "-n", "1"]  # reports that came from another process
    ran = run_pytest(
        *(*plugins, "-k", chosen),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    assert code == ran.returncode, ran.stdout
    assert said in ran.stdout.splitlines()[-1]
    assert ("AssertionError: too slow" in ran.stdout) is (chosen != "many")
    assert "what it said" in ran.stdout or chosen == "many"
    assert ("FAILED UNDER LOAD test_some.py::test_under_load (call)" in ran.stdout) is (code == 0)
