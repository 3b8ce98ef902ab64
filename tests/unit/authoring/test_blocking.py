"""The hook that stops blocking calls stays for ever, and is called while Python ends."""

from __future__ import annotations

import subprocess
import sys

LATE = """
import sys
from stage.authoring import blocking
blocking.watch()
vars(blocking).clear()  # as Python does at its end
sys.audit("late")
"""


def test_it_says_nothing_once_its_module_is_gone() -> None:
    """Python would print an ignored exception behind whatever a process says last."""
    ended = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=False, timeout=60
    )
    assert (0, "") == (ended.returncode, ended.stderr)
