"""Every test: our code never blocks the event loop, and the fault kits report their strikes."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog
from blockbuster import BlockBuster

from stage.bootstrap.process import GC_OBJECTS_MIN
from stage.demo.postgres_server import Server, running
from tests import compiling, forked, surroundings
from tests.databases import Databases
from tests.kits import PROPERTY, Strikes, add_up, keep, kept, shortcomings, table
from tests.order import order
from tests.sizes import KITS, SIZES, TIER
from tests.workers import prepare_workers

surroundings.settle()
OURS = ["stage"]
KIT_SECONDS_MAX = 600
"""The deadline of a kit at level G, where it has no longer one: several of them share the
processors, and another machine may be slower than ours."""


@pytest.fixture(autouse=True)
def structlog_as_it_was() -> Iterator[None]:
    """Leave structlog as the test found it: an example of a page, or `capture_logs`, configures it.

    A stage of a later test in the same process would write its lines to stdout.
    """
    before = structlog.get_config() if structlog.is_configured() else None
    yield
    if before is not None:
        structlog.configure(**before)
    elif structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(autouse=True)
def loop_watch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stop a blocking call that our code makes inside the event loop with a BlockingError.

    A test may block: only calls with a frame of ours on the stack count. A test that makes our
    code block on purpose says so with `@pytest.mark.blocking`.
    """
    if request.node.get_closest_marker("blocking"):
        yield
        return
    watch = _watch()
    watch.activate()
    try:
        yield
    finally:
        watch.deactivate()


@cache
def _watch() -> BlockBuster:
    """The watch of all tests: to make it takes longer than many of them."""
    watch = BlockBuster(OURS)
    for function in watch.functions.values():  # asyncpg reads the files that libpq reads
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
        # One small file, read once, before a stage serves anything.
        function.can_block_in("stage/bootstrap/encryption.py", "sealed_codec")
        # The SQL of a store, which is read once as the store is imported.
        function.can_block_in("stage/store/statements.py", "load")
        # A start by fork asks its mother for a moment, as one by exec asks the kernel.
        function.can_block_in("tests/forked.py", "_execute_child")
    return watch


SETTINGS = ("fsync=off", "autovacuum=off")
"""Of that server: half of its time went into vacuums of what each test drops."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests of a worker: that of the wheel, or of POSTGRES_PROGRAMS."""
    programs = os.environ.get("POSTGRES_PROGRAMS")
    with running(*SETTINGS, programs=Path(programs) if programs else None) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: Server) -> Databases:
    """The databases of that server."""
    return Databases(postgres)


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """The URL of an empty database, for tests of a first opening, and of what it counts."""
    with databases.empty() as url:
        yield url


@pytest.fixture
def migrated_url(databases: Databases) -> Iterator[str]:
    """The URL of a database with the tables of a stage, for all others: that costs half."""
    with databases.migrated() as url:
        yield url


