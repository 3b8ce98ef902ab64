"""No gateway between two neighbours keeps an answer to a look-up (protocol 3.2)."""

from __future__ import annotations

from aiohttp import web

from stage.wire.headers import CACHE_CONTROL
from stage.wire.http import SAFE_METHODS


async def no_store(request: web.Request, response: web.StreamResponse) -> None:
    """Say so with every answer to a look-up, an error included: a signal of aiohttp."""
    if request.method in SAFE_METHODS:
        response.headers.setdefault(CACHE_CONTROL, "no-store")
