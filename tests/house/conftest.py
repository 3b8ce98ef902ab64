"""The repository as the rules of the house see it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The directory that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def project_files(root: Path) -> list[Path]:
    """Every file of the project: what git tracks, or what lies there when git tracks nothing."""
    names = tracked(root) or lying_there(root)
    assert "pyproject.toml" in names
    return [root / name for name in names if (root / name).is_file()]


def tracked(root: Path) -> list[str]:
    """What git tracks below a directory: nothing without git, or before the first commit."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"],
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(name for name in listed.stdout.split("\0") if name)


def lying_there(root: Path) -> list[str]:
    """What lies below a directory, without what tools make (their names begin with a dot)."""
    found = []
    for file in root.rglob("*"):
        path = file.relative_to(root)
        made = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
        if file.is_file() and (not made or path.parts[0] == ".ci"):
            found.append(str(path))
    return sorted(found)