@pytest.fixture
def strikes(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Strikes:
    """Takes the report of a fault kit; the test carries `@pytest.mark.kit("F5")`."""
    marker = request.node.get_closest_marker("kit")
    assert marker is not None, "a test that reports strikes is marked with the figure of its kit"
    return Strikes(marker.args[0], record_property)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make prove` asks for every kit; a run of a few tests does not."""
    parser.addoption(
        "--every-kit",
        action="store_true",
        help="fail if a fault kit did not run, or struck less than tests/sizes.py asks for",
    )
    parser.addoption(
        "--kit-reports",
        type=Path,
        metavar="FILE",
        help="add the reports of the fault kits to this file, and count those that stand there",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled code in the cache of pytest where none may lie beside ours.

    Each worker, and each process that a test starts, would compile all of it at each start, which
    takes longer than the start itself.
    """
    if not hasattr(config, "workerinput") and os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        folder = str(_compiled(config))
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder
        sys.dont_write_bytecode = False
    if config.getoption("numprocesses", None):
        prefix = sys.pycache_prefix
        modules = compiling.stale(config.rootpath / "tests", Path(prefix) if prefix else None)
        if len(modules) > compiling.FEW:
            compiling.compile_all(modules)
    forked.install()
    if forked.installed() and (config.getoption("numprocesses", None) or 0) > 1:
        prepare_workers(config)
    gc.disable()  # until all is collected: there is nothing to find, and it was looked for often


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and not among what stays until the end."""
    gc.freeze()
    gc.set_threshold(GC_OBJECTS_MIN)  # as a served stage: to look as often as Python took a seventh
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Start what a test starts by a fork, unless it is a test of a start itself."""
    if item.get_closest_marker("execs") is None:
        return (yield)
    with forked.by_exec():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[Any]:
    """Let go of what a failed test has left, so that no later test is blamed for it.

    pytest keeps the frames of a failure until the next test begins. A connection that they hold
    would be collected in the midst of that one, as an error of it.
    """
    result = yield
    if getattr(sys, "last_value", None) is not None:
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return result


def _compiled(config: pytest.Config) -> Path:
    """The folder of compiled code: kept for the next run, except where pytest may keep nothing."""
    kept_for_next: pytest.Cache | None = getattr(config, "cache", None)
    if kept_for_next is not None:
        with suppress(OSError):
            return _filled(kept_for_next.mkdir("compiled"))
    folder = tempfile.mkdtemp(prefix="stage-compiled-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return _filled(Path(folder))


def _filled(folder: Path) -> Path:
    """It, with what was compiled as Python and the requirements were installed.

    An interpreter that has such a folder looks nowhere else, and would compile all of that again.
    """
    paths = sysconfig.get_paths()
    for installed in {paths["stdlib"], paths["purelib"], paths["platlib"]}:
        place = folder / Path(installed).relative_to("/")
        if not place.exists():
            _link(Path(installed), place)
    return folder


def _link(installed: Path, place: Path) -> None:
    """A second name for each compiled file below a folder; one that cannot be had is compiled."""
    for here, folders, _ in os.walk(installed):
        folders[:] = [each for each in folders if each not in ("__pycache__", "site-packages")]
        compiled = Path(here, "__pycache__")
        if not compiled.is_dir():
            continue
        beside = place / Path(here).relative_to(installed)
        beside.mkdir(parents=True, exist_ok=True)
        for file in compiled.glob(f"*.{sys.implementation.cache_tag}.pyc"):
            with suppress(OSError):
                (beside / file.name).hardlink_to(file)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first for several workers, and let each report of a kit name its figure.

    It does so whether its test gets to report or not.
    """
    if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
        tests = [item.nodeid for item in items]
        items[:] = [items[place] for place in order(TIER, tests, workers)]
    for item in items:
        if (marker := item.get_closest_marker("kit")) is not None:
            item.user_properties.append(("figure", marker.args[0]))
            if TIER == "prove":
                _give_time(item)


def _give_time(item: pytest.Item) -> None:
    """At level G no test of a kit has a shorter deadline than that of all of them."""
    own = item.get_closest_marker("timeout")
    if own is None or own.args[0] < KIT_SECONDS_MAX:
        item.add_marker(pytest.mark.timeout(KIT_SECONDS_MAX), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count every shortcoming of a kit as an error of the run, so that its last line says so."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    if (file := config.getoption("kit_reports")) is not None:
        keep(file, *_reported(reporter))
    if not config.getoption("every_kit"):
        return
    wrong = shortcomings(KITS, _tallies(reporter))
    for text in wrong:
        report = pytest.CollectReport("tests/sizes.py", "failed", text, [])
        reporter.stats.setdefault("error", []).append(report)
    if wrong and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tier, its sizes, and a table of the fault kits that ran.

    Of several runs that add up their reports the last one does, which asks for every kit.
    """
    if why := forked.says():
        terminalreporter.write_line(why)
    config = terminalreporter.config
    if config.getoption("kit_reports") is not None and not config.getoption("every_kit"):
        return
    tallies = _tallies(terminalreporter)
    if not tallies:
        return
    sizes = " ".join(f"{name}={value:g}" for name, value in asdict(SIZES).items())
    terminalreporter.section(f"fault kits, tier {TIER}")
    for line in table(KITS, tallies):
        terminalreporter.write_line(line)
    for figure in KITS:
        for note in tallies[figure].notes if figure in tallies else ():
            terminalreporter.write_line(f"{figure}: {note}")
    terminalreporter.write_line(f"tier {TIER}: {sizes}")


def _tallies(reporter: pytest.TerminalReporter) -> dict[str, Any]:
    """The kits of this run; together with those of earlier runs where there is a file of them."""
    file = reporter.config.getoption("kit_reports")
    return add_up(*(_reported(reporter) if file is None else kept(file)))


def _reported(reporter: pytest.TerminalReporter) -> tuple[list[dict[str, Any]], list[str]]:
    """The reports of this run, and the figure of each test of a kit that failed."""
    reports: list[dict[str, Any]] = []
    failed: list[str] = []
    for report in reporter.getreports("passed") + reporter.getreports("failed"):
        properties = report.user_properties if report.when == "call" else ()
        reports += [value for name, value in properties if name == PROPERTY]
    for report in reporter.getreports("failed") + reporter.getreports("error"):
        properties = getattr(report, "user_properties", ())
        failed += [value for name, value in properties if name == "figure"]
    return reports, failed
