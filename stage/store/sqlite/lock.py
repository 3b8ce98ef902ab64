"""One process per database file, held by a lock on a file beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from stage.core.errors import ConfigurationError


class FileLock:
    """An exclusive lock on `<path>.lock`, which holds the pid of its owner.

    The kernel releases it when the process dies. The file stays: removing it would let two
    processes hold two files of the same name.
    """

    def __init__(self, path: Path) -> None:
        self._database = path
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock now. Raises ConfigurationError with the holder's pid. Blocks on disk."""
        real = self._database.resolve()  # two names of one file are one file
        self._path = real.with_name(real.name + ".lock")
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigurationError(
                f"the database {self._database} cannot be locked: {error}."
                " Give a path in a folder that exists and may be written to"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigurationError(
                f"the database {self._database} is in use by the process with pid {holder}"
                f" (lock {self._path}). One process per file: stop that one, or give this one"
                " another path"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; no effect when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
