"""The import rule: import-linter passes, and would not pass if a door were opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.house.rules import impure_imports

NEIGHBOURS = "stage/neighbours"
DOWNSTREAM = "stage.neighbours.downstream"
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the packages in a directory."""
    return subprocess.run(
        [LINTER, "--no-logo", "--no-cache"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        # Only what stands in the directory is looked at, and the report is one wide column.
        env={**os.environ, "PYTHONPATH": str(directory), "COLUMNS": "200", "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def copied(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and their contracts, so that something can be planted."""
    place = tmp_path_factory.mktemp("house")
    for package in ("stage", "upstream_stub", "downstream_stub"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / package, place / package, ignore=ignored)
    shutil.copy(root / "pyproject.toml", place)
    return place


@contextmanager
def planted(copied: Path, file: str, text: str) -> Iterator[None]:
    """The copy has that file, for a while; a folder of its own goes with it."""
    place = copied / file
    new = not place.parent.exists()
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    try:
        yield
    finally:
        place.unlink()
        if new:
            place.parent.rmdir()


def test_the_house_keeps_its_layers(root: Path) -> None:
    """Every contract of pyproject.toml is kept."""
    result = lint(root)

    assert 0 == result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    "file, line, contract",
    [
        (f"{NEIGHBOURS}/upstream/planted.py", "import stage.core", "The neighbours import"),
        (f"{NEIGHBOURS}/shared/planted.py", "import stage.ports", "The neighbours import"),
        (
            f"{NEIGHBOURS}/upstream/planted.py",
            "from stage import Stage",
            "The neighbours do not im",
        ),
        (f"{NEIGHBOURS}/upstream/planted.py", f"import {DOWNSTREAM}", "The neighbours do not know"),
        (f"{NEIGHBOURS}/shared/planted.py", f"import {DOWNSTREAM}", "The neighbours do not know"),
        ("stage/engine/planted.py", f"import {DOWNSTREAM}", "Nobody but the demo"),
        ("upstream_stub/planted.py", "import stage.engine", "The stubs are doors"),
        ("stage/core/planted.py", "import stage.wire", "Rooms stand in layers"),
        ("stage/engine/planted.py", "import stage.inbound", "Rooms stand in layers"),
        ("stage/attic/__init__.py", "", "Rooms stand in layers"),
        ("stage/core/planted.py", "import time", "stage.core has no clock"),
        ("stage/wire/planted.py", "import aiohttp", "stage.wire does no I/O"),
        ("stage/authoring/planted.py", "import stage.bootstrap", "A declaration does not know"),
        ("stage/authoring/planted.py", "def app():\n    import aiohttp", "A declaration does not"),
        ("stage/outbound/planted.py", "import aiohttp", "An HTTP library is known"),
        ("stage/inbound/planted.py", "import aiohttp", "An HTTP library is known"),
        ("stage/engine/planted.py", "import yarl", "An HTTP library is known"),
        ("stage/store/planted.py", "import sqlite3", "A database driver is known"),
        ("stage/engine/planted.py", "import opentelemetry", "OpenTelemetry is known"),
    ],
)
def test_a_door_that_is_opened_is_seen(copied: Path, file: str, line: str, contract: str) -> None:
    """One forbidden import, planted into a copy of the house, breaks the contract that forbids."""
    with planted(copied, file, f'"""Planted."""\n{line}\n'):
        result = lint(copied)

    kept = [row for row in result.stdout.splitlines() if row.startswith(contract)]
    assert 0 != result.returncode
    assert kept, result.stdout + result.stderr
    assert " BROKEN" in kept[0], result.stdout


def test_the_neighbours_may_import_the_wire(copied: Path) -> None:
    """The public protocol is the one room of ours that a neighbour may import."""
    with planted(copied, f"{NEIGHBOURS}/upstream/planted.py", "import stage.wire\n"):
        result = lint(copied)

    assert 0 == result.returncode, result.stdout + result.stderr


def test_the_core_imports_msgspec_and_pure_modules_alone(root: Path) -> None:
    """An import that is not known to be pure is refused: a list of the impure is never whole."""
    wrong = {
        str(file.relative_to(root)): found
        for file in sorted((root / "stage" / "core").rglob("*.py"))
        if (found := impure_imports(file.read_text(encoding="utf-8")))
    }

    assert {} == wrong


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import choice",
        "import requests",
        "import os.path",
        "import stage",
    ],
)
def test_an_impure_import_is_seen(source: str) -> None:
    """Clocks, dice, files, foreign packages and our other rooms do not enter the core."""
    assert 1 == len(impure_imports(source))


def test_a_pure_import_is_let_in() -> None:
    """Types, enums, msgspec and the core itself are what the core is made of."""
    source = "import enum, msgspec\nfrom msgspec.structs import replace\nimport stage.core.steps"

    assert [] == impure_imports(source)
