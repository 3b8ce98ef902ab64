"""The environment of the machine, as far as no test is to depend on it.

A company's machine has a proxy, which would be asked for our own addresses on loopback; a build
server asks for colours, and a terminal has a width: programs print other words then.
"""

from __future__ import annotations

import os

CHANGES_WORDS = frozenset({"FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "COLUMNS", "LINES"})
"""Variables that change what programs print."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def settle() -> None:
    """Take that out of the environment of this process, and so of each that it starts."""
    for name in CHANGES_WORDS:
        os.environ.pop(name, None)
    for name in ("no_proxy", "NO_PROXY"):
        others = [each for each in os.environ.get(name, "").split(",") if each]
        os.environ[name] = ",".join(dict.fromkeys([*others, *LOOPBACK]))
