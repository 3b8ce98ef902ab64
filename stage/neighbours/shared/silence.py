"""The two ways to give no answer: hold the connection, or break it."""

from __future__ import annotations

import asyncio

from aiohttp import web

GONE_POLL_SECONDS = 0.02
"""How often a held request checks whether its client went away."""


async def hang(request: web.Request) -> web.Response:
    """Send nothing until the client goes away. A server that stops cancels this."""
    # It polls because there is no event: aiohttp reports a lost client to a handler only by
    # cancelling it.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_POLL_SECONDS)
    return web.Response(status=500)


def drop(request: web.Request) -> web.Response:
    """Break the connection. The response returned here reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
