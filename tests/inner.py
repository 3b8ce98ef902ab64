"""A pytest that a test starts and reads: it prints the same on every machine.

pytest prints whole lines in its summary where it runs for a build server, and a variable may give
it further arguments. A test that reads its words starts it here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import CompletedProcess, run

READ_BY_PYTEST = ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS")
"""Variables that change what pytest prints."""
SECONDS_MAX = 110.0


def run_pytest(*arguments: str | Path, cwd: Path, **environ: str) -> CompletedProcess[str]:
    """Run pytest in a process of its own, with these variables besides ours."""
    ours = {name: text for name, text in os.environ.items() if name not in READ_BY_PYTEST}
    return run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=cwd,
        env={**ours, **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
