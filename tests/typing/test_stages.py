"""mypy and pyright, both strict, on stages as an author may write them: the slips, and no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stage.cli.project import write_project
from tests.unit.docs.blocks import blocks

ROOT = Path(__file__).resolve().parents[2]
STAGES = Path(__file__).with_name("stages")
FILES = ("right.py", "wrong.py")
SAID = re.compile(r"# mypy (?P<mypy>[^;]*); pyright (?P<pyright>.*)$")

Said = Mapping[tuple[str, int], set[str]]
"""The rules that a checker names, by file and line."""


def expected(checker: str) -> Said:
    """The rules in the comments of the stages."""
    found: dict[tuple[str, int], set[str]] = {}
    for name in FILES:
        for number, line in enumerate((STAGES / name).read_text().splitlines(), 1):
            if (match := SAID.search(line)) is not None:
                found[name, number] = set(match[checker].split())
    return found


@pytest.fixture(scope="module")
def cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which mypy keeps the package for its next run, here and in the next of pytest.

    It reads again each file that has changed.
    """
    kept: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return tmp_path_factory.mktemp("mypy") if kept is None else kept.mkdir("mypy")


def mypy_on(folder: Path, cache: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    """Run mypy in that folder, strict, without the settings of this project."""
    command = (sys.executable, "-m", "mypy", "--strict", "--output=json", "--config-file=")
    return subprocess.run(
        [*command, "--cache-dir", str(cache), *paths],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True, text=True, cwd=folder, timeout=100, check=False,
    )  # fmt: skip


def mypy_says(cache: Path) -> Said:
    """The errors of mypy on the stages."""
    done = mypy_on(ROOT, cache, *(str(STAGES / name) for name in FILES))
    found: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for line in done.stdout.splitlines():
        error: dict[str, Any] = json.loads(line)
        if error["severity"] == "error":
            found[Path(error["file"]).name, error["line"]].add(error["code"])
    assert found, done
    return found


def pyright_says(folder: Path) -> Said:
    """The errors of pyright, strict, in its distribution that brings its own node."""
    settings = {
        "include": [str(STAGES)],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    python = Path(sys.executable)
    done = subprocess.run(
        [
            python.with_name("basedpyright"), "--outputjson", "--pythonpath", python,
            "--project", folder,
        ],
        capture_output=True, text=True, cwd=folder, timeout=100, check=False,
    )  # fmt: skip
    found: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for error in json.loads(done.stdout)["generalDiagnostics"]:
        if error["severity"] == "error":
            at = Path(error["file"]).name, error["range"]["start"]["line"] + 1
            found[at].add(error["rule"])
    return found


@pytest.mark.blocking
def test_mypy_finds_the_slips_and_nothing_else(cache: Path) -> None:
    """Wrong compensations, probes, results and requests that nobody awaits."""
    assert dict(expected("mypy")) == dict(mypy_says(cache))


@pytest.mark.blocking
def test_mypy_finds_nothing_in_a_new_project_or_the_tutorial(cache: Path, tmp_path: Path) -> None:
    """They are copied. The second compensation of the tutorial takes the place of the first."""
    write_project(tmp_path, "hotel")
    step, hole, whole = (each.text for each in blocks("python") if each.page == "docs/tutorial.md")
    assert "give_back" in hole and "give_back" in whole
    with (tmp_path / "hotel" / "stage.py").open("a") as file:
        file.write(f"\n\n{step}\n\n{whole}")
    done = mypy_on(tmp_path, cache, "hotel", "tests")
    assert (0, "") == (done.returncode, done.stdout.strip()), done


@pytest.mark.blocking
def test_pyright_finds_the_slips_and_nothing_else(tmp_path: Path) -> None:
    """The same by the other checker."""
    assert dict(expected("pyright")) == dict(pyright_says(tmp_path))
