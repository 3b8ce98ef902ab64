"""The kernel's queues: bytes of a connection, and connections of a port that nobody accepted."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress
from typing import Final

UNREAD: Final = termios.FIONREAD
"""The bytes that came in and were not read."""
UNACKNOWLEDGED: Final = termios.TIOCOUTQ
"""The bytes that were written and that the other side has not acknowledged."""
_NO_LINGER = struct.pack("ii", 1, 0)


def queued(transport: asyncio.Transport, way: int) -> bool:
    """Whether the kernel holds bytes of this connection: UNREAD or UNACKNOWLEDGED."""
    found = transport.get_extra_info("socket")
    if found is None:
        return False
    held = bytearray(4)
    try:
        fcntl.ioctl(found.fileno(), way, held)
    except OSError:  # not every system tells it of a socket
        return False
    return any(held)


def finished(transport: asyncio.Transport) -> bool:
    """Tell the other side at once that no answer comes any more; False if it has asked already.

    A transport tells it some turns of the event loop later, and a proxy that sends a request in
    between gets a reset in place of an answer. Bytes that lie here for a slow reader go first.
    """
    if queued(transport, UNREAD):
        return False
    if transport.get_write_buffer_size():
        return True
    found = transport.get_extra_info("socket")
    if found is not None and transport.get_extra_info("sslcontext") is None:
        with suppress(OSError), socket.socket(fileno=os.dup(found.fileno())) as same:
            same.shutdown(socket.SHUT_WR)
    return True


def reset(transport: asyncio.Transport) -> None:
    """Drop the connection with all that waits in it, that in the kernel included."""
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def left_in_kernel(port: int) -> list[socket.socket]:
    """The connections that the kernel has made at that descriptor and nobody has accepted.

    Otherwise the kernel resets them when it closes, with the requests that were sent on them.
    """
    found: list[socket.socket] = []
    with socket.socket(fileno=os.dup(port)) as listening:
        listening.setblocking(False)
        with suppress(OSError):  # none is left, or no descriptor
            while True:
                accepted, _ = listening.accept()
                accepted.setblocking(False)
                found.append(accepted)
    return found


def close_port(port: asyncio.Server) -> list[socket.socket]:
    """Close a port; the connections that nobody has accepted yet."""
    found = [each for opened in port.sockets for each in left_in_kernel(opened.fileno())]
    port.close()
    return found
