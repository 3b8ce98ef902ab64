"""The door beside the database: a socket that only its owner may open, and who came through it.

And the addresses that callers of this machine alone reach.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
import struct
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

BACKLOG = 16
MODE = 0o600
MAPPED = "::ffff:"
"""How a socket for both families shows an address of IPv4."""
_PEER = struct.Struct("iII")
"""A struct ucred of Linux: process, user and group."""


def open_socket(path: Path) -> socket.socket:
    """Bind the socket, so that nobody else can connect at any instant. Raises OSError.

    The caller holds the lock of the database: a socket that is there already was left behind.
    """
    if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(str(path))
        path.chmod(MODE)  # nobody is let in before it listens
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def user_of(connection: socket.socket) -> str:
    """The name of the user that connected, by the word of the kernel."""
    peer = getattr(socket, "SO_PEERCRED", None)
    if peer is None:  # not Linux: only the owner can have come in
        return _name_of(os.getuid())
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, peer, _PEER.size))
    return _name_of(uid)


@lru_cache(maxsize=64)
def is_of_this_machine(address: str) -> bool:
    """Whether callers of this machine alone reach it; a socket file has an empty address."""
    if address in ("", "localhost"):
        return True
    try:
        return ip_address(address.lower().removeprefix(MAPPED)).is_loopback
    except ValueError:  # a name, which a server may have out of a request
        return False


@lru_cache(maxsize=64)
def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
