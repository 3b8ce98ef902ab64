"""A worker of pytest is forked, and is in all that a test can see one that was started by exec."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.inner import run_pytest

CONFTEST = """
from tests import forked


def pytest_xdist_newgateway():
    forked.of_workers = None  # the next worker is started by exec
"""
TESTS = """
import gc
import json
import logging
import os
import pathlib
import random
import signal
import sys
import threading
import warnings

OWN = pathlib.Path(__file__).parent
with (OWN / "importers").open("a") as file:
    print(os.getpid(), file=file)


def test_first(pytestconfig):
    name = pytestconfig.workerinput["workerid"]
    (OWN / f"{name}.json").write_text(json.dumps({
        "pid": os.getpid(),
        "dice": random.random(),
        "parent": os.getppid(),
        "arguments": sys.argv,
        "main": sorted(vars(sys.modules["__main__"]).keys() & {"__file__", "__spec__", "sys"}),
        "cwd": os.getcwd(),
        "path": [each for each in sys.path if each],
        "environ": {key: text for key, text in os.environ.items() if key not in (
            "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST",
            "COLUMNS", "LINES",  # readline sets them, and Python does not see it
        )},
        "finders": [type(each).__name__ for each in sys.meta_path if type(each) is not type],
        "warnings": [f"{each[0]} {each[2].__name__}" for each in warnings.filters],
        "signals": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)],
        "threads": sorted(each.name for each in threading.enumerate()),
        "collects": [gc.isenabled(), *gc.get_threshold()],
        "handlers": [type(each).__name__ for each in logging.root.handlers],
        "reads": sys.__stdin__.read(),
    }))
    word = "rewritten"
    assert word == "as it was", "so that the report shows both sides"
"""
WARNS = """
import warnings

warnings.warn("it has gone", DeprecationWarning)


def test_second():
    pass
"""


def test_a_forked_worker_is_as_one_by_exec(root: Path, tmp_path: Path) -> None:
    """It alone has not imported the tests; a module that warns at its import fails in both."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_planted.py").write_text(TESTS)
    (tmp_path / "test_warns.py").write_text(WARNS)
    done = run_pytest(
        *("-q", "-n", "2", "--dist", "each"),
        *("-p", "tests.conftest", "-p", "no:cacheprovider", "-c", root / "pyproject.toml"),
        *("--continue-on-collection-errors", "--rootdir", tmp_path, tmp_path),
        cwd=tmp_path,
        PYTHONPATH=f"{root}{os.pathsep}{tmp_path}",
    )

    *_, last = done.stdout.splitlines() or [""]
    assert "2 failed, 2 errors" in last, done.stdout + done.stderr
    assert 2 == done.stdout.count("assert 'rewritten' == 'as it was'")
    assert "DeprecationWarning: it has gone" in done.stdout
    forked, by_exec = (told(tmp_path / f"gw{number}.json") for number in range(2))
    importers = [int(line) for line in (tmp_path / "importers").read_text().splitlines()]
    assert by_exec.pop("pid") in importers
    assert 2 == len(importers)
    assert forked.pop("pid") not in importers
    assert forked.pop("dice") != by_exec.pop("dice")
    assert by_exec == forked


def told(file: Path) -> dict[str, Any]:
    """The words of a worker about itself."""
    own: dict[str, Any] = json.loads(file.read_text())
    return own
