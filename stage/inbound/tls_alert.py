"""The alert that ends a handshake: asyncio and uvloop close the connection without sending it.

In TLS 1.3 a caller has often sent its request before its certificate was judged. Without the alert
it does not know that nobody has read that request, and is in doubt.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

ACCEPTED: ContextVar[socket.socket | None] = ContextVar("accepted", default=None)
"""The connection on which the handshake of this task is."""


class AlertingHandshake(ssl.SSLObject):
    """TLS of one connection, in memory. The event loop sends its bytes, but for an alert."""

    outgoing: ssl.MemoryBIO | None = None
    accepted: socket.socket | None = None

    def do_handshake(self) -> None:
        """See ssl.SSLObject."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self._send_alert()
            raise
        self.outgoing = self.accepted = None  # from now on the loop alone writes

    def _send_alert(self) -> None:
        """Write at once what is left to say: the loop closes the connection next."""
        if self.outgoing is not None and self.accepted is not None:
            with suppress(OSError):  # the caller has gone
                self.accepted.send(self.outgoing.read())


class AlertingContext(ssl.SSLContext):
    """A context whose handshakes say why they fail."""

    sslobject_class = AlertingHandshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *more: Any, **options: Any
    ) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        made = super().wrap_bio(incoming, outgoing, *more, **options)
        if isinstance(made, AlertingHandshake):
            made.outgoing, made.accepted = outgoing, ACCEPTED.get()
        return made
