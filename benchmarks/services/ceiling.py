"""The limit: the same handler with its two HTTP calls and no database at all."""

from __future__ import annotations

import argparse
import asyncio

from aiohttp import ClientSession, TCPConnector, web

from benchmarks.services.loop import run

NEIGHBOURS = web.AppKey("neighbours", str)
SESSION = web.AppKey("session", ClientSession)


async def handle(request: web.Request) -> web.Response:
    """Charge, hand on, answer."""
    envelope = await request.json()
    session, url = request.app[SESSION], request.app[NEIGHBOURS]
    amount = {"amount": envelope["data"]["amount"]}
    async with session.post(f"{url}/charges", json=amount) as response:
        charge = await response.json()
    envelope["data"]["payment"] = {"charge_id": charge["id"]}
    async with session.post(f"{url}/sagas", json=envelope) as response:
        answer = await response.json()
    data = {"payment": {"charge_id": charge["id"]}, **answer["data"]}
    told = {"saga_id": envelope["saga_id"], "outcome": "executed", "data": data}
    return web.json_response(told)


async def serve(port: int, neighbours: str) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app[NEIGHBOURS] = neighbours
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
    given = options.parse_args()
    run(serve(given.port, given.neighbours))
