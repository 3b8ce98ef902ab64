"""The limit: the same handler with its two HTTP calls and no database at all."""

from __future__ import annotations

import argparse
import asyncio

from aiohttp import web

from benchmarks.services.loop import run
from benchmarks.services.outside import Client, client

NEIGHBOURS = web.AppKey("neighbours", str)
CLIENT = web.AppKey("client", Client)


async def handle(request: web.Request) -> web.Response:
    """Charge, hand on, answer."""
    envelope = await request.json()
    outside, url = request.app[CLIENT], request.app[NEIGHBOURS]
    charge = await outside.post(f"{url}/charges", {"amount": envelope["data"]["amount"]})
    envelope["data"]["payment"] = {"charge_id": charge["id"]}
    answer = await outside.post(f"{url}/sagas", envelope)
    data = {"payment": {"charge_id": charge["id"]}, **answer["data"]}
    answered = {"saga_id": envelope["saga_id"], "outcome": "executed", "data": data}
    return web.json_response(answered)


async def serve(port: int, neighbours: str, kind: str) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app[NEIGHBOURS] = neighbours
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
    options.add_argument("--client", choices=("session", "transport"), default="session")
    given = options.parse_args()
    run(serve(given.port, given.neighbours, given.client))
