"""One process per database file, held by a lock on a file beside it.

The lock file also remembers how far the database had come, so that the next process notices when
an older copy or another database was put in its place (rule 33).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from stage.core.errors import ConfigurationError
from stage.store.sqlite.identity import Mark, parse_mark

PRIVATE = 0o600
"""Of every file beside the database: it holds payloads, and nobody else's process may lock it."""

LOOK_SECONDS: Final = 0.05
"""Between two attempts to take a lock that is waited for."""
_BYTES_MAX = 256
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
"""A link in place of the file would have us write into what it points to."""


def make_private(database: Path) -> None:
    """Make the file, empty and for nobody else to read, where there is none. Raises OSError.

    SQLite gives its log and its index the mode of the database, whatever the umask.
    """
    with suppress(FileExistsError):
        os.close(os.open(database.resolve(), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))


class DatabaseInUse(ConfigurationError):
    """Another process has the database: it will end, or the operator stops it."""


class FileLock:
    """An exclusive lock on `<path>.lock`, which holds the pid of its owner, and a mark.

    The kernel releases it when the process dies. The file stays: removing it would let two
    processes hold two files of the same name.
    """

    def __init__(self, path: Path) -> None:
        self._database = path
        self._path = path
        self._descriptor: int | None = None
        self.mark: Mark | None = None
        """How far the database had come, as the process before this one left it."""

    def acquire(self) -> None:
        """Take the lock now. Raises DatabaseInUse with the holder's pid. Blocks on disk.

        Raises ConfigurationError where there can be no lock file.
        """
        real = self._database.resolve()  # two names of one file are one file
        self._path = real.with_name(real.name + ".lock")
        try:
            descriptor = os.open(self._path, _FLAGS, PRIVATE)
            with suppress(PermissionError):  # another user's, who may let us write to it
                os.fchmod(descriptor, PRIVATE)  # an older release made it readable for all
        except OSError as error:
            raise ConfigurationError(
                f"the database {self._database} cannot be locked: {error}."
                " Give a path in a folder that exists and may be written to, where"
                f" {self._path.name} is a file of yours and no symbolic link"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found = os.read(descriptor, _BYTES_MAX).decode("ascii", "replace")
            holder = found.partition("\n")[0].strip().lstrip("0") or "unknown"
            os.close(descriptor)
            raise DatabaseInUse(
                f"the database {self._database} is in use by the process with pid {holder}"
                f" (lock {self._path}). One process per file: stop that one, give this one"
                " another path, or let it wait with --lock-wait-seconds"
            ) from error
        self.mark = parse_mark(os.read(descriptor, _BYTES_MAX).decode("ascii", "replace"))
        self._descriptor = descriptor
        self.remember(self.mark)

    def remember(self, mark: Mark | None) -> None:
        """Write the mark beside our pid. Raises OSError. No effect when the lock is not held."""
        if self._descriptor is None:
            return
        text = f"{os.getpid():010}\n{'' if mark is None else mark.line()}\n".encode()
        # One write, and never first an empty file: a process that dies here leaves a mark.
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))
        self.mark = mark

    def forget(self) -> None:
        """Let no mark stand there, durably. Raises OSError. No effect where there is none."""
        if self._descriptor is not None and self.mark is not None:
            self.remember(None)
            os.fsync(self._descriptor)

    def release(self) -> None:
        """Release the lock; no effect when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
