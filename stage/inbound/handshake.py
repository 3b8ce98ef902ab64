"""The TLS handshake of a connection that came in: counted and timed before HTTP begins.

asyncio's own server tells a protocol of a connection after its handshake. Until then nobody would
count it, and a stranger could hold every descriptor of the process by saying nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from stage.inbound.client_certificate import ClientCertificate, certificate_of
from stage.inbound.tls import InForce, ListenerTls


class Secured(Protocol):
    """The protocol behind the handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        ...

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        ...

    def shown(self, certificate: ClientCertificate | None, trust: bytes) -> None:
        """Called first: the certificate of the caller, and the trust that it was verified under."""
        ...


class Handshakes(Protocol):
    """The server that counts connections."""

    def has_room(self) -> bool:
        """Whether one more may stay."""
        ...

    def begins(self, handshake: Handshake) -> None:
        """From now on it counts as a connection that waits."""
        ...

    def ends(self, handshake: Handshake, failure: str) -> None:
        """It is over; `failure` is empty, or says in words of OpenSSL why nobody came in."""
        ...


class Handshake(asyncio.Protocol):
    """One connection until it is secure; then its transport belongs to `make_secured`'s."""

    def __init__(
        self,
        server: Handshakes,
        tls: ListenerTls,
        make_secured: Callable[[], Secured],
        *,
        seconds_max: float,
        closing_seconds_max: float,
    ) -> None:
        self._server = server
        self._tls = tls
        self._make_secured = make_secured
        self._seconds_max = seconds_max
        self._closing_seconds_max = closing_seconds_max
        self._plain: asyncio.Transport | None = None
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol. Nobody can be told 503 before there is a secure connection."""
        self._plain = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if not self._server.has_room():
            self._plain.abort()
            return
        self._plain.pause_reading()  # the first byte is the handshake's
        self._server.begins(self)
        self._task = asyncio.get_running_loop().create_task(self._secure(self._tls.in_force))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. A request may come with the last message of the handshake."""
        self._early += data

    def give_way(self) -> None:
        """Close it, because another one needs its place."""
        if self._plain is not None:
            self._plain.abort()

    async def _secure(self, in_force: InForce) -> None:
        plain, failure = self._plain, "other"
        assert plain is not None
        try:
            secure = await asyncio.get_running_loop().start_tls(
                plain,
                self,
                in_force.context,
                server_side=True,
                ssl_handshake_timeout=self._seconds_max,
                ssl_shutdown_timeout=self._closing_seconds_max,
            )
            failure = ""
        except (OSError, TimeoutError) as error:  # SSLError is an OSError
            failure = _words_of(error)
            plain.abort()
            return
        finally:
            self._server.ends(self, failure)
        if secure is None:
            return  # it went while the handshake ended
        if in_force.trust != self._tls.in_force.trust:
            secure.abort()  # judged under authorities that do not hold any more
            return
        self._hand_over(secure, in_force.trust)

    def _hand_over(self, secure: asyncio.Transport, trust: bytes) -> None:
        secured = self._make_secured()
        secured.shown(certificate_of(secure.get_extra_info("peercert")), trust)
        secure.set_protocol(cast(asyncio.BaseProtocol, secured))
        secured.connection_made(secure)
        if self._early:
            secured.data_received(bytes(self._early))


def _words_of(error: Exception) -> str:
    """Without the address and without anything that the caller sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason)
    if isinstance(error, TimeoutError):
        return "no handshake in time"
    return "the connection was closed"
