"""The mark of a file, by which a renewed one is known without reading it.

Credentials, certificates, authorities and tokens of callers are read anew when a mark differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

LOOK_SECONDS = 1.0
"""How long a file is believed to be unchanged."""

Warn = Callable[[str], None]
"""Is called with a line for the operator about a file that cannot be used."""


class Mark(NamedTuple):
    """The identity of a file and of its contents: it differs when the file has changed."""

    inode: int
    size: int
    written_ns: int
    changed_ns: int
    """A tool may set the time of a write, and tokens are all as long; this one nobody sets."""
    mode: int


def mark_of(path: str) -> Mark:
    """The mark of the file that is there now. Raises OSError."""
    found = os.stat(path)
    return Mark(
        inode=found.st_ino,
        size=found.st_size,
        written_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
        mode=found.st_mode,
    )
