"""An external API that counts what stands, and stages that need nothing but it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Stage
from tests.scenario.chain import HOST, SERVICE, Chain, running_chain

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


class World:
    """A POST to `/do/{thing}` makes it stand under its key, `/undo/{thing}` takes it back."""

    def __init__(self) -> None:
        self.url = ""
        self.standing: dict[str, set[str]] = {}
        self.seen: list[str] = []
        self.behaves: dict[str, Behaviour] = {}

    def count(self, thing: str) -> int:
        """How often it stands."""
        return len(self.standing.get(thing, ()))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        await request.read()
        self.seen.append(f"{request.method} {request.path}")
        _, verb, thing = request.path.split("/", 2)
        key = request.headers.get("Idempotency-Key", "")
        stem = key.removesuffix(":undo").removesuffix(":do")
        if verb == "do":
            self.standing.setdefault(thing, set()).add(stem)
        elif verb == "undo":
            self.standing.setdefault(thing, set()).discard(stem)
        behaviour = self.behaves.get(f"{verb}/{thing}")
        if behaviour is not None:
            return await behaviour(request)
        return web.json_response({"id": f"{thing}-1", "key": key})


@asynccontextmanager
async def running_world(
    folder: Path, stage: Stage[Any, Any], **options: Any
) -> AsyncIterator[tuple[Chain, World]]:
    """A chain around that stage; its external API `psp` is a World."""
    world = World()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", world.handle)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    world.url = f"http://{HOST}:{server.port}"
    try:
        chosen = {"drain_seconds": 0.5, "externals": {"psp": world.url}, **options}
        async with running_chain(folder, stage=stage, **chosen) as chain:
            yield chain, world
    finally:
        await server.close()


def live(chain: Chain) -> int:
    """Runs in memory."""
    assert chain.app is not None
    engine: Any = chain.app[SERVICE].engine
    return int(engine.live)
