"""aiohttp's runner for a server with limits: opens its ports, and closes them without a reset."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

from stage.inbound.aiohttp import SERVICE, direct
from stage.inbound.aiohttp_connection import ServerLimits
from stage.inbound.aiohttp_server import BoundedServer, Reports, Starts
from stage.inbound.handshake import TlsPort
from stage.inbound.kernel_queue import close_port
from stage.inbound.tls import ListenerTls


class BoundedRunner(web.AppRunner):
    """web.AppRunner whose server has limits."""

    __slots__ = ("_bounded", "_ports", "_reports", "_tls", "_tls_ports", "_watching")

    def __init__(
        self,
        app: web.Application,
        limits: ServerLimits,
        reports: Reports,
        tls: ListenerTls | None = None,
    ) -> None:
        super().__init__(app, handle_signals=False, access_log=None)
        self._bounded = limits
        self._reports = reports
        self._tls = tls
        self._ports: list[asyncio.Server] = []
        self._tls_ports: list[TlsPort] = []
        self._watching: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, backlog: int, *, among: bool = False) -> int:
        """Open a port, in TLS where it was given; its number. Raises OSError.

        `among` others that open the same one, the kernel spreads the connections over all.
        """
        server = self.server
        assert isinstance(server, BoundedServer)
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            self._watching = self._watching or loop.create_task(server.watch(self._tls))
            self._tls_ports.append(server.port(self._tls))
            return await self._tls_ports[-1].open(host, port, backlog, among=among)
        opened = await loop.create_server(
            server, host, port, backlog=backlog, reuse_port=among or None
        )
        self._ports.append(opened)
        found: int = opened.sockets[0].getsockname()[1]
        return found

    async def cleanup(self) -> None:
        """End in order: who has got a connection before the ports closed is answered once."""
        loop, server = asyncio.get_running_loop(), self.server
        self.retire()
        if self._watching is not None:
            self._watching.cancel()
        while self._tls_ports:
            await self._tls_ports.pop().close()
        while self._ports:
            for accepted in close_port(self._ports.pop()):
                await loop.connect_accepted_socket(cast(BoundedServer, server), accepted)
        if isinstance(server, BoundedServer):
            await server.settle()
        await super().cleanup()

    def retire(self) -> None:
        """End each kept connection with its next answer.

        Otherwise a proxy sends a request on one just as it is closed, and may not repeat it.
        """
        if isinstance(self.server, BoundedServer):
            self.server.retiring = True

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        service = self.app.get(SERVICE)
        if service is None:  # no stage is behind it
            return BoundedServer(made, self._bounded, self._reports)
        starts = Starts(service.admission.overload, service.lookups)
        return BoundedServer(made, self._bounded, self._reports, starts, direct(self.app))
