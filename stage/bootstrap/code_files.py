"""The files that a stage was started from, and whether they are still those.

A worker that is started anew has the code of its parent, and reads from disk what that has not read
yet: migrations, and modules that are imported late. After an upgrade in place these are of another
release, so that one process would run two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from stage.core.errors import ConfigurationError

Mark = tuple[int, int]
"""The size, and the instant of the last write in ns: as Python knows whether a module has changed.

Not the inode: some file systems of containers give a file another one after a while.
"""
GONE: Final = (0, 0)
EXPANSION: Final = ".expand."
"""In the name of a migration on whose schema this release runs too: one may be added."""


class CodeFiles:
    """The modules that are loaded now, apart from Python's own, and the migrations in `folders`."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._modules = tuple(sorted(_loaded()))
        self._marks = self._look()

    def check(self) -> None:
        """Raise ConfigurationError where one was changed, added or removed since."""
        now, before = self._look(), self._marks
        changed = [
            each
            for each in before | now
            if before.get(each) != now.get(each) and (each in before or EXPANSION not in each)
        ]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ConfigurationError(
                f"{min(changed)}{more} changed after this stage was started, and a worker that"
                " begins now would mix two releases: restart the stage, or put the files back"
            )

    def _look(self) -> dict[str, Mark]:
        inside = [path for folder in self._folders for path in _migrations_in(folder)]
        return {path: _mark_of(path) for path in (*self._modules, *inside)}


def _loaded() -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and name.partition(".")[0] not in sys.stdlib_module_names:
            yield path


def _migrations_in(folder: Path) -> Iterator[str]:
    with suppress(OSError):  # it is being replaced: then its files are gone
        yield from (str(folder / name) for name in os.listdir(folder) if name.endswith(".sql"))


def _mark_of(path: str) -> Mark:
    try:
        found = os.stat(path)
    except OSError:
        return GONE  # also within an archive
    return found.st_size, found.st_mtime_ns
