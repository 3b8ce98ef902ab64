"""One change against the tests that meet it, in processes of their own.

Each process is forked from one that has imported pytest and the libraries, but no room of ours. It
loads the changed module in place of the file, which stays as it is on the disk, and lets pytest run
until the first test fails. That test is then run without the change: it has noticed something only
if it passes there.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import msgspec
import pytest

from tests.mutation.choice import Batch
from tests.mutation.operators import changed

CPU_SECONDS = 20.0
"""Processor time in which a process collects its tests; it has as much as they took on top."""
TIMES_MAX = 3.0
"""So often their known time is given them. A change with which they take longer was noticed."""
WALL_TIMES_MAX = 8.0
"""So many times the processor time is waited for: a change with which they wait for ever."""
TEST_SECONDS_MAX = 60
"""The deadline of one test, unless it has its own."""
ARGUMENTS = (
    *("-x", "-q", "--rootdir", ".", "--assert=plain", "--timeout", str(TEST_SECONDS_MAX)),
    *("-p", "no:cacheprovider", "-p", "no:xdist"),
)
"""Asserts stay plain: to rewrite those of our own plugin, pytest would load our files."""
NO_CHANGE, BROKEN = -1, -2
"""The controls of a run: the module as it is, and one that cannot be imported."""
WARM = (
    *("aiohttp.web", "aiohttp.test_utils", "aiosqlite", "asyncpg", "blockbuster", "botocore"),
    *("cryptography.x509", "hypothesis.strategies", "jsonschema", "msgspec"),
    *("opentelemetry.sdk.trace", "structlog"),
)
"""Imports of tests and rooms, but no room; pytest has to import its plugins itself."""
LOOK_SECONDS = 0.02
PIPE_BYTES = 65_536
REPEATABLE = "tests/unit/"
"""A test below it that passed without a change once is taken to do so again."""


class Verdict(StrEnum):
    """How the tests judged a change."""

    FAILED = "a test failed"
    BROKE = "the module could not be imported, or no test be collected"
    HUNG = "the tests did not end"
    SURVIVED = "all tests passed"


class Judgement(msgspec.Struct, frozen=True):
    """The verdict, and the test that failed."""

    verdict: Verdict
    by: str = ""


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


def judge(root: Path, file: str, number: int, batches: Sequence[Batch]) -> Judgement:
    """Run the tests with that change of that file, or with a control in its place."""
    for batch in batches:
        left = batch
        while left.tests:
            found = _ended(root, file, number, left)
            if found.verdict is Verdict.SURVIVED:
                break
            guilty = Batch((found.by,), batch.seconds) if found.by else left
            if number < 0 or _passes(root, file, guilty):
                return found
            # They fail without the change as well, and have no say.
            left = Batch(
                tuple(each for each in left.tests if each not in guilty.tests), left.seconds
            )
    return Judgement(Verdict.SURVIVED)


_passed: set[tuple[str, ...]] = set()


def _passes(root: Path, file: str, batch: Batch) -> bool:
    """Whether these tests pass without a change."""
    if batch.tests in _passed:
        return True
    passed = _ended(root, file, NO_CHANGE, batch).verdict is Verdict.SURVIVED
    if passed and all(each.startswith(REPEATABLE) for each in batch.tests):
        _passed.add(batch.tests)
    return passed


def _ended(root: Path, file: str, number: int, batch: Batch) -> Judgement:
    """How one process of these tests ended."""
    path = root / file
    source = path.read_text(encoding="utf-8")
    code = compile(_tree(source, number), str(path), "exec")
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        _run(root, _Loader(name_of(file), str(path), code), batch, said)
    os.close(said)
    with os.fdopen(heard, "rb", buffering=0) as stream:
        verdict = _awaited(child, WALL_TIMES_MAX * _seconds(batch))
        os.set_blocking(stream.fileno(), False)  # a process of a test may live, and hold its end
        names = (stream.read(PIPE_BYTES) or b"").decode().splitlines()
    if verdict is Verdict.FAILED and not names:  # nothing could be collected
        verdict = Verdict.BROKE
    return Judgement(verdict, names[0] if names else "")


def _seconds(batch: Batch) -> float:
    """The processor time that the tests are given."""
    return CPU_SECONDS + TIMES_MAX * batch.seconds


def _awaited(child: int, seconds: float) -> Verdict:
    """How the process ended. The processes that it has started end with it."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == 0 and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            continue
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        if pid == 0:
            os.waitpid(child, 0)
            return Verdict.HUNG
        return _verdict(status)


def _verdict(status: int) -> Verdict:
    if os.WIFSIGNALED(status):
        return Verdict.HUNG if os.WTERMSIG(status) == signal.SIGPROF else Verdict.BROKE
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


class _Chosen:
    """A plugin of pytest: it runs the chosen tests alone, in their order, and says which failed."""

    def __init__(self, tests: Sequence[str], said: int) -> None:
        self._places = {test: place for place, test in enumerate(tests)}
        self._said = said

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the others out."""
        known = [item for item in items if item.nodeid in self._places]
        items[:] = sorted(known, key=lambda item: self._places[item.nodeid])

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let hypothesis try the same examples each time, keep none, and take its time."""
        from hypothesis import HealthCheck, settings  # a room of its own has no need of it

        slow = [HealthCheck.too_slow]
        settings.register_profile(
            "mutation", database=None, deadline=None, derandomize=True, suppress_health_check=slow
        )
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name the test that failed."""
        if report.failed:
            os.write(self._said, f"{report.nodeid}\n".encode())


def _run(root: Path, loader: _Loader, batch: Batch, said: int) -> None:
    """Be one process of a change. Does not return."""
    code = 70
    try:
        os.setsid()
        signal.setitimer(signal.ITIMER_PROF, _seconds(batch))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(root)
        sys.meta_path.insert(0, _Finder(loader))
        files = dict.fromkeys(test.partition("::")[0] for test in batch.tests)
        code = int(pytest.main([*ARGUMENTS, *files], [_Chosen(batch.tests, said)]))
    finally:
        os._exit(code)
