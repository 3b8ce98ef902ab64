"""Collectors that are dead, hang, or refuse: no saga fails, and no exit is held for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stage.demo.chain import LOOPBACK, Chain, free_ports
from stage.demo.client import Client
from stage.demo.stories import place
from stage.telemetry.sdk import SHUTDOWN_SECONDS_MAX

SAGAS = 60
"""More than one batch of spans at each service."""
AT_ONCE = 20
SENT_SECONDS_MAX = 60.0
EXPORT_SECONDS = 100
"""How long an export is tried. An exit that waited for it would take as long."""
EXIT_SECONDS_MAX = 20.0
"""How long an exit takes without any collector, with a machine that is busy."""


class Bad:
    """A collector that misbehaves as its name says."""

    def __init__(self) -> None:
        self.url = f"http://{LOOPBACK}:{free_ports(1)[0]}"
        self.connections = 0
        self._open: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serving(self, how: str) -> AsyncIterator[None]:
        """Misbehave until the end of the block; the dead one does not even listen."""
        if how == "dead":
            yield
            return
        port = int(self.url.rpartition(":")[2])
        answer = {
            "hangs": None,
            "refuses": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "talks nonsense": b"what?\r\n",
        }[how]

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._open.append(writer)
            if answer is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                writer.close()

        server = await asyncio.start_server(take, LOOPBACK, port)
        try:
            yield
        finally:
            server.close()
            for writer in self._open:
                writer.close()


@pytest.mark.parametrize("how", ["dead", "hangs", "refuses", "talks nonsense"])
async def test_a_bad_collector_fails_no_saga_and_holds_no_exit(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 failed sagas with real sockets; SIGTERM is obeyed within two seconds more than without."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(EXPORT_SECONDS))
    bad = Bad()
    async with bad.serving(how):
        chain = Chain(tmp_path, otlp=bad.url)
        try:
            await chain.start()
            statuses: list[int] = []
            for first in range(0, SAGAS, AT_ONCE):
                ids = [f"s-{number}" for number in range(first, first + AT_ONCE)]
                async with Client(chain.payment.url, chain.keys) as client:
                    replies = await asyncio.gather(*(place(chain, client, each) for each in ids))
                statuses += [reply.status for reply in replies]
            assert [200] * SAGAS == statuses
            if how != "dead":
                async with asyncio.timeout(SENT_SECONDS_MAX):
                    while not bad.connections:  # noqa: ASYNC110 - spans leave after a while
                        await asyncio.sleep(0.02)
            began = time.monotonic()
            ended = await asyncio.gather(*(each.terminated() for each in chain.services))
            took = time.monotonic() - began
            assert [0] * len(chain.services) == ended
            assert took < SHUTDOWN_SECONDS_MAX + EXIT_SECONDS_MAX
        finally:
            await chain.stop()
