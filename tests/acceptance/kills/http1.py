"""HTTP/1.1 in its smallest form: whole messages with a Content-Length, on kept connections.

The world, the proxy and the load share it, so that the machine's cores are left to the stages.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
HEAD_BYTES_MAX = 65_536
IDLE_CONNECTIONS_MAX = 400
CONNECT_SECONDS_MAX = 5.0
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


class Broken(Exception):
    """The connection ended before a whole message had come."""


class Message(NamedTuple):
    """A request or an answer: the bytes of its head, with the empty line, and of its body."""

    head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        """As it travels."""
        return self.head + self.body

    @property
    def start(self) -> str:
        """The first line."""
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        """The code of an answer."""
        return int(self.head[9:12])

    def header(self, name: str) -> str:
        """The value of a header, or nothing."""
        found = re.search(
            rb"\r\n" + re.escape(name.encode()) + rb":[ \t]*([^\r]*)", self.head, re.IGNORECASE
        )
        return "" if found is None else found.group(1).decode("latin-1").strip()


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None when the other side has closed between two. Raises Broken."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise Broken("the head was cut") from None
    except (OSError, asyncio.LimitOverrunError) as error:
        raise Broken(str(error)) from None
    found = _LENGTH.search(head)
    if found is None:
        if b"chunked" in head.lower():
            raise Broken("chunked, which nobody here sends")
        return Message(head, b"")
    try:
        return Message(head, await reader.readexactly(int(found.group(1))))
    except (asyncio.IncompleteReadError, OSError):
        raise Broken("the body was cut") from None


def request_bytes(
    method: str, path: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """A request as it travels."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {LOOPBACK}", f"Content-Length: {len(body)}"]
    if body:
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer_bytes(status: int, body: bytes) -> bytes:
    """An answer in JSON as it travels."""
    head = (
        f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + b"\r\n" + body


class Connection:
    """One connection: a request, its answer, the next request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        """Connect on loopback. Raises Broken."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                return cls(*await asyncio.open_connection(LOOPBACK, port, limit=HEAD_BYTES_MAX))
        except OSError as error:  # a TimeoutError is one
            raise Broken(f"not connected: {error}") from None

    @property
    def usable(self) -> bool:
        """False when the other side is known to have closed."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def ask(self, raw: bytes) -> Message:
        """Send and read the answer. Raises Broken: then nobody knows what the other side did."""
        try:
            self._writer.write(raw)
            await self._writer.drain()
        except OSError as error:
            raise Broken(str(error)) from None
        answer = await read_message(self._reader)
        if answer is None:
            raise Broken("closed without an answer")
        return answer

    def close(self) -> None:
        """Let go of it."""
        self._writer.transport.abort()


class Peer:
    """A server on loopback, with connections kept for the next request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, raw: bytes, timeout: float) -> Message:
        """One request. Raises Broken, also when the time is over."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(timeout):
                while self._idle and connection is None:
                    connection = self._idle.pop()
                    if not connection.usable:
                        connection.close()
                        connection = None
                if connection is None:
                    connection = await Connection.to(self._port)
                answer = await connection.ask(raw)
        except TimeoutError:
            if connection is not None:
                connection.close()
            raise Broken("no answer in time") from None
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        if len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()


Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def listen(converse: Converse, port: int) -> asyncio.Server:
    """Serve connections on a port of loopback; one that breaks is closed and forgotten."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled is what the end of the process does to it; asyncio would print that.
        with suppress(Broken, OSError, asyncio.CancelledError):
            await converse(reader, writer)
        writer.transport.abort()

    return await asyncio.start_server(
        serve, LOOPBACK, port, limit=HEAD_BYTES_MAX, backlog=1024, reuse_address=True
    )
