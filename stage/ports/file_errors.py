"""Errors of files in words: the system says what it is, and a table what a person does about it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stage.core.errors import ConfigurationError

_ACCESS: Final = "check the owner and the mode of the file and of its folder"
_PATH: Final = "check the path and its folder"
FIXES: Final = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room, or give its user a larger quota",
    errno.EFBIG: "let the process write larger files (ulimit -f, LimitFSIZE=)",
    errno.EROFS: "mount the file system so that it may be written to",
    errno.EISDIR: "give the path of a file, and not of a folder",
    errno.ENOTDIR: "a part of the path is a file: give another one",
    errno.ENOENT: _PATH,
    errno.ELOOP: "give a path without a symbolic link",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EMFILE: "let the process open more files (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "let the machine open more files (sysctl fs.file-max)",
    errno.ENOLCK: "the file system has no locks: give a path on a disk of this machine",
    errno.EOPNOTSUPP: "the file system lacks what is needed: give a path on another one",
    errno.EIO: "look at the disk and at the log of the kernel",
    errno.ESTALE: "mount the file system anew",
}
"""By the number of the error."""


def in_words(error: OSError) -> str:
    """The error with the path that it has, and the fix."""
    what = error.strerror or str(error)
    named = f"{error.filename}: {what}" if error.filename else what
    return f"{named}: {fix_of(error)}"


def fix_of(error: OSError) -> str:
    """The next thing that a person does about it."""
    return FIXES.get(error.errno or 0, _PATH)


@contextmanager
def said(what: str) -> Iterator[None]:
    """Raise ConfigurationError, beginning with `what`, for an error of the system within."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a time-out, say, is a defect
            raise
        raise ConfigurationError(f"{what}: {in_words(error)}") from error
