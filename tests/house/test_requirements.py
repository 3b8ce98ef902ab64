"""Requirements are pinned by hash, from nowhere in particular, and agree with pyproject."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.house.rules import names_required, places_named, unhashed

FILES = ("backend", "build", "deploy", "dev", "docs", "postgres", "run")
HASH = "--hash=sha256:" + "0" * 64


@pytest.mark.parametrize("name", FILES)
def test_a_requirements_file_is_hashed_and_names_no_index(root: Path, name: str) -> None:
    """Each entry is one version with its hashes, and there are no option lines."""
    text = (root / "requirements" / f"{name}.txt").read_text(encoding="utf-8")

    assert names_required(text.splitlines())
    assert [] == unhashed(text)
    assert [] == places_named(text)


@pytest.mark.parametrize(
    "entry",
    [
        "aiohttp==3.12",
        f"aiohttp>=3.12 \\\n    {HASH}",
        "aiohttp==3.12 \\\n    --hash=md5:00",
        f"aiohttp @ file:///x.whl \\\n    {HASH}",
        "--index" + "-url https://example.invalid/simple",
        "-r other.txt",
    ],
)
def test_an_entry_that_is_not_pinned_is_seen(entry: str) -> None:
    """No hash, a range, a weak hash, a file, an index or another file: all are refused."""
    assert 1 == len(unhashed(f"click==8.1 \\\n    {HASH}\n{entry}\n"))


@pytest.mark.parametrize("name", ["build", "postgres", "run"])
def test_the_smaller_lists_agree_with_that_of_the_tests(root: Path, name: str) -> None:
    """dev.txt holds every entry of the smaller ones, with the same version and hashes."""
    smaller = (root / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    dev = (root / "requirements" / "dev.txt").read_text(encoding="utf-8")

    assert set() == set(entries(smaller)) - set(entries(dev))


def entries(text: str) -> list[str]:
    """The entries of a pinned file, each on one line."""
    return text.replace("\\\n", "").splitlines()


def test_the_package_requires_what_is_pinned(root: Path) -> None:
    """[project.dependencies] and requirements/run.in say the same, bounds included."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (root / "requirements" / "run.in").read_text(encoding="utf-8").splitlines()

    assert project["dependencies"] == [line for line in lines if line and not line.startswith("#")]
    extra = (root / "requirements" / "postgres.in").read_text(encoding="utf-8").splitlines()[1:]
    assert project["optional-dependencies"]["postgres"] == extra


@pytest.mark.parametrize("name", FILES)
def test_every_name_that_is_asked_for_is_pinned(root: Path, name: str) -> None:
    """A name added to an .in file without making the .txt anew is seen."""
    asked = (root / "requirements" / f"{name}.in").read_text(encoding="utf-8").splitlines()
    pinned = (root / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()

    wanted = names_required(line for line in asked if not line.startswith(("#", "-")))
    found = names_required(line for line in pinned if not line.startswith(" "))
    assert set() == wanted - found


def test_each_extra_is_in_the_list_of_the_tests(root: Path) -> None:
    """The tests run with every extra, so that each is asked for with the same bounds."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dev = (root / "requirements" / "dev.in").read_text(encoding="utf-8").splitlines()

    for name, lines in project["optional-dependencies"].items():
        assert set() == set(lines) - set(dev), name
