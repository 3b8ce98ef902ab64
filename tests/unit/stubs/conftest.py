"""Neighbours on real sockets, and a stage between them that answers by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.waits import HANG_SECONDS

Client = TestClient[Any, Any]


class Start(Protocol):
    """Serves an application, on a free port unless one is named."""

    def __call__(self, app: web.Application, port: int = 0) -> Awaitable[Client]:
        """The client that speaks to it."""
        ...


@dataclass
class Asked:
    """One request that reached the stage."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """The next answer of the stage: a code, or None to break the connection."""

    status: int | None
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


class FakeStage:
    """Answers each path with what stands for it, the last one again and again."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: dict[str, list[Reply]] = {}
        self.changed = asyncio.Condition()
        self.app = web.Application()
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    def says(self, route: str, *replies: Reply) -> None:
        """Let `route` ("POST /sagas", the saga id written as *) be answered so."""
        self.replies[route] = list(replies)

    def requests(self, route: str) -> list[Asked]:
        """The requests to a route, in order."""
        return [asked for asked in self.asked if route == _route(asked.method, asked.path)]

    async def reached(self, route: str, times: int = 1) -> None:
        """Wait until a route was asked so often."""
        async with asyncio.timeout(HANG_SECONDS), self.changed:
            await self.changed.wait_for(lambda: len(self.requests(route)) >= times)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.method, request.path, headers, body))
        async with self.changed:
            self.changed.notify_all()
        replies = self.replies.get(_route(request.method, request.path), [Reply(404)])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.status is None:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(
            status=reply.status or 500,
            body=reply.body,
            content_type="application/json",
            headers=reply.headers,
        )


def _route(method: str, path: str) -> str:
    parts = path.split("/")
    if len(parts) > 2:
        parts[2] = "*"
    return f"{method} {'/'.join(parts)}"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Serves applications on free ports until the test ends."""
    async with AsyncExitStack() as stack:

        async def started(app: web.Application, port: int = 0) -> Client:
            server = TestServer(app, port=port)
            await server.start_server(shutdown_timeout=0.1)
            return await stack.enter_async_context(TestClient(server))

        yield started


@pytest.fixture
def stage() -> FakeStage:
    """A stage that answers by script."""
    return FakeStage()


@pytest.fixture
async def stage_url(stage: FakeStage, start: Start) -> str:
    """Where it listens."""
    return str((await start(stage.app)).make_url("/"))
