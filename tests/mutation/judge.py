"""One change against the tests that meet it, in a process of its own.

The process is forked from one that has imported pytest and the libraries, but no room of ours. It
loads the changed module in place of the file, and lets pytest run until the first test fails.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.mutation.operators import changed

CPU_SECONDS_MAX = 60
"""Processor time of the tests of one change; a change with which they take longer was noticed."""
SECONDS_MAX = 600
"""The same for a change with which they wait for ever."""
ARGUMENTS = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
"""Asserts stay plain: to rewrite those of our own plugin, pytest would load our files."""
NO_CHANGE, BROKEN = -1, -2
"""The controls of a run: the module as it is, and one that cannot be imported."""
WARM = (
    *("aiohttp.web", "aiohttp.test_utils", "aiosqlite", "asyncpg", "blockbuster", "botocore"),
    *("cryptography.x509", "jsonschema", "msgspec", "opentelemetry.sdk.trace", "structlog"),
)
"""Imports of tests and rooms, but no room; pytest has to import its plugins itself."""


class Verdict(StrEnum):
    """How the tests judged a change."""

    FAILED = "a test failed"
    BROKE = "the module could not be imported, or no test be collected"
    HUNG = "the tests did not end"
    SURVIVED = "all tests passed"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the changed code under the name, and with the file, of the module."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """The changed code; nothing of it is cached on the disk."""
        return self._code


class _Finder(MetaPathFinder):
    """Finds one module, before the finder of files does."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        """The spec of that module; None for any other."""
        if fullname != self._loader.name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, self._loader.path, loader=self._loader
        )


def name_of(file: str) -> str:
    """The name of the module in that file, from the root of the project."""
    parts = Path(file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def warm() -> None:
    """Import what each process of a change would have to import."""
    for name in WARM:
        importlib.import_module(name)


def judge(root: Path, file: str, number: int, tests: Sequence[str]) -> Verdict:
    """Run the tests with that change of that file, or with a control in its place."""
    path = root / file
    source = path.read_text(encoding="utf-8")
    code = compile(_tree(source, number), str(path), "exec")
    child = os.fork()
    if child == 0:
        _run(root, _Loader(name_of(file), str(path), code), tests)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        hung = os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)
        return Verdict.HUNG if hung else Verdict.BROKE
    match os.WEXITSTATUS(status):
        case pytest.ExitCode.OK:
            return Verdict.SURVIVED
        case pytest.ExitCode.TESTS_FAILED:
            return Verdict.FAILED
        case _:
            return Verdict.BROKE


def _tree(source: str, number: int) -> ast.Module:
    if number == BROKEN:
        return ast.parse("raise ImportError")
    return ast.parse(source) if number == NO_CHANGE else changed(source, number)


def _run(root: Path, loader: _Loader, tests: Sequence[str]) -> None:
    """Be the process of one change. Does not return."""
    code = 70
    try:
        signal.alarm(SECONDS_MAX)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_MAX)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(root)
        sys.meta_path.insert(0, _Finder(loader))
        code = int(pytest.main([*ARGUMENTS, *tests]))
    finally:
        os._exit(code)
