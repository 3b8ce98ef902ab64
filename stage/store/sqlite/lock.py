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

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.ports.file_errors import in_words
from stage.store.sqlite.identity import Mark, parse_mark

PRIVATE = 0o600
"""Of every file beside the database: it holds payloads, and nobody else's process may lock it."""

LOOK_SECONDS: Final = 0.05
"""Between two attempts to take a lock that is waited for."""
NEW: Final = ".new"
"""Added to the name of a lock file that is made anew, until it is locked."""
_BYTES_MAX = 256
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
"""A link in place of the file would have us write into what it points to."""


def make_private(database: Path) -> None:
    """Make the file, empty and for nobody else to read, where there is none. Raises OSError.

    SQLite gives its log and its index the mode of the database, whatever the umask.
    """
    with suppress(FileExistsError):
        os.close(os.open(database.resolve(), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))


def lock_path(database: Path) -> Path:
    """The lock file of a database: two names of one file are one file."""
    real = database.resolve()
    return real.with_name(real.name + ".lock")


def read_mark(database: Path) -> Mark | None:
    """How far the database had come, as its lock file says; None where nothing says it."""
    with suppress(OSError), lock_path(database).open("rb") as file:
        return parse_mark(file.read(_BYTES_MAX).decode("ascii", "replace"))
    return None


def is_locked(database: Path) -> bool:
    """Whether a process holds the lock now. It is taken for a moment where none does."""
    try:
        with lock_path(database).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # there is none, or it is another user's
    return False


class DatabaseInUse(ConfigurationError):
    """Another process has the database: it will end, or the operator stops it."""


class FileLock:
    """An exclusive lock on `<path>.lock`, which holds the pid of its owner, and a mark.

    The kernel releases it when the process dies. The file stays: removing it would let two
    processes hold two files of the same name. Where somebody does, it is made anew (`keep`), or
    another process was faster, and this one is over (`check`).
    """

    def __init__(self, path: Path) -> None:
        self._database = path
        self._path = path
        self._descriptor: int | None = None
        self._inode = (0, 0)
        self._taken = False
        """True from when another process was found to have made a lock file in place of ours."""
        self.mark: Mark | None = None
        """How far the database had come, as the process before this one left it."""

    def acquire(self) -> None:
        """Take the lock now. Raises DatabaseInUse with the holder's pid. Blocks on disk.

        Raises ConfigurationError where there can be no lock file.
        """
        self._path = lock_path(self._database)
        descriptor = -1
        try:
            descriptor = os.open(self._path, _FLAGS, PRIVATE)
            with suppress(PermissionError):  # another user's, who may let us write to it
                os.fchmod(descriptor, PRIVATE)  # an older release made it readable for all
            self._take(descriptor)
            self.mark = parse_mark(os.read(descriptor, _BYTES_MAX).decode("ascii", "replace"))
            self._inode = _inode(os.fstat(descriptor))
            self._descriptor = descriptor
            self.remember(self.mark)
        except BaseException as error:
            self._descriptor = None
            if descriptor >= 0:
                os.close(descriptor)
            if not isinstance(error, OSError):
                raise
            raise ConfigurationError(
                f"the database {self._database} cannot be locked: {self._path}:"
                f" {in_words(OSError(error.errno, error.strerror))}. Its folder has to be"
                f" writable, and {self._path.name} a file of yours and no symbolic link"
            ) from error

    def _take(self, descriptor: int) -> None:
        """Lock the file. Raises DatabaseInUse, and OSError where nothing can be locked there."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = os.read(descriptor, _BYTES_MAX).decode("ascii", "replace")
            holder = found.partition("\n")[0].strip().lstrip("0") or "unknown"
            raise DatabaseInUse(
                f"the database {self._database} is in use by the process with pid {holder}"
                f" (lock {self._path}). One process per file: stop that one, give this one"
                " another path, or let it wait with --lock-wait-seconds"
            ) from error

    def check(self) -> None:
        """Raise StoreUnavailable where another process has a lock file in place of ours.

        It serves the database, and runs the sagas that this process has in memory. So this one
        never goes on, whatever becomes of the file. May be called from any thread.
        """
        if self._descriptor is None:
            return
        with suppress(OSError):  # none is there: `keep` makes one
            found = _inode(os.stat(self._path))
            self._taken = self._taken or found != self._inode  # in this order: `keep` sets it first
        if self._taken:
            raise StoreUnavailable(
                f"the lock {self._path} was removed under this process, and another process has"
                " taken the database since: that one goes on, stop this one"
            )

    def keep(self) -> None:
        """Make the lock file anew where it was removed. Raises OSError, and as `check`.

        It gets its name once it is locked, so that nobody else can lock it before.
        """
        self.check()
        if self._descriptor is None or self._path.exists():
            return
        new = self._path.with_name(self._path.name + NEW)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, _FLAGS | os.O_EXCL, PRIVATE)
        before, inode = (self._descriptor, self._inode), _inode(os.fstat(descriptor))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._descriptor, self._inode = descriptor, inode
            self.remember(self.mark)
            os.link(new, self._path)
        except OSError as error:
            self._descriptor, self._inode = before
            os.close(descriptor)
            if not isinstance(error, FileExistsError):
                raise
            self.check()  # another process was faster
        else:
            os.close(before[0])
        finally:
            new.unlink(missing_ok=True)

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


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
