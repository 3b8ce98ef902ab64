"""Makes the sagas that are copied: one that completed, and one cut by SIGKILL within its call."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import aiohttp

from benchmarks.contestants import STAGE, Place, running
from benchmarks.growth.client import post_saga
from benchmarks.growth.filling import uuid7
from benchmarks.processes import LOOPBACK, ended, free_port, until_listening

SECONDS_UNTIL_SENT = 30.0
"""How long the calls of a measurement may take to reach the external API, on a busy machine."""


def completed(place: Place) -> str:
    """The id of a saga that was sent to a stage at this place and completed there."""

    async def send(url: str, saga_id: str) -> int:
        async with aiohttp.ClientSession() as session:
            return await post_saga(session, url, saga_id)

    saga_id = uuid7(int(time.time() * 1e3), random.Random(0))
    with running(STAGE, place) as service:
        status = asyncio.run(send(service.url, saga_id))
    if status != 200:
        raise RuntimeError(f"the saga to copy was answered {status}")
    _check(place, saga_id, "completed")
    return saga_id


def cut(place: Place) -> str:
    """The id of a saga whose stage was killed while the external API had its call."""
    saga_id = uuid7(int(time.time() * 1e3), random.Random(0))
    with slow_external(seconds=SECONDS_UNTIL_SENT) as slow:
        stalled = Place(folder=place.folder, neighbours=slow)
        with running(STAGE, stalled) as service:
            asyncio.run(_send_and_kill(service.url, service.pid, slow, saga_id))
    _check(place, saga_id, "active")
    return saga_id


@contextmanager
def slow_external(*, seconds: float) -> Iterator[str]:
    """The URL of an external API that takes so long; `/waiting` says how many wait."""
    port = free_port()
    words = ["--port", str(port), "--seconds", str(seconds)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.services.slow", *words])
    try:
        until_listening(port, process)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        ended(process)


async def until_waiting(session: aiohttp.ClientSession, slow: str, calls: int) -> None:
    """Return once so many calls wait there. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS_UNTIL_SENT):
        while True:
            async with session.get(f"{slow}/waiting") as response:
                if await response.json() >= calls:
                    return
            await asyncio.sleep(0.01)


async def _send_and_kill(url: str, pid: int, slow: str, saga_id: str) -> None:
    async with aiohttp.ClientSession() as session:
        sent = asyncio.create_task(post_saga(session, url, saga_id))
        await until_waiting(session, slow, 1)
        os.kill(pid, signal.SIGKILL)
        await sent


def _check(place: Place, saga_id: str, state: str) -> None:
    """Raise RuntimeError when the saga is not as it must be to be copied."""
    with closing(sqlite3.connect(place.folder / "stage.db")) as database:
        found = database.execute("SELECT state FROM saga WHERE id = ?", (saga_id,)).fetchall()
    if found != [(state,)]:
        raise RuntimeError(f"the saga to copy is {found}, and should be {state}")
