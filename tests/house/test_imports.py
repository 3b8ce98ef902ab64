"""The import rule: import-linter passes, and would not pass if a door were opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import impure_imports

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


def test_the_house_keeps_its_layers(root: Path) -> None:
    """Every contract of pyproject.toml is kept."""
    result = lint(root)

    assert 0 == result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    "file, line, contract",
    [
        ("upstream_stub/planted.py", "import stage.core", "The stubs import"),
        ("upstream_stub/planted.py", "from stage import Stage", "The stubs import"),
        ("downstream_stub/planted.py", "import stage.ports", "The stubs import"),
        ("downstream_stub/planted.py", "import upstream_stub", "The stubs do not know"),
        ("stage/core/planted.py", "import stage.wire", "Rooms stand in layers"),
        ("stage/engine/planted.py", "import stage.inbound", "Rooms stand in layers"),
        ("stage/attic/__init__.py", "", "Rooms stand in layers"),
        ("stage/core/planted.py", "import time", "stage.core has no clock"),
        ("stage/wire/planted.py", "import aiohttp", "stage.wire does no I/O"),
        ("stage/authoring/planted.py", "import stage.bootstrap", "A declaration does not know"),
        ("stage/authoring/planted.py", "def app():\n    import aiohttp", "A declaration does not"),
        ("stage/outbound/planted.py", "import aiohttp", "stage.outbound knows an HTTP client"),
    ],
)
def test_a_door_that_is_opened_is_seen(
    root: Path, tmp_path: Path, file: str, line: str, contract: str
) -> None:
    """One forbidden import, planted into a copy of the house, breaks the contract that forbids."""
    for package in ("stage", "upstream_stub", "downstream_stub"):
        shutil.copytree(
            root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(root / "pyproject.toml", tmp_path)
    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f'"""Planted."""\n{line}\n')

    result = lint(tmp_path)

    told = [row for row in result.stdout.splitlines() if row.startswith(contract)]
    assert 0 != result.returncode
    assert told, result.stdout + result.stderr
    assert " BROKEN" in told[0], result.stdout


def test_the_neighbours_may_import_the_wire(root: Path, tmp_path: Path) -> None:
    """The public protocol is the one door of ours that a stub may use."""
    for package in ("stage", "upstream_stub", "downstream_stub"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('"""Copied."""\n')
    for room in (room for room in (root / "stage").iterdir() if (room / "__init__.py").exists()):
        (tmp_path / "stage" / room.name).mkdir()
        (tmp_path / "stage" / room.name / "__init__.py").write_text('"""Copied."""\n')
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "upstream_stub" / "planted.py").write_text("import stage.wire\n")

    result = lint(tmp_path)

    assert 0 == result.returncode, result.stdout + result.stderr


def test_the_core_imports_msgspec_and_pure_modules_alone(root: Path) -> None:
    """What is not known to be pure is refused: the list in import-linter cannot be complete."""
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
