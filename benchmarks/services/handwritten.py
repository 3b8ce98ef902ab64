"""The handler people write by hand: insert and commit, call, update and commit, hand on.

As a good engineer would write it with these packages and the same durability (WAL, FULL). It
promises less: a crash between two lines, a lost answer or a duplicate is not thought of.
"""

from __future__ import annotations

import argparse
import asyncio

import aiosqlite
from aiohttp import ClientSession, TCPConnector, web

from benchmarks.services.loop import run

DATABASE = web.AppKey("database", aiosqlite.Connection)
LOCK = web.AppKey("lock", asyncio.Lock)
NEIGHBOURS = web.AppKey("neighbours", str)
SESSION = web.AppKey("session", ClientSession)

TABLE = """
CREATE TABLE IF NOT EXISTS payment (
    saga_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, state TEXT NOT NULL, charge_id TEXT
)
"""
INSERT = "INSERT INTO payment VALUES (?, ?, ?, ?, 'pending', NULL)"
UPDATE = "UPDATE payment SET state = 'charged', charge_id = ? WHERE saga_id = ?"


async def handle(request: web.Request) -> web.Response:
    """Reserve, charge, record, hand on, answer."""
    envelope = await request.json()
    app, data = request.app, envelope["data"]
    session, url, database = app[SESSION], app[NEIGHBOURS], app[DATABASE]
    async with app[LOCK]:  # one connection: without it a commit takes half of another request along
        order = (envelope["saga_id"], data["order_id"], data["amount"], data["currency"])
        await database.execute(INSERT, order)
        await database.commit()
    async with session.post(f"{url}/charges", json={"amount": data["amount"]}) as response:
        charge = await response.json()
    async with app[LOCK]:
        await database.execute(UPDATE, (charge["id"], envelope["saga_id"]))
        await database.commit()
    data["payment"] = {"charge_id": charge["id"]}
    async with session.post(f"{url}/sagas", json=envelope) as response:
        answer = await response.json()
    added = {"payment": data["payment"], **answer["data"]}
    told = {"saga_id": envelope["saga_id"], "outcome": "executed", "data": added}
    return web.json_response(told)


async def serve(port: int, neighbours: str, database: str) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app[NEIGHBOURS] = neighbours
    app[LOCK] = asyncio.Lock()
    app[DATABASE] = connection = await aiosqlite.connect(database)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", TABLE):
        await connection.execute(statement)
    await connection.commit()
    app[SESSION] = ClientSession(connector=TCPConnector(limit=0))
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
    given = options.parse_args()
    run(serve(given.port, given.neighbours, given.database))
