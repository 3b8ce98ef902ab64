"""A port of a test's own, on which a server may be opened, closed and opened again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = "127.0.0.1"


@contextmanager
def kept_port() -> Iterator[int]:
    """Its number. While nobody listens on it, it refuses, and is nobody else's.

    A port that is only closed is given to the next connection or server of any other test.
    """
    with socket.socket() as place:  # bound, never listening: a server may bind beside it
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((LOOPBACK, 0))
        yield place.getsockname()[1]
