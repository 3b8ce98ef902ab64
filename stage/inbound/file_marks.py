"""The mark of a file, by which a renewed one is known without reading it.

The listener looks at the marks of its certificate, its authorities and the tokens of its callers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

LOOK_SECONDS = 1.0
"""How long a file is believed to be unchanged."""

Warn = Callable[[str], None]
"""Is called with a line for the operator about a file that cannot be used."""
Mark = tuple[int, int, int, int]


def mark_of(path: str) -> Mark:
    """The inode, the size, and the instants of the last write and change in ns. Raises OSError.

    A tool may set the time of a write, and tokens are all as long; the other one nobody sets.
    """
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
