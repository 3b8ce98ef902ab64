"""Starts the services of the demo as processes of their own, on free loopback ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path

from stage.core.errors import StageError
from stage.demo.certificates import Certificates
from stage.demo.tokens import Keys

LOOPBACK = "127.0.0.1"
NAMES = ("order", "payment", "psp", "gateway", "shipping")
PORTS = range(20_000, 31_000)
"""Below those that the kernel gives to connections: one of these may sit on a port that a server
is about to open, or opens again."""
PORTS_A_PROCESS = 211
"""So far apart do processes begin to look that were started one after the other."""
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 5.0
SPANS_LEAVE_SECONDS = 1.5
"""A stage sends its spans every second."""


class ChainError(StageError):
    """A service of the demo failed; the message holds its last output."""


class Service:
    """One process: started, killed, started again on the same port."""

    def __init__(
        self, name: str, port: int, arguments: Sequence[str], log: Path, scheme: str = "http"
    ) -> None:
        self.name = name
        self.port = port
        self.url = url(port, scheme)
        self._arguments = [*arguments, "--port", str(port)]
        self._log = log
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its process was started, and has not ended."""
        return self._process is not None and self._process.returncode is None

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
        if not self.runs:
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
        self,
        folder: Path,
        *,
        otlp: str | None = None,
        database: str | None = None,
        tls: bool = False,
    ) -> None:
        """`database` is the URL of the stage's database; without one it is a file in the folder.

        With `tls` every service has a certificate, and nobody speaks plain HTTP.
        """
        # Long because it lists the five services, each with its options.
        order, payment, shipping, psp, gateway = free_ports(5)
        self._folder = folder
        self._scheme = "https" if tls else "http"
        self.keys = Keys(folder)
        self.certificates = Certificates(folder, NAMES) if tls else None
        self._options = ["--otlp-endpoint", otlp] if otlp else []
        self.otlp = otlp
        above = url(payment, self._scheme)
        webhooks = ["--webhook-url", f"{above}/webhooks/psp"]
        webhooks += ["--webhook-secret-file", str(self.keys.webhook_file)]
        if self.certificates is not None:
            webhooks += ["--webhook-ca-file", str(self.certificates.ca_file)]
        self.psp = self._service("psp", psp, "stage.demo.psp", *webhooks, *self._tls_of("psp"))
        self.order = self._service(
            "order",
            order,
            *("stage.neighbours.upstream", "--name", "order", "--stage", above),
            *self.keys.of_stub("order"),
            *self._tls_of("order"),
        )
        self.shipping = self._service(
            "shipping",
            shipping,
            *("stage.neighbours.downstream", "--name", "shipping", "--upstream", above),
            *self.keys.of_stub("shipping"),
            *self._tls_of("shipping"),
        )
        to = ["stage.demo.gateway", "--to", self.shipping.url, *self._tls_of("gateway")]
        self.gateway = Service("gateway", gateway, to, folder / "gateway.log", self._scheme)
        self.payment = self._service(
            "payment",
            payment,
            *("stage", "serve", "stage.demo.payment:payment"),
            *("--database", database or f"sqlite:///{folder / 'payment.db'}"),
            *("--upstream", f"order={self.order.url}"),
            *("--downstream", f"shipping={self.gateway.url}"),
            *("--external", f"psp={self.psp.url}"),
            *self.keys.of_stage(),
            *self._tls_of("payment"),
        )

    def _service(self, name: str, port: int, *arguments: str) -> Service:
        log = self._folder / f"{name}.log"
        return Service(name, port, [*arguments, *self._options], log, self._scheme)

    def _tls_of(self, name: str) -> list[str]:
        """The options of TLS of a service."""
        if self.certificates is None:
            return []
        if name == "payment":
            return self.certificates.of_stage()
        if name == "psp":
            return self.certificates.of_listener(name)
        return self.certificates.of_stub(name)

    def trusted(self) -> ssl.SSLContext | None:
        """The TLS of a client of the services, once they are started; None for plain HTTP."""
        if self.certificates is None:
            return None
        return ssl.create_default_context(cafile=self.certificates.ca_file)

    @property
    def services(self) -> tuple[Service, ...]:
        """All of them, in the order of the chain."""
        return (self.order, self.payment, self.psp, self.gateway, self.shipping)

    async def start(self) -> None:
        """Start all of them at the same time. Raises ChainError."""
        await asyncio.to_thread(self.keys.write)
        if self.certificates is not None:
            await asyncio.to_thread(self.certificates.write)
        await asyncio.gather(*(service.start() for service in self.services))

    async def spans_left(self) -> None:
        """Return when all spans that ended by now were sent to the collector, if there is one."""
        if self.otlp:
            await asyncio.sleep(SPANS_LEAVE_SECONDS)

    async def stop(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(service.stop() for service in self.services))


def url(port: int, scheme: str = "http") -> str:
    """The base URL of a service on this machine."""
    return f"{scheme}://{LOOPBACK}:{port}"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, other ones at each call. Raises ChainError.

    Different processes look in different places, and none returns to a port before all others.
    """
    found: list[int] = []
    for port in islice(_in_turn(os.getpid()), len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            found.append(port)
        if len(found) == count:
            return found
    raise ChainError(f"fewer than {count} ports from {PORTS.start} to {PORTS.stop} are free")


@cache
def _in_turn(pid: int) -> Iterator[int]:
    first = pid * PORTS_A_PROCESS % len(PORTS)
    return cycle((*PORTS[first:], *PORTS[:first]))
