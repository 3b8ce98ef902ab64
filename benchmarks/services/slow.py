"""An external API that answers after a while, and says how many wait: `GET /waiting`."""

from __future__ import annotations

import argparse
import asyncio

from aiohttp import web

SECONDS = web.AppKey("seconds", float)
WAITING = web.AppKey("waiting", list[int])


async def charge(request: web.Request) -> web.Response:
    """Answer as the external API does, late."""
    await request.read()
    waiting = request.app[WAITING]
    waiting[0] += 1
    try:
        await asyncio.sleep(request.app[SECONDS])
    finally:
        waiting[0] -= 1
    return web.json_response({"id": "c-1"})


async def tell(request: web.Request) -> web.Response:
    """How many charges wait for their answer."""
    return web.json_response(request.app[WAITING][0])


async def serve(port: int, seconds: float) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app[SECONDS] = seconds
    app[WAITING] = [0]
    app.router.add_post("/charges", charge)
    app.router.add_get("/waiting", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True)
    given = options.parse_args()
    asyncio.run(serve(given.port, given.seconds))
