"""A stage served in this process, between the two neighbours that misbehave by script."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aiohttp import web

from stage.authoring.declaration import StageDeclaration
from stage.authoring.steps import CallStep
from stage.bootstrap import build_app
from stage.config import Config
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.shared.serve import SHUTDOWN_SECONDS
from stage.neighbours.upstream.app import make_app as make_upstream
from stage.neighbours.upstream.script import Script, ScriptName
from stage.ports.connection import Connection
from stage.testing.effects import FakeApi
from stage.testing.external import Hooks, make_external

HOST: Final = "127.0.0.1"
BEGUN_ELSEWHERE: Final = Script(ScriptName.TOMBSTONE)
"""A test sends its sagas to the stage in the name of this neighbour, whose books lack them."""


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
    webhook_secrets: Mapping[str, bytes] | None = None,
) -> AsyncIterator[Neighbours]:
    """Serve all three, with a database in memory and without names of callers.

    `externals` are URLs of external APIs that run, `apis` fakes that are served too; an API that
    neither names has a `FakeApi`. `webhook_secrets` are those that its webhooks are signed with.
    """
    called = {step.rules.peer for step in stage.steps if isinstance(step, CallStep)}
    usual = {name: FakeApi() for name in sorted(called - set(externals))}
    every = {**usual, **(apis or {})}
    names = ("upstream", "stage", "downstream", *(f"api {name}" for name in every))
    doors = {name: socket.create_server((HOST, 0)) for name in names}
    urls = {name: f"http://{HOST}:{door.getsockname()[1]}" for name, door in doors.items()}
    async with AsyncExitStack() as stack:
        for door in doors.values():
            stack.callback(door.close)
        at = {name: urls.pop(f"api {name}") for name in every}
        fakes = _fakes_of(every, urls["stage"], webhook_secrets or {})
        config = Config(
            auth="none",
            database="sqlite:///:memory:",
            drain_seconds=0.1,
            upstreams={"upstream": urls["upstream"]},
            downstreams={"downstream": urls["downstream"]},
            externals=await _with_secrets({**externals, **at}, webhook_secrets or {}, stack),
        )
        await _start(stack, doors, {**_neighbours_of(urls["stage"]), **fakes})
        await _start(stack, doors, {"stage": build_app(stage, config)})
        yield Neighbours(**urls, apis=at)


@asynccontextmanager
async def beside(
    stage: str, apis: Mapping[str, FakeApi], webhook_secrets: Mapping[str, bytes]
) -> AsyncIterator[Neighbours]:
    """Serve the two neighbours and the fakes around a stage that another process serves."""
    fakes = _fakes_of(apis, stage, webhook_secrets)
    apps = {**_neighbours_of(stage), **fakes}
    doors = {name: socket.create_server((HOST, 0)) for name in apps}
    urls = {name: f"http://{HOST}:{door.getsockname()[1]}" for name, door in doors.items()}
    async with AsyncExitStack() as stack:
        for door in doors.values():
            stack.callback(door.close)
        at = {name.removeprefix("api "): urls.pop(name) for name in fakes}
        await _start(stack, doors, apps)
        yield Neighbours(**urls, stage=stage, apis=at)


def _fakes_of(
    apis: Mapping[str, FakeApi], stage: str, secrets: Mapping[str, bytes]
) -> dict[str, web.Application]:
    """The fakes behind ports; those whose secret the stage knows send it their webhooks."""

    def hooks_of(name: str) -> Hooks | None:
        secret = secrets.get(name)
        return None if secret is None else Hooks(url=f"{stage}/webhooks/{name}", secret=secret)

    return {f"api {name}": make_external(api, hooks_of(name)) for name, api in apis.items()}


async def _with_secrets(
    urls: Mapping[str, str], secrets: Mapping[str, bytes], stack: AsyncExitStack
) -> dict[str, str | Connection]:
    """The APIs, each with a file of its secret that is gone when the stack is left."""
    if not secrets:
        return dict(urls)
    folder = await asyncio.to_thread(TemporaryDirectory[str], prefix="stage-webhooks-")
    stack.push_async_callback(asyncio.to_thread, folder.cleanup)
    files = await asyncio.to_thread(_write_secrets, Path(folder.name), secrets)
    return {**urls} | {
        name: Connection(url=urls.get(name, ""), webhook_secret_file=str(file))
        for name, file in files.items()
    }


def _write_secrets(folder: Path, secrets: Mapping[str, bytes]) -> dict[str, Path]:
    files = {name: folder / name for name in secrets}
    for name, file in files.items():
        file.write_bytes(secrets[name])
        file.chmod(0o600)
    return files


def _neighbours_of(stage: str) -> dict[str, web.Application]:
    return {
        "downstream": make_downstream(name="downstream", upstream=stage),
        "upstream": make_upstream(name="upstream", stage=stage, script=BEGUN_ELSEWHERE),
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
