"""A test that failed under load is run once more, alone; `make test` asks for it (decision 0105).

A run of nine thousand tests on busy processors now and then meets one that waited too short a
time. The run fails if such a test fails alone too. It also fails if a test of a fault kit failed or
a worker crashed, for that is evidence, and if more than FEW tests failed. The last lines name each
test that passed alone, with its first failure: it is a defect, of the test or of the product.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

FEW: Final = 3
OUTCOME: Final = "failed_under_load"
CRASHED: Final = "???"
"""The phase that xdist reports for the test in which a worker crashed; it knows no more of it."""
DIRECT: Final = ("-q", "-p", "no:cacheprovider")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Judge the failed tests anew, once all others are done."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    if session.exitstatus != pytest.ExitCode.TESTS_FAILED:
        return
    stats: dict[str, list[pytest.TestReport]] = reporter.stats
    failed = [*stats.get("failed", []), *stats.get("error", [])]
    tests = list(dict.fromkeys(report.nodeid for report in failed))
    if len(tests) > FEW or any(_is_evidence(report) for report in failed):
        return
    reporter.write_line(f"\nonce more, alone: {' '.join(tests)}")
    if not _pass_alone(tests, config):
        return
    stats[OUTCOME] = failed
    for outcome in ("failed", "error"):
        stats.pop(outcome, None)
    session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how each such test failed at first."""
    reports: list[pytest.TestReport] = terminalreporter.stats.get(OUTCOME, [])
    if not reports:
        return
    terminalreporter.section("failed under load, and passed alone: each is a defect to mend")
    for report in reports:
        terminalreporter.write_line(f"FAILED UNDER LOAD {report.nodeid} ({report.when})")
        terminalreporter.write_line(report.longreprtext)
        for name, text in report.sections:
            terminalreporter.write_line(f"--- {name}\n{text}")


def _pass_alone(tests: Sequence[str], config: pytest.Config) -> bool:
    """Whether each of them passes: one that is skipped now proves nothing."""
    with TemporaryDirectory(prefix="stage-second-run-") as folder:
        results = Path(folder, "results.xml")
        asked = [*DIRECT, f"--rootdir={config.rootpath}", f"--junitxml={results}", *tests]
        command = [sys.executable, "-m", "pytest", *asked]
        if subprocess.run(command, cwd=config.invocation_params.dir, check=False).returncode:
            return False
        return results.read_text(encoding="utf-8").count("<skipped") == 0


def _is_evidence(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether it is of a fault kit, a worker that crashed, or a file that cannot be collected."""
    properties = getattr(report, "user_properties", None)
    crashed = report.when == CRASHED
    return crashed or properties is None or any(name == "figure" for name, _ in properties)
