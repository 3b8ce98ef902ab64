"""The head and the size of the open file, by which a file that was written over is known (rule 33).

`cp backup.db stage.db` under a running stage keeps the inode, and SQLite goes on with what it has
in memory and in its log: pages of two states are read, and written together. SQLite itself never
does these things to a file that has a log, so each of them gives a copy away
(sqlite.org/fileformat.html#the_database_header):

- the head is not whole, or says that no log was ever written for the file, as the head of what
  `VACUUM INTO` makes does;
- the schema has the number of an earlier one;
- the file has become smaller, and there was no VACUUM, which gives the schema another number.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from stage.core.errors import StoreUnavailable

HEAD_BYTES: Final = 100
FORMATS: Final = slice(18, 20)
IN_LOGS: Final = b"\x02\x02"
"""There, in the head of a file that was ever written to by a log."""
_PAGE_BYTES: Final = slice(16, 18)
_PAGES: Final = slice(28, 32)
_SCHEMA: Final = slice(40, 44)
_VACUUMS_ITSELF: Final = slice(52, 56)
_LARGEST_PAGE: Final = 65_536
"""Its size does not fit in two bytes, and stands there as 1."""


class _Seen(NamedTuple):
    """A file that may be ours: the number of its schema, and a size that it keeps until a VACUUM.

    That is the smaller one of its size and of what its head says: while a log is copied into the
    file, the head comes first, and the end of the file is written or cut last.
    """

    schema: int
    floor: int


class FileHead:
    """The open file as it was seen last. Any thread may ask.

    The descriptor is closed behind the last connection: to close it earlier would take the locks
    of SQLite from all of them (sqlite.org/howtocorrupt.html).
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = path.stat()
        self.inode = (found.st_dev, found.st_ino)
        self._last = _seen(self._read(), found.st_size)
        """None of a file that has no log, where the file system cannot have one."""

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def cut(self, size: int) -> bool:
        """Whether a file of that size is to be looked at: it has become smaller."""
        return self._last is not None and size < self._last.floor

    def written_over(self) -> bool:
        """Whether another program has written a copy into the file. Raises OSError."""
        last = self._last  # before the file: another look may be faster
        size = os.fstat(self._descriptor).st_size
        found = _seen(self._read(), size)  # behind the size: a VACUUM writes the head first
        if last is not None and _contradicts(last, found, size):
            return True
        self._last = found
        return False

    def _read(self) -> bytes:
        return os.pread(self._descriptor, HEAD_BYTES, 0)


def _contradicts(last: _Seen, found: _Seen | None, size: int) -> bool:
    if found is None or found.schema < last.schema:
        return True
    return found.schema == last.schema and size < last.floor


def _seen(head: bytes, size: int) -> _Seen | None:
    """None for the head of a file that SQLite has never written a log for, or of none."""
    if len(head) < HEAD_BYTES or head[FORMATS] != IN_LOGS:
        return None
    page_bytes = _number(head[_PAGE_BYTES])
    floor = min(size, _number(head[_PAGES]) * (_LARGEST_PAGE if page_bytes == 1 else page_bytes))
    return _Seen(_number(head[_SCHEMA]), 0 if _number(head[_VACUUMS_ITSELF]) else floor)


def _number(part: bytes) -> int:
    return int.from_bytes(part, "big")


def was_written_over(path: Path) -> StoreUnavailable:
    """The error about such a file: nothing of it is read or written any more."""
    return StoreUnavailable(
        f"another program has written a copy into the database {path} while the stage had it open:"
        f" stop the stage, move {path.name}-wal and {path.name}-shm away, put the backup there once"
        " more, and accept it with `stage db restored --as-of TIME`"
    )
