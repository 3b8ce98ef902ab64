"""Two processes on one file: the second waits until the first has drained, and loses nothing.

So a rolling pod on one volume, and gunicorn's HUP, replace the process of a stage on SQLite.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.demo.chain import free_ports

HOST = "127.0.0.1"
CHARGE_SECONDS = 0.4
"""How long the API takes, so that a process that is told to stop has something to drain."""
CLIENTS = 6
RELOADS = 3
LOCK_WAIT_SECONDS = "90"
PATIENT_SECONDS = "30"
"""How long a process drains at most: longer than a busy machine takes to start the next one. A
worker of gunicorn takes all of it to end when a client connected in the moment of the signal:
aiohttp closes such a connection in its first step, and then reads nothing from it."""
LIMIT_SECONDS = 60.0
AT_ONCE_SECONDS = 10.0
"""Within it a process ends that does not wait for the lock any longer, on a busy machine too."""


class Api:
    """The API that charges, with its own books: how often each key was charged."""

    def __init__(self) -> None:
        self.charges: Counter[str] = Counter()
        self.waiting = 0
        self.url = ""
        self.open = asyncio.Event()
        """While it is not set, charges are held."""
        self.open.set()

    async def charge(self, request: web.Request) -> web.Response:
        """Charge, and take some time."""
        self.charges[request.headers["Idempotency-Key"]] += 1
        self.waiting += 1
        try:
            await asyncio.sleep(CHARGE_SECONDS)
            await self.open.wait()
        finally:
            self.waiting -= 1
        return web.json_response({"id": f"c-{len(self.charges)}"})

    async def until_asked(self) -> None:
        """Return while a charge is held or under way. Raises TimeoutError."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while not self.waiting:  # noqa: ASYNC110 - another process sends it
                await asyncio.sleep(0.02)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    books = Api()
    app = web.Application()
    app.router.add_post("/charges", books.charge)
    async with TestServer(app) as server:
        books.url = str(server.make_url("")).rstrip("/")
        yield books


class Clients:
    """Each places one saga after the other, on a connection of its own, at the first that takes it.

    Like a balancer in front of both, or like a neighbour that repeats a request under its id.
    """

    def __init__(self, *ports: int) -> None:
        self.ports = ports
        self.answers: Counter[int] = Counter()
        """By status; 0 stands for a connection that was not made, or that ended without one."""
        self.ended: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._enough = False

    async def place(self, client: int) -> None:
        """Place sagas until it is enough, each until it has an end."""
        number = 0
        while not self._enough:
            number += 1
            saga_id = f"s-{client}-{number}"
            while (status := await self._ask(saga_id)) in (0, 202, 503):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            self.ended[saga_id] = status

    async def _ask(self, saga_id: str) -> int:
        data = {"order_id": saga_id, "amount": 100, "currency": "KRW"}
        status = 0
        for port in self.ports:
            status = await self._post(port, {"saga_id": saga_id, "data": data})
            self.answers[status] += 1
            if status not in (0, 503):
                break
        return status

    async def _post(self, port: int, envelope: dict[str, Any]) -> int:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT_SECONDS)) as session:
            try:
                async with session.post(f"http://{HOST}:{port}/sagas", json=envelope) as answer:
                    await answer.read()
                    return answer.status
            except (aiohttp.ClientError, TimeoutError):
                return 0

    def start(self) -> None:
        """Begin to place sagas."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.place(client)) for client in range(CLIENTS)]

    async def next_end(self) -> None:
        """Return when one more saga has an end. Raises TimeoutError."""
        before = len(self.ended)
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(self.ended) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def rest(self) -> None:
        """Place no more, and return when each saga has an end. Raises TimeoutError."""
        self._enough = True
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.gather(*self._tasks)


class Started:
    """A process, and the lines of its log."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self._log = log

    def count(self, event: str) -> int:
        """How often it has logged that event, in whatever format."""
        return sum(event in line for line in self._log.read_text().splitlines())

    async def until_logged(self, event: str, times: int = 1) -> None:
        """Return when that line has been written so many times. Raises TimeoutError."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while self.count(event) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # another process: there is no event to await

    async def stop(self) -> int:
        """SIGTERM, and its exit status."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def started(folder: Path, name: str, api: Api, *command: str) -> AsyncIterator[Started]:
    """A process on the database of that folder, which waits for its turn."""
    environment = {
        **os.environ,
        "STAGE_AUTH": "none",
        "STAGE_DRAIN_SECONDS": PATIENT_SECONDS,
        "STAGE_DATABASE": f"sqlite:///{folder / 'payment.db'}",
        "STAGE_EXTERNAL": f"psp={api.url}",
        "STAGE_LOCK_WAIT_SECONDS": LOCK_WAIT_SECONDS,
        "STAGE_LOG_FORMAT": "json",
    }
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=environment, stdout=out, stderr=out
        )
    running = Started(process, log)
    try:
        yield running
    finally:
        await running.stop()


