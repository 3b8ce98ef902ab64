"""A stage whose code misbehaves as the data of a saga says, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.demo.chain import free_ports

HOST = "127.0.0.1"
STUCK_SECONDS = 0.5
DRAIN_SECONDS = 1.0
POST_TIMEOUT = aiohttp.ClientTimeout(total=20.0)
"""Longer than a disk stands still: a saga writes to it."""
LIMIT_SECONDS = 60.0
"""Within it comes whatever comes at once, on a busy machine too."""
DIED = 9

SOURCE = """
import os
import sys
import time

import msgspec
from stage import Stage


class Order(msgspec.Struct):
    place: str = ""
    what: str = ""


stage = Stage("payment", accepts=Order, migrations="sql")


def misbehave(saga, place):
    if saga.input.place != place:
        return
    if saga.input.what == "loop":
        while True:
            sum(range(20_000))
            time.sleep(0.01)
    if saga.input.what == "hang":
        while True:
            time.sleep(0.01)
    if saga.input.what == "kill":
        os._exit(9)
    if saga.input.what == "exit":
        sys.exit(3)


@stage.transaction(compensation=None, reason="the bench reads the row")
async def reserve(tx, saga):
    await tx.execute("INSERT INTO payment (saga_id) VALUES (?)", saga.id)
    misbehave(saga, "reserve")


@stage.call(to="psp", timeout=3.0)
async def charge(http, saga):
    misbehave(saga, "before")
    answer = await http.post("/charges", json={})
    misbehave(saga, "behind")
    return answer.json()


@charge.compensation
async def refund(http, saga, charge):
    await http.post("/refunds", json={})
"""


class Bench:
    """The stage in a process of its own, its API, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.psp = ""
        self.port = free_ports(1)[0]
        self.session: aiohttp.ClientSession
        self.process: Process
        self._before: Process | None = None
        self.options: tuple[str, ...] = ()
        """More options of the command."""
        self.answers = asyncio.Event()
        """The API answers while it is set."""
        self.answers.set()
        self.asked: set[str] = set()
        """The keys of the charges that it was asked for."""
        self._came = asyncio.Condition()
        self.standing: set[str] = set()
        """The keys of the charges that stand, by the API's own books."""

    async def start(self) -> None:
        """Start the process; return when it listens or is gone."""
        if self._before is not None:
            await self._before.communicate()  # which closes the pipe of the one that has ended
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "stage", "serve", "author:stage", "--port", str(self.port),
                "--auth", "none",
                "--database", f"sqlite:///{self.folder / 'stage.db'}", "--external",
                f"psp={self.psp}", "--stuck-seconds", str(STUCK_SECONDS),
                "--drain-seconds", str(DRAIN_SECONDS), "--wait-seconds-max", "2",
                *self.options,
                stdout=PIPE, stderr=log, cwd=self.folder,
                env={**os.environ, "STAGE_LOG_FORMAT": "json"},
            )  # fmt: skip
        self._before = self.process
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            await self.process.stdout.readline()

    async def post(self, saga_id: str, **data: str) -> int:
        """Send a saga; the code, or 0 where the process died or did not answer."""
        envelope = {"saga_id": saga_id, "data": data}
        try:
            sending = self.session.post(f"{self.url}/sagas", json=envelope, timeout=POST_TIMEOUT)
            async with sending as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def deploy(self, source: str) -> None:
        """Stop the process well, and start it with other code."""
        self.process.terminate()
        assert 0 == await self.process.wait()
        (self.folder / "author.py").write_text(source)
        await self.start()

    async def retry(self, saga_id: str) -> int:
        """The verb of an operator who has mended the code."""
        asked = {"actor": "kim", "reason": "mended"}
        async with self.session.post(f"{self.url}/sagas/{saga_id}/retry", json=asked) as response:
            return response.status

    async def get(self, path: str) -> tuple[int, Any]:
        """The code and the body of a GET; 0 where nobody answered."""
        try:
            async with self.session.get(f"{self.url}{path}") as response:
                body = await response.read()
                with suppress(msgspec.DecodeError):
                    return response.status, msgspec.json.decode(body)
                return response.status, body.decode()
        except (aiohttp.ClientError, TimeoutError):
            return 0, None

    async def until_asked(self, count: int) -> None:
        """Return when the API was asked for so many charges."""
        async with asyncio.timeout(LIMIT_SECONDS), self._came:
            await self._came.wait_for(lambda: len(self.asked) >= count)

    async def take(self, request: web.Request) -> web.Response:
        """Be the API: charge or refund, and answer as soon as it may."""
        charge, direction = request.headers["Idempotency-Key"].rsplit(":", 1)
        async with self._came:
            self.asked.add(charge)
            self._came.notify_all()
        await self.answers.wait()
        (self.standing.add if direction == "do" else self.standing.discard)(charge)
        return web.json_response({"id": "c-1"})

    async def view_when_parked(self, saga_id: str) -> Any:
        """The view of a saga that is parked soon."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                status, view = await self.get(f"/sagas/{saga_id}")
                if status == 200 and view["parked"]:
                    return view
                await asyncio.sleep(0.05)

    def logged(self, event: str) -> list[Any]:
        """The lines of that name."""
        lines = (self.folder / "log").read_bytes().splitlines()
        decoded = [msgspec.json.decode(line) for line in lines if line.startswith(b"{")]
        return [line for line in decoded if line["event"] == event]

    async def until_logged(self, event: str) -> Any:
        """The first line of that name, which comes soon."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while not (found := self.logged(event)):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
        return found[0]

    async def died(self) -> None:
        """Return when the process has ended where the author's code ends it."""
        async with asyncio.timeout(LIMIT_SECONDS):
            assert DIED == await self.process.wait()

    @property
    def url(self) -> str:
        """The base URL of the stage."""
        return f"http://{HOST}:{self.port}"


@asynccontextmanager
async def running_bench(tmp_path: Path, *options: str) -> AsyncIterator[Bench]:
    """A bench whose stage listens; `options` are more of its command."""
    (tmp_path / "author.py").write_text(SOURCE)
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "0001_payment.sql").write_text("CREATE TABLE payment (saga_id TEXT);")
    app = web.Application()
    bench = Bench(tmp_path)
    bench.options = options
    app.router.add_post("/{tail:.*}", bench.take)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    bench.psp = f"http://{HOST}:{server.port}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=4.0)) as bench.session:
        await bench.start()
        try:
            yield bench
        finally:
            if bench.process.returncode is None:
                bench.process.kill()
            async with asyncio.timeout(LIMIT_SECONDS):
                await bench.process.communicate()  # until its workers are gone: they have the pipe
            await server.close()
