"""TLS in front of Temporal's dev server, which has none: it asks for a certificate."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from pathlib import Path

from stage.demo.chain import LOOPBACK, free_ports
from tests.certificates import Authority

CHUNK = 65_536


class TlsFront:
    """Hands the bytes of clients on that show a certificate of its authority."""

    def __init__(self, folder: Path, behind: str) -> None:
        self._behind = behind
        (port,) = free_ports(1)
        self.address = f"{LOOPBACK}:{port}"
        self.authority = Authority(folder)
        self._certificate = self.authority.sign("front", LOOPBACK)
        self.client_cert, self.client_key = self.authority.sign("worker", "worker")
        self.let_in = 0
        """Connections whose certificate was verified."""
        self._server: asyncio.Server | None = None
        self._writers: list[StreamWriter] = []

    async def start(self) -> None:
        """Listen."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority.file)
        context.load_cert_chain(*self._certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        host, port = self.address.split(":")
        self._server = await asyncio.start_server(self._serve, host, int(port), ssl=context)

    async def stop(self) -> None:
        """End all connections."""
        assert self._server is not None
        self._server.close()
        for each in self._writers:
            each.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.let_in += 1
        inner_reader, inner = await asyncio.open_connection(*self._behind.split(":"))
        self._writers += [writer, inner]
        await asyncio.gather(_hand_on(reader, inner), _hand_on(inner_reader, writer))


async def _hand_on(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()
