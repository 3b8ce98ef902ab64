"""Sagas split by id behind a real nginx, with the configuration of docs/scale.md as it stands."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stage.demo.chain import LOOPBACK, free_ports
from tests.acceptance.gateway.nginx import NGINX

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "nginx" / "shards.conf"
SAGAS = 24
ASKED_TIMES = 3
"""The first failure is the one after which nginx, left to itself, asks the other shard."""
UNDO = {"requested_by": "order", "reason": "the customer changed their mind"}
START_SECONDS_MAX = 30.0
FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {example}
}}
"""


class Shards:
    """Two stages, each on its own file, and the door before them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.door, self._psp, self._shipping, *self._ports = free_ports(5)
        self._running: list[Process] = []
        self._stages: list[Process] = []

    @property
    def url(self) -> str:
        """Where neighbours call."""
        return f"http://{LOOPBACK}:{self.door}"

    async def start(self) -> None:
        """Start the two stages, what they call, and nginx with the example."""
        await self._python("stage.demo.psp", "--port", str(self._psp))
        upstream = ("--name", "shipping", "--upstream", self.url)
        await self._python("downstream_stub", "--port", str(self._shipping), *upstream)
        for number, port in enumerate(self._ports):
            stage = await self._python(
                *("stage", "serve", "stage.demo.payment:payment", "--auth", "none"),
                *("--port", str(port), "--database", f"sqlite:///{self._file(number)}"),
                *("--upstream", "order=http://127.0.0.1:9"),
                *("--downstream", f"shipping=http://{LOOPBACK}:{self._shipping}"),
                *("--external", f"psp=http://{LOOPBACK}:{self._psp}"),
            )
            self._stages.append(stage)
        await self._start_nginx()

    async def _start_nginx(self) -> None:
        assert NGINX is not None
        example = EXAMPLE.read_text(encoding="utf-8")
        for number, port in enumerate(self._ports):
            assert f"shard-{number}:8080" in example
            example = example.replace(f"shard-{number}:8080", f"{LOOPBACK}:{port}")
        example = example.replace("listen 8080", f"listen {LOOPBACK}:{self.door}")
        configuration = self._folder / "nginx.conf"
        configuration.write_text(FRAME.format(folder=self._folder, example=example))
        self._running.append(
            await asyncio.create_subprocess_exec(
                *(NGINX, "-p", str(self._folder), "-c", str(configuration)),
                stdout=DEVNULL,
            )
        )
        async with asyncio.timeout(START_SECONDS_MAX):
            while not await self._open():  # noqa: ASYNC110 - a process has no event to wait for
                await asyncio.sleep(0.02)

    async def _open(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.door)
        except OSError:
            return False
        writer.close()
        return True

    async def _python(self, module: str, *words: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *words, stdout=PIPE, stderr=DEVNULL
        )
        self._running.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS_MAX):
            while not (line := await process.stdout.readline()).startswith(b"listening on"):
                assert line, f"{module} did not start"
        return process

    async def stop_shard(self, number: int) -> None:
        """End one of the two stages, as a deploy does."""
        self._stages[number].terminate()
        await self._stages[number].communicate()

    async def stop(self) -> None:
        """End all of them."""
        for process in self._running:
            if process.returncode is None:
                process.terminate()
        for process in self._running:
            if process not in self._stages or process.returncode is None:
                await process.communicate()

    def _file(self, number: int) -> Path:
        return self._folder / f"shard-{number}.db"

    def states(self) -> list[dict[str, str]]:
        """The sagas of each shard with their states, from its file."""
        found = []
        for number in range(len(self._ports)):
            with closing(sqlite3.connect(self._file(number))) as file:
                found.append(dict(file.execute("SELECT id, state FROM saga")))
        return found


@asynccontextmanager
async def sharded(folder: Path) -> AsyncIterator[Shards]:
    """The shards, running."""
    shards = Shards(folder)
    try:
        await shards.start()
        yield shards
    finally:
        await shards.stop()


async def post(session: aiohttp.ClientSession, url: str, body: Any, key: str = "") -> Any:
    """Status, body, and whether it was a replay."""
    headers = {"Idempotency-Key": key} if key else {}
    async with session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.read(), "Idempotency-Replayed" in answer.headers


def start_of(saga_id: str) -> dict[str, Any]:
    """The body that starts it, as upstream sends it."""
    order = {"order_id": saga_id, "amount": 100, "currency": "KRW"}
    trail = [{"stage": "order", "at": "2026-11-23T02:29:58.120Z"}]
    return {"saga_id": saga_id, "data": order, "trail": trail}


@pytest.mark.timeout(110)
async def test_each_saga_stays_at_one_shard(tmp_path: Path) -> None:
    """Its start, its duplicate and its compensation; both shards have some, and none has both."""
    ids = [f"o-{number}" for number in range(SAGAS)]
    async with sharded(tmp_path) as shards, aiohttp.ClientSession() as session:
        for saga_id in ids:
            saga = start_of(saga_id)
            status, body, replayed = await post(session, f"{shards.url}/sagas", saga, saga_id)
            assert (200, False) == (status, replayed), body
            assert (200, body, True) == await post(session, f"{shards.url}/sagas", saga, saga_id)
        status, body, _ = await post(session, f"{shards.url}/sagas/{ids[0]}/compensate", UNDO)
        assert 200 == status, body
        async with session.get(f"{shards.url}/sagas/{ids[1]}") as answer:
            assert 200 == answer.status
        states = shards.states()
        # Without the key a start has no shard, and a list is that of one of them.
        assert 400 == (await post(session, f"{shards.url}/sagas", saga))[0]
        async with session.get(f"{shards.url}/sagas") as answer:
            assert 400 == answer.status
    assert all(states) and set() == states[0].keys() & states[1].keys()
    together = states[0] | states[1]
    assert {each: "compensated" if each == ids[0] else "completed" for each in ids} == together


@pytest.mark.timeout(110)
async def test_no_other_shard_answers_for_one_that_is_away(tmp_path: Path) -> None:
    """The other one never saw its sagas: it would bury them, and say that nothing stands."""
    ids = [f"o-{number}" for number in range(SAGAS)]
    async with sharded(tmp_path) as shards, aiohttp.ClientSession() as session:
        for saga_id in ids:
            status, body, _ = await post(session, f"{shards.url}/sagas", start_of(saga_id), saga_id)
            assert 200 == status, body
        before = [set(shard) for shard in shards.states()]
        assert all(before)
        await shards.stop_shard(0)
        answers = []
        for saga_id in before[0]:
            url = f"{shards.url}/sagas/{saga_id}/compensate"
            answers += [(await post(session, url, UNDO))[0] for _ in range(ASKED_TIMES)]
            start = await post(session, f"{shards.url}/sagas", start_of(saga_id), saga_id)
            answers.append(start[0])
        assert before == [set(shard) for shard in shards.states()]
        assert {502} == set(answers)
