"""The repository as the rules of the house see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.rules import ROOT, project_names


@pytest.fixture(scope="session")
def root() -> Path:
    """The directory that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def project_files(root: Path) -> list[Path]:
    """Every file of the project: what git tracks, or what lies there when git tracks nothing."""
    return [root / name for name in project_names(root)]
