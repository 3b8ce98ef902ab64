"""The wheel: it takes one top-level name, lacks no file, and `stage demo` runs from it alone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import msgspec
import pytest

from stage.demo.stories import STORIES

ROOT = Path(__file__).resolve().parents[2]
NOT_INSTALLED = ("upstream_stub", "downstream_stub", "tests", "benchmarks")
"""Packages of a clone that an installation must not put on the path."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this clone, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_a_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    """One top-level name of ours, with every file of it: SQL and the typing marker included."""
    names = set(zipfile.ZipFile(wheel).namelist())
    beside = {name for name in names if not name.startswith(("stage/", "saga_stage-"))}
    files = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "stage").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert set() == beside
    assert files == {name for name in names if name.startswith("stage/")}
    assert {"stage/py.typed", "stage/demo/migrations/0001_payment.sql"} <= names


@pytest.mark.timeout(110)
def test_the_demo_runs_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the wheel and the requirements, and does not see the clone."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    paths = sysconfig.get_paths()
    # Directories named so are searched, but the .pth file that leads to the clone is not read.
    path = [str(tmp_path / "installed"), paths["purelib"], paths["platlib"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}

    def run(*arguments: str) -> bytes:
        done = subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environment, capture_output=True, timeout=100
        )
        assert 0 == done.returncode, (done.stdout, done.stderr)
        return done.stdout

    find = "import importlib.util, sys; print([*map(importlib.util.find_spec, sys.argv[1:])])"
    assert str([None] * len(NOT_INSTALLED)) == run("-c", find, *NOT_INSTALLED).decode().strip()
    report = msgspec.json.decode(run("-m", "stage", "demo", "--json"))
    assert (True, len(STORIES)) == (report["ok"], len(report["stories"]))
    assert report["tls"]
