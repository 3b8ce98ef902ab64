"""Test modules are compiled once, before several workers need them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.compiling import compile_all, stale


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of tests with two modules, neither of which was compiled."""
    folder = tmp_path / "tests"
    (folder / "unit" / "__pycache__").mkdir(parents=True)
    for name in ("test_a", "test_b"):
        (folder / "unit" / f"{name}.py").write_text("")
    return folder


def test_a_module_is_stale_until_pytest_has_compiled_it_since_its_last_change(folder: Path) -> None:
    """A result that is older than its source does not count, nor one of Python alone."""
    assert ["tests.unit.test_a", "tests.unit.test_b"] == stale(folder, None)
    kept = folder / "unit" / "__pycache__"
    (kept / "test_b.cpython-311.pyc").touch()
    made = kept / "test_a.cpython-311-pytest-9.1.pyc"
    made.touch()
    assert ["tests.unit.test_b"] == stale(folder, None)
    os.utime(made, (1, 1))
    assert ["tests.unit.test_a", "tests.unit.test_b"] == stale(folder, None)


def test_results_are_looked_for_where_python_keeps_them(folder: Path, tmp_path: Path) -> None:
    """With a prefix nothing lies beside the sources."""
    prefix = tmp_path / "compiled"
    kept = prefix / (folder / "unit").relative_to(folder.anchor)
    kept.mkdir(parents=True)
    (kept / "test_a.cpython-311-pytest-9.1.pyc").touch()
    assert ["tests.unit.test_b"] == stale(folder, prefix)


def test_one_that_cannot_be_imported_keeps_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are imported, in processes of their own: nothing of it is left in this one."""
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"compiled_by_test_{number}" for number in range(4)]
    for name in names:
        seen = tmp_path / f"{name}.seen"
        lines = f"from pathlib import Path; Path({str(seen)!r}).touch(); raise SystemExit(3)"
        (tmp_path / f"{name}.py").write_text(lines)
    compile_all(["there_is_no_such_module", *names])
    assert 4 == len(list(tmp_path.glob("*.seen")))
    assert not sys.modules.keys() & set(names)
