"""The handler people write by hand: insert and commit, call, update and commit, hand on.

As a good engineer would write it with these packages and the same durability (WAL, FULL), and once
more with a dozen lines of group commit, which few write. Both promise less: a crash between two
lines, a lost answer or a duplicate is not thought of.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import threading
from queue import SimpleQueue
from typing import Protocol

import aiosqlite
from aiohttp import web

from benchmarks.services.loop import run
from benchmarks.services.outside import Client, client

TABLE = """
CREATE TABLE IF NOT EXISTS payment (
    saga_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, state TEXT NOT NULL, charge_id TEXT
)
"""
INSERT = "INSERT INTO payment VALUES (?, ?, ?, ?, 'pending', NULL)"
UPDATE = "UPDATE payment SET state = 'charged', charge_id = ? WHERE saga_id = ?"
DURABLE = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", TABLE)
BATCH_MAX = 64
"""Writes that share a commit: as many as units of a stage do."""

Values = tuple[object, ...]
Write = tuple[str, Values, "asyncio.Future[None]"]


class Database(Protocol):
    """Makes one write durable."""

    async def write(self, statement: str, values: Values) -> None:
        """Return once it is committed."""
        ...


class Alone:
    """As people write it: aiosqlite, and a commit for each write."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    async def write(self, statement: str, values: Values) -> None:
        """See Database. Without the lock a commit takes half of another request along."""
        async with self._lock:
            await self._connection.execute(statement, values)
            await self._connection.commit()


class Grouped:
    """Writes that wait share a commit, made by a thread."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in DURABLE:
            self._connection.execute(statement)
        self._waiting: SimpleQueue[Write] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._commit, daemon=True).start()

    async def write(self, statement: str, values: Values) -> None:
        """See Database."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.put((statement, values, done))
        await done

    def _commit(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < BATCH_MAX and not self._waiting.empty():
                batch.append(self._waiting.get())
            error = self._written(batch)
            self._loop.call_soon_threadsafe(_settle, batch, error)

    def _written(self, batch: list[Write]) -> Exception | None:
        try:
            self._connection.execute("BEGIN")
            for statement, values, _ in batch:
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._connection.execute("ROLLBACK")
            return error
        return None


def _settle(batch: list[Write], error: Exception | None) -> None:
    for _, _, done in batch:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)


DATABASE = web.AppKey("database", Database)
NEIGHBOURS = web.AppKey("neighbours", str)
CLIENT = web.AppKey("client", Client)


async def handle(request: web.Request) -> web.Response:
    """Reserve, charge, record, hand on, answer."""
    envelope = await request.json()
    app, data = request.app, envelope["data"]
    outside, url, database = app[CLIENT], app[NEIGHBOURS], app[DATABASE]
    order = (envelope["saga_id"], data["order_id"], data["amount"], data["currency"])
    await database.write(INSERT, order)
    charge = await outside.post(f"{url}/charges", {"amount": data["amount"]})
    await database.write(UPDATE, (charge["id"], envelope["saga_id"]))
    data["payment"] = {"charge_id": charge["id"]}
    answer = await outside.post(f"{url}/sagas", envelope)
    added = {"payment": data["payment"], **answer["data"]}
    answered = {"saga_id": envelope["saga_id"], "outcome": "executed", "data": added}
    return web.json_response(answered)


async def opened(path: str, commits: str) -> Database:
    """The database with its table; `commits` are `alone` or `grouped`."""
    if commits == "grouped":
        return Grouped(path)
    connection = await aiosqlite.connect(path)
    for statement in DURABLE:
        await connection.execute(statement)
    await connection.commit()
    return Alone(connection)


async def serve(port: int, neighbours: str, database: str, commits: str, kind: str) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app[NEIGHBOURS] = neighbours
    app[DATABASE] = await opened(database, commits)
    app[CLIENT] = await client(kind)
    app.router.add_post("/sagas", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--neighbours", required=True)
    options.add_argument("--database", required=True)
    options.add_argument("--commits", choices=("alone", "grouped"), default="alone")
    options.add_argument("--client", choices=("session", "transport"), default="session")
    given = options.parse_args()
    run(serve(given.port, given.neighbours, given.database, given.commits, given.client))
