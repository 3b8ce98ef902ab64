"""What holds for every test: our code never blocks the event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

OURS = ["stage"]


@pytest.fixture(autouse=True)
def loop_watch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stop a blocking call that our code makes inside the event loop with a BlockingError.

    A test may block: only calls with a frame of ours on the stack count. A test that makes our
    code block on purpose says so with `@pytest.mark.blocking`.
    """
    if request.node.get_closest_marker("blocking"):
        yield
        return
    with blockbuster_ctx(OURS):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests with a size of their own have reached.

    `reached` is a line; `counted` is what and how many, added up over all tests.
    """
    counted: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "reached":
                terminalreporter.write_line(str(value))
            elif name == "counted" and isinstance(value, list | tuple):
                counted[value[0]] += value[1]
    for what, number in sorted(counted.items()):
        terminalreporter.write_line(f"{what}: {number}")
