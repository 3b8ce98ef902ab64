"""A test that fails leaves nothing behind that a later one is blamed for."""

from __future__ import annotations

from pathlib import Path

from tests.inner import run_pytest

TESTS = """
import gc
import warnings


class Connection:
    def __init__(self):
        self.itself = self

    def __del__(self):
        warnings.warn("nobody closed it", ResourceWarning)


def test_first():
    held = Connection()
    raise AssertionError("it fails with a connection in its hands")


def test_second():
    gc.collect()
"""


def test_a_later_test_is_not_blamed(root: Path, tmp_path: Path) -> None:
    """The first fails, the second passes, and nothing else is said."""
    file = tmp_path / "test_planted.py"
    file.write_text(TESTS)
    done = run_pytest(
        *("-q", "-p", "tests.conftest", "-p", "no:cacheprovider"),
        *("-c", root / "pyproject.toml", "--rootdir", tmp_path, file),
        cwd=root,
        PYTHONPATH=str(root),
    )

    *_, last = done.stdout.splitlines() or [""]
    assert "1 failed, 1 passed" in last, done.stdout + done.stderr
    assert "nobody closed it" not in done.stdout.partition("short test summary")[2]
