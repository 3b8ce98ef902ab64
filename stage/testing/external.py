"""A fake external API behind a real port: the effects of `FakeApi`, over HTTP."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from aiohttp import web

from stage.core.events import Request
from stage.testing.effects import FakeApi
from stage.wire.headers import IDEMPOTENCY_KEY

EFFECTS: Final = "/effects"


def make_external(api: FakeApi) -> web.Application:
    """Serves every method and path by `api`. `GET /effects` shows what stands there, by key.

    A request is known by its `Idempotency-Key`; one without it by the last part of its path.
    """

    async def answer(request: web.Request) -> web.Response:
        path = request.rel_url.raw_path_qs
        key = request.headers.get(IDEMPOTENCY_KEY) or unquote(path.rpartition("/")[2])
        asked = Request(method=request.method, path=path, body=await request.read())
        answered = api.answer(asked, key)
        headers = {"Content-Type": "application/json", **dict(answered.headers)}
        return web.Response(status=answered.status, body=answered.body, headers=headers)

    async def effects(_request: web.Request) -> web.Response:
        return web.json_response(api.effects)

    app = web.Application()
    app.router.add_get(EFFECTS, effects)
    app.router.add_route("*", "/{path:.*}", answer)
    return app
