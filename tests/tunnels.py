"""An HTTP proxy on loopback that tunnels, or says anything else in the place of a tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SILENT = b""


class Tunnels:
    """A proxy that says `answer` to each CONNECT, and tunnels where that is OPENED."""

    def __init__(self) -> None:
        self.answer = OPENED
        self.heads: list[bytes] = []
        self.cut = asyncio.Event()
        """Set: what comes back from the peer is lost, and the tunnel ends."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer == SILENT:
                await reader.read()
            elif self.answer != OPENED:
                writer.write(self.answer)
            else:
                await self._tunnel(reader, writer)
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.heads[-1].split()[1].decode().rpartition(":")
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        writer.write(OPENED)
        there = asyncio.create_task(copy(reader, inner_writer))
        back = asyncio.create_task(copy(inner_reader, writer, self.cut))
        await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            task.cancel()
        inner_writer.close()


async def copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event | None = None
) -> None:
    """Pass on until the end, or until a cut."""
    while (read := await reader.read(65_536)) and not (cut and cut.is_set()):
        writer.write(read)
        await writer.drain()


@asynccontextmanager
async def tunnelling() -> AsyncIterator[Tunnels]:
    """One that listens."""
    tunnels = Tunnels()
    server = await asyncio.start_server(tunnels.serve, "127.0.0.1", 0)
    tunnels.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tunnels
    finally:
        server.close()
