"""Starts the services of the demo as processes of their own, on free loopback ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stage.core.errors import StageError
from stage.demo.tokens import Keys

LOOPBACK = "127.0.0.1"
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 5.0
SPANS_LEAVE_SECONDS = 1.5
"""A stage sends its spans every second."""


class ChainError(StageError):
    """A service of the demo failed; the message holds its last output."""


class Service:
    """One process: started, killed, started again on the same port."""

    def __init__(self, name: str, port: int, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.port = port
        self.url = url(port)
        self._arguments = [*arguments, "--port", str(port)]
        self._log = log
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and return when it listens. Raises ChainError."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, "STAGE_LOG_FORMAT": "json"},
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line.startswith(b"listening on "):
            await self.kill()
            output = (await asyncio.to_thread(self._log.read_text, errors="replace"))[-2_000:]
            raise ChainError(f"{self.name} did not start: {output.strip() or 'it wrote nothing'}")

    async def kill(self) -> None:
        """SIGKILL: the process cannot tidy up."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_SECONDS_MAX."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self.terminated()
        except TimeoutError:
            await self.kill()

    async def terminated(self) -> int:
        """Send SIGTERM and return the exit status."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()


class Chain:
    """order -> payment (the stage, with its external API psp) -> gateway -> shipping."""

    def __init__(
        self, folder: Path, *, otlp: str | None = None, database: str | None = None
    ) -> None:
        """`database` is the URL of the stage's database; without one it is a file in the folder."""
        order, payment, shipping, psp, gateway = free_ports(5)
        self._folder = folder
        self.keys = Keys(folder)
        self._options = ["--otlp-endpoint", otlp] if otlp else []
        self.otlp = otlp
        self.psp = self._service("psp", psp, "stage.demo.psp")
        self.order = self._service(
            "order",
            order,
            *("stage.neighbours.upstream", "--name", "order", "--stage", url(payment)),
            *self.keys.of_stub("order"),
        )
        self.shipping = self._service(
            "shipping",
            shipping,
            *("stage.neighbours.downstream", "--name", "shipping", "--upstream", url(payment)),
            *self.keys.of_stub("shipping"),
        )
        to = ["stage.demo.gateway", "--to", url(shipping)]
        self.gateway = Service("gateway", gateway, to, folder / "gateway.log")
        self.payment = self._service(
            "payment",
            payment,
            *("stage", "serve", "stage.demo.payment:payment"),
            *("--database", database or f"sqlite:///{folder / 'payment.db'}"),
            *("--upstream", f"order={url(order)}"),
            *("--downstream", f"shipping={url(gateway)}"),
            *("--external", f"psp={url(psp)}"),
            *self.keys.of_stage(),
        )

    def _service(self, name: str, port: int, *arguments: str) -> Service:
        return Service(name, port, [*arguments, *self._options], self._folder / f"{name}.log")

    @property
    def services(self) -> tuple[Service, ...]:
        """All of them, in the order of the chain."""
        return (self.order, self.payment, self.psp, self.gateway, self.shipping)

    async def start(self) -> None:
        """Start all of them at the same time. Raises ChainError."""
        await asyncio.to_thread(self.keys.write)
        await asyncio.gather(*(service.start() for service in self.services))

    async def spans_left(self) -> None:
        """Return when all spans that ended by now were sent to the collector, if there is one."""
        if self.otlp:
            await asyncio.sleep(SPANS_LEAVE_SECONDS)

    async def stop(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(service.stop() for service in self.services))


def url(port: int) -> str:
    """The base URL of a service on this machine."""
    return f"http://{LOOPBACK}:{port}"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; they are held until all are known."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
