"""One process of the trial: started, killed with SIGKILL, started again on the same port."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.acceptance.kills.http1 import LOOPBACK

ROOT = Path(__file__).parents[3]
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
PORTS = range(20_000, 31_000)
"""Below the range from which the kernel takes ports for connections: while a server is dead, no
connection of another may sit on its port."""


class DidNotStart(Exception):
    """A process that was killed did not come back; the message holds what it said."""


class Server:
    """A process that says `listening on` when it serves."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self._arguments = arguments
        self._log = log
        self._process: Process | None = None

    async def spawn(self) -> None:
        """Start it and do not wait."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                cwd=ROOT,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, "STAGE_LOG_FORMAT": "json", "STAGE_LOG_LEVEL": "error"},
            )

    async def start(self) -> None:
        """Start it and return when it serves. Raises DidNotStart."""
        await self.spawn()
        assert self._process is not None and self._process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS_MAX):
                line = await self._process.stdout.readline()
        if not line.startswith(b"listening on "):
            await self.kill()
            said = self._log.read_text(errors="replace")[-2_000:].strip()
            raise DidNotStart(f"{self.name} did not start: {said or 'it said nothing'}")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def heal(self) -> None:
        """SIGUSR1, which the proxy understands."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    async def stop(self) -> int | None:
        """SIGTERM; its exit status, or None when it had to be killed."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            return None


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. Different processes look in different places."""
    found: list[int] = []
    for port in random.Random(os.getpid()).sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} ports are free")
