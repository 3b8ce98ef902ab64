"""The work that all of them do: two local transactions, a charge, and the hand-over downstream.

Steps may be repeated by the systems, so each is idempotent, as their documentation asks for: rows
are inserted where they are not there yet, and the calls carry a key.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiosqlite
from aiohttp import ClientSession, TCPConnector, web

Envelope = dict[str, Any]

TABLE = """
CREATE TABLE IF NOT EXISTS payment (
    saga_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, state TEXT NOT NULL, charge_id TEXT
)
"""
INSERT = "INSERT INTO payment VALUES (?, ?, ?, ?, 'pending', NULL) ON CONFLICT DO NOTHING"
CHARGED = "UPDATE payment SET state = 'charged', charge_id = ? WHERE saga_id = ?"
RELEASED = "UPDATE payment SET state = 'released' WHERE saga_id = ?"


class Refused(Exception):
    """A neighbour said no."""


class Neighbours:
    """The external API and the downstream, which is there too unless it has a URL of its own."""

    def __init__(self, url: str, downstream: str = "") -> None:
        self._url = url
        self._downstream = downstream or url
        self._session = ClientSession(connector=TCPConnector(limit=0))

    async def charge(self, envelope: Envelope) -> str:
        """The id of the charge."""
        answer = await self._post(
            f"{self._url}/charges", {"amount": envelope["data"]["amount"]}, envelope["saga_id"]
        )
        return str(answer["id"])

    async def refund(self, envelope: Envelope) -> None:
        """Give the money back."""
        await self._post(f"{self._url}/refunds", {"key": envelope["saga_id"]}, envelope["saga_id"])

    async def hand_on(self, envelope: Envelope, charge_id: str) -> dict[str, Any]:
        """Hand the context on; returns the additions of the stages behind this one."""
        data = {**envelope["data"], "payment": {"charge_id": charge_id}}
        where = f"{self._downstream}/sagas"
        answer = await self._post(where, {**envelope, "data": data}, envelope["saga_id"])
        added: dict[str, Any] = answer["data"]
        return added

    async def _post(self, where: str, body: object, key: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": key}
        async with self._session.post(where, json=body, headers=headers) as response:
            if 400 <= response.status < 500:
                raise Refused(f"{where} answered {response.status}")
            response.raise_for_status()
            answer: dict[str, Any] = await response.json()
            return answer


class Payments:
    """The table of the service on SQLite, as durable as ours: WAL, FULL."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: str) -> Payments:
        """Connect, and make the table."""
        connection = await aiosqlite.connect(path)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", TABLE):
            await connection.execute(statement)
        await connection.commit()
        return cls(connection)

    async def reserve(self, envelope: Envelope) -> None:
        """Write the payment down before anything leaves."""
        data = envelope["data"]
        order = (envelope["saga_id"], data["order_id"], data["amount"], data["currency"])
        await self._write(INSERT, order)

    async def record(self, saga_id: str, charge_id: str) -> None:
        """Write down what was charged."""
        await self._write(CHARGED, (charge_id, saga_id))

    async def release(self, saga_id: str) -> None:
        """Give the reservation back."""
        await self._write(RELEASED, (saga_id,))

    async def _write(self, statement: str, values: tuple[object, ...]) -> None:
        async with self._lock:
            await self._connection.execute(statement, values)
            await self._connection.commit()


def answer_of(envelope: Envelope, charge_id: str, added: dict[str, Any]) -> dict[str, Any]:
    """The answer for upstream."""
    data = {"payment": {"charge_id": charge_id}, **added}
    return {"saga_id": envelope["saga_id"], "outcome": "executed", "data": data}


async def serve(port: int, run: Callable[[Envelope], Awaitable[dict[str, Any]]]) -> None:
    """Serve `POST /sagas` on loopback until the process is ended."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(await run(await request.json()))

    app = web.Application()
    app.router.add_post("/sagas", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


def options(*names: str) -> argparse.Namespace:
    """`--port`, `--neighbours`, and what else the service needs; `--downstream` may be missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--neighbours", required=True)
    parser.add_argument("--downstream", default="")
    for name in names:
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()
