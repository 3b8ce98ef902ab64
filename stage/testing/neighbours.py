"""A stage served in this process, between the two neighbours that misbehave by script."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap import build_app
from stage.config import Config
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.shared.serve import SHUTDOWN_SECONDS
from stage.neighbours.upstream.app import make_app as make_upstream
from stage.testing.effects import FakeApi
from stage.testing.external import make_external

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Where each is reached. A neighbour's misbehaviour is the body of `PUT {url}/script`."""

    upstream: str
    stage: str
    downstream: str
    apis: Mapping[str, str]
    """The fakes of external APIs, by their names."""


@asynccontextmanager
async def served(
    stage: StageDeclaration[Any, Any],
    externals: Mapping[str, str],
    *,
    apis: Mapping[str, FakeApi] | None = None,
) -> AsyncIterator[Neighbours]:
    """Serve all three, with a database in memory and without names of callers.

    `externals` are URLs of external APIs that run, `apis` fakes that are served too.
    """
    fakes = {f"api {name}": make_external(api) for name, api in (apis or {}).items()}
    names = ("upstream", "stage", "downstream", *fakes)
    doors = {name: socket.create_server((HOST, 0)) for name in names}
    urls = {name: f"http://{HOST}:{door.getsockname()[1]}" for name, door in doors.items()}
    async with AsyncExitStack() as stack:
        for door in doors.values():
            stack.callback(door.close)
        at = {name.removeprefix("api "): urls.pop(name) for name in fakes}
        config = Config(
            auth="none",
            database="sqlite:///:memory:",
            drain_seconds=0.1,
            upstreams={"upstream": urls["upstream"]},
            downstreams={"downstream": urls["downstream"]},
            externals={**externals, **at},
        )
        await _start(stack, doors, {**_neighbours_of(urls["stage"]), **fakes})
        await _start(stack, doors, {"stage": build_app(stage, config)})
        yield Neighbours(**urls, apis=at)


@asynccontextmanager
async def beside(stage: str, apis: Mapping[str, FakeApi]) -> AsyncIterator[Neighbours]:
    """Serve the two neighbours and the fakes around a stage that another process serves."""
    fakes = {f"api {name}": make_external(api) for name, api in apis.items()}
    apps = {**_neighbours_of(stage), **fakes}
    doors = {name: socket.create_server((HOST, 0)) for name in apps}
    urls = {name: f"http://{HOST}:{door.getsockname()[1]}" for name, door in doors.items()}
    async with AsyncExitStack() as stack:
        for door in doors.values():
            stack.callback(door.close)
        at = {name.removeprefix("api "): urls.pop(name) for name in fakes}
        await _start(stack, doors, apps)
        yield Neighbours(**urls, stage=stage, apis=at)


def _neighbours_of(stage: str) -> dict[str, web.Application]:
    return {
        "downstream": make_downstream(name="downstream", upstream=stage),
        "upstream": make_upstream(name="upstream", stage=stage),
    }


async def _start(
    stack: AsyncExitStack, doors: Mapping[str, socket.socket], apps: Mapping[str, web.Application]
) -> None:
    """Serve these until the stack is left."""
    for name, app in apps.items():
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, doors[name]).start()
