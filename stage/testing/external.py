"""A fake external API behind a real port: the effects of `FakeApi`, over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from aiohttp import ClientSession, web

from stage.core.events import Request
from stage.testing.effects import FakeApi
from stage.wire.headers import IDEMPOTENCY_KEY

EFFECTS: Final = "/effects"
LAND: Final = "/land/{key:.+}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Where the webhooks of a fake go, and what signs them."""

    url: str
    secret: bytes


def make_external(api: FakeApi, hooks: Hooks | None = None) -> web.Application:
    """Serves every method and path by `api`. `GET /effects` shows what stands there, by key.

    `POST /land/KEY` ends the call that is pending by that key, and sends its webhook to `hooks`.
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

    async def land(request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if not api.land(key):
            known = {"code": "unknown_key", "pending": sorted(api.pending)}
            return web.json_response(known, status=404)
        hooked = None if hooks is None else api.webhook(key, hooks.secret)
        if hooks is None or hooked is None:
            return web.json_response({"landed": key, "webhook": None})
        headers = {"Content-Type": "application/json", **hooked[0]}
        async with (
            ClientSession() as session,
            session.post(hooks.url, data=hooked[1], headers=headers) as answer,
        ):
            return web.json_response({"landed": key, "webhook": answer.status})

    app = web.Application()
    app.router.add_get(EFFECTS, effects)
    app.router.add_post(LAND, land)
    app.router.add_route("*", "/{path:.*}", answer)
    return app