def serving(port: int) -> tuple[str, ...]:
    """The command of `stage serve`. No call of that stage is repeated while a charge is held."""
    target = "tests.acceptance.patient_payment:payment"
    return ("-m", "stage", "serve", target, "--port", str(port))


async def test_a_second_process_takes_over_from_one_that_drains(tmp_path: Path, api: Api) -> None:
    """Started while the first serves, it waits; no saga is refused, and each is charged once."""
    ports = free_ports(2)
    clients = Clients(*ports)
    async with started(tmp_path, "first", api, *serving(ports[0])) as first:
        await first.until_logged("database_made")
        clients.start()
        async with started(tmp_path, "second", api, *serving(ports[1])) as second:
            await second.until_logged("database_awaited")
            api.open.clear()
            await api.until_asked()  # the first has something to drain
            api.open.set()
            assert 0 == await first.stop()
            await second.until_logged("database_opened")
            await clients.next_end()  # the second has served
            await clients.rest()
    assert {200} == set(clients.ended.values())
    assert set() == set(clients.answers) - {0, 200, 202, 503}
    assert {1} == set(api.charges.values())


@pytest.mark.timeout(300)
async def test_gunicorn_reloads_under_load(tmp_path: Path, api: Api) -> None:
    """On HUP the new worker waits for the lock of the old one, and the sockets stay open."""
    port = free_ports(1)[0]
    clients = Clients(port)
    command = (
        *("-m", "gunicorn", "tests.acceptance.patient_payment:app", "--bind", f"{HOST}:{port}"),
        *("--worker-class", "aiohttp.GunicornWebWorker", "--workers", "1", "--timeout", "60"),
        *("--graceful-timeout", PATIENT_SECONDS),
    )
    async with started(tmp_path, "gunicorn", api, *command) as gunicorn:
        await gunicorn.until_logged("database_made")
        clients.start()
        for number in range(1, RELOADS + 1):
            api.open.clear()  # the old worker drains for as long as the new one takes to start
            await api.until_asked()
            gunicorn.process.send_signal(signal.SIGHUP)
            await gunicorn.until_logged("database_awaited", times=number)
            api.open.set()
            await gunicorn.until_logged("Worker exiting", times=number)
            await clients.next_end()
        await clients.rest()
    assert {200} == set(clients.ended.values())
    assert set() == set(clients.answers) - {0, 200, 202, 503}
    assert {1} == set(api.charges.values())


async def test_a_process_that_waits_for_its_turn_ends_at_once_on_sigterm(
    tmp_path: Path, api: Api
) -> None:
    """Nothing was answered, so nothing is drained; the first serves on."""
    port = free_ports(1)[0]
    async with started(tmp_path, "first", api, *serving(port)) as first:
        await first.until_logged("database_made")
        async with started(tmp_path, "second", api, *serving(free_ports(1)[0])) as second:
            await second.until_logged("database_awaited")
            asked = time.monotonic()
            assert 0 == await second.stop()
            assert time.monotonic() - asked < AT_ONCE_SECONDS
        assert first.process.returncode is None
