"""Sagas that were answered 200 stand after SIGKILL, in the configuration that is measured.

Clients write down what they are answered; the process is killed under their load; the file is then
read by somebody else. A saga that is not in it is lost. A saga whose end was not written down yet
has to complete after a restart, as it was answered (decision 0011); otherwise it is lost as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.contestants import STAGE, Place, running

CLIENTS = 32
SECONDS_UNTIL_KILL = 2.0
SECONDS_TO_MAKE_UP = 30.0
STORED = "SELECT count(*) FROM saga WHERE id = ?"
ENDED = "SELECT count(*) FROM saga WHERE id = ? AND state = 'completed'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """How it went. `lost` is 0, or a promise was broken."""

    acknowledged: int
    unwritten: int
    """Acknowledged sagas in the file whose end was not; the restart has to make up for them."""
    lost: int
    journal_mode: str


def check(neighbours: str, folder: Path) -> Durability:
    """Load the stage, kill it, and look for what it had acknowledged."""
    place = Place(folder=folder / "durability", neighbours=neighbours)
    acknowledged: list[str] = []
    with running(STAGE, place) as service:
        asyncio.run(_load_and_kill(service.url, service.pid, acknowledged))
    file = place.folder / "stage.db"
    absent, unended = _missing(file, acknowledged, STORED), _missing(file, acknowledged, ENDED)
    with running(STAGE, place):
        latest = time.monotonic() + SECONDS_TO_MAKE_UP
        while (left := _missing(file, acknowledged, ENDED)) and time.monotonic() < latest:
            time.sleep(0.1)
    with closing(sqlite3.connect(file)) as database:
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    return Durability(
        acknowledged=len(acknowledged),
        unwritten=len(unended - absent),
        lost=len(absent | left),
        journal_mode=mode,
    )


def _missing(file: Path, acknowledged: list[str], counted: str) -> set[str]:
    """The acknowledged sagas that the query does not find."""
    with closing(sqlite3.connect(file)) as database:
        return {
            each for each in acknowledged if database.execute(counted, (each,)).fetchone() != (1,)
        }


async def _load_and_kill(url: str, pid: int, acknowledged: list[str]) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = [
            asyncio.create_task(_client(session, url, number, acknowledged))
            for number in range(CLIENTS)
        ]
        await asyncio.sleep(SECONDS_UNTIL_KILL)
        os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*clients)


async def _client(
    session: aiohttp.ClientSession, url: str, number: int, acknowledged: list[str]
) -> None:
    count = 0
    with suppress(aiohttp.ClientError):
        while True:
            count += 1
            saga_id = f"d-{number}-{count}"
            order = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
            body = {"saga_id": saga_id, "data": order}
            async with session.post(f"{url}/sagas", json=body) as response:
                await response.read()
                if response.status == 200:
                    acknowledged.append(saga_id)
