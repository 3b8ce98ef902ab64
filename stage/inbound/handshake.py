"""A port in TLS: each connection is counted and timed from its acceptance, handshake included.

asyncio's own server tells a protocol of a connection after its handshake. Until then nobody would
count it, and a stranger could hold every descriptor of the process by saying nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Protocol

from stage.inbound.kernel_queue import left_in_kernel
from stage.inbound.tls import ListenerTls
from stage.inbound.tls_alert import ACCEPTED

NO_DESCRIPTOR_SECONDS = 0.1
"""The pause after a connection that could not be accepted: there is no descriptor for it."""


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

    def secure(self, trust: bytes) -> asyncio.Protocol:
        """The protocol behind a handshake under that trust."""
        ...


class Handshake:
    """One connection until it is secure."""

    def __init__(self, accepted: socket.socket) -> None:
        self._accepted = accepted
        self.task: asyncio.Task[None] | None = None

    def give_way(self) -> None:
        """Close it, because another one needs its place."""
        if self.task is not None:
            self.task.cancel()

    def is_due(self, now: float) -> bool:
        """A request may be on its way behind it."""
        return True

    async def shake(
        self, server: Handshakes, tls: ListenerTls, seconds_max: float, closing_seconds_max: float
    ) -> None:
        """Come to a secure connection, whose protocol is the server's."""
        in_force, failure = tls.in_force, "it gave way"
        ACCEPTED.set(self._accepted)  # in this task alone
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: server.secure(in_force.trust),
                self._accepted,
                ssl=in_force.context,
                ssl_handshake_timeout=seconds_max,
                ssl_shutdown_timeout=closing_seconds_max,
            )
            failure = ""
            if in_force.trust != tls.in_force.trust:
                transport.abort()  # judged under authorities that do not hold any more
        except OSError as error:  # SSLError and TimeoutError are such ones
            failure = _words_of(error)
        finally:
            if failure:
                self._accepted.close()
            server.ends(self, failure)


class TlsPort:
    """One port. `open` it, and `close` it to let nobody in any more."""

    def __init__(
        self, server: Handshakes, tls: ListenerTls, seconds_max: float, closing_seconds_max: float
    ) -> None:
        self._server = server
        self._tls = tls
        self._seconds = (seconds_max, closing_seconds_max)
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    async def open(self, host: str, port: int, backlog: int, *, among: bool = False) -> int:
        """Listen, and return the number of the port. Raises OSError."""
        self._listening = await asyncio.to_thread(_listen, host, port, backlog, among)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._listening))
        number: int = self._listening.getsockname()[1]
        return number

    async def close(self) -> None:
        """Let in those that the kernel has connected already, and nobody after them."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        if self._accepting is not None:
            self._accepting.cancel()
        left = left_in_kernel(listening.fileno())
        listening.close()
        under_way = [self._begin(each) for each in left]
        if under_way:
            await asyncio.wait(under_way, timeout=self._seconds[1])

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(NO_DESCRIPTOR_SECONDS)
                continue
            if self._server.has_room():
                self._begin(accepted).set_name("handshake")
            else:
                accepted.close()  # nobody can be told 503 before there is a secure connection

    def _begin(self, accepted: socket.socket) -> asyncio.Task[None]:
        with suppress(OSError):  # it has gone already
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake = Handshake(accepted)
        self._server.begins(handshake)
        shaken = handshake.shake(self._server, self._tls, *self._seconds)
        handshake.task = asyncio.get_running_loop().create_task(shaken)
        return handshake.task


def _listen(host: str, port: int, backlog: int, among: bool) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server(address[:2], family=family, backlog=backlog, reuse_port=among)
    listening.setblocking(False)
    return listening


def _words_of(error: OSError) -> str:
    """The words of OpenSSL, without the address and without anything that the caller sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason)
    return "no handshake in time, or the connection was closed"
