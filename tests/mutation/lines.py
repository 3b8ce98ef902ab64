"""Which test runs which lines of the rooms: a plugin for pytest, `-p tests.mutation.lines`.

Each worker writes one file into the folder that LINES_FOLDER names. A test that fails is left
out: some have no time for being traced. A test that runs no line is kept: it may look at a value
that was made when the module was imported.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import pytest

FOLDER = "LINES_FOLDER"
"""The variable of the environment that says where the files belong."""
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("stage/core", "stage/wire", "stage/engine/saga")
"""The rooms whose lines are noted, and changed."""


class TestLines(msgspec.Struct, frozen=True):
    """The lines that one test ran, by file from the root of the project."""

    __test__ = False

    test: str
    seconds: float
    lines: dict[str, list[int]]


class _Noted:
    """The lines of the test that runs now."""

    def __init__(self) -> None:
        self._files: dict[CodeType, str | None] = {}
        self.lines: defaultdict[str, set[int]] = defaultdict(set)

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace the functions of the rooms alone."""
        code = frame.f_code
        if code not in self._files:
            self._files[code] = _file_of(code.co_filename)
        file = self._files[code]
        if file is None:
            return None
        self.lines[file].add(frame.f_lineno)
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            file = self._files[frame.f_code]
            assert file is not None
            self.lines[file].add(frame.f_lineno)
        return self._line


def _file_of(path: str) -> str | None:
    inside = path.removeprefix(f"{ROOT}{os.sep}")
    return inside if inside.startswith(ROOMS) else None


_noted = _Noted()
_found: list[TestLines] = []
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note the lines of one test, its fixtures among them."""
    _noted.lines.clear()
    began = time.perf_counter()
    threading.settrace(_noted.call)
    sys.settrace(_noted.call)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)
        seconds = time.perf_counter() - began
        if item.nodeid not in _failed:
            lines = {file: sorted(found) for file, found in _noted.lines.items()}
            _found.append(TestLines(item.nodeid, seconds, lines))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Leave out one that fails."""
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file of this worker."""
    if _found:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
        (Path(os.environ[FOLDER]) / f"{worker}.json").write_bytes(msgspec.json.encode(_found))
