"""The adapter for ASGI servers (uvicorn, hypercorn) and what mounts ASGI (FastAPI, Starlette)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from stage.core.errors import ConfigurationError
from stage.inbound.dispatch import dispatch
from stage.inbound.read import not_readable, too_large, too_slow
from stage.inbound.request import (
    PROBLEM_JSON,
    UNKNOWN_ADDRESS,
    Answer,
    HeaderPairs,
    Headers,
    Request,
)
from stage.inbound.service import Service
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SENT_ONCE = ("Host", "Content-Type", "Content-Length")
_ABSOLUTE = re.compile(r"\A[hH][tT][tT][pP][sS]?://[^/]*")
NOT_STARTED = (
    "the stage was not started: an application that is mounted gets no lifespan events;"
    " pass its lifespan to the outer one: FastAPI(lifespan=payment_app.lifespan)"
)


class AsgiApplication:
    """One stage as an ASGI 3 application for `http` and `lifespan`.

    `running` makes, starts and at its end drains one. Nothing is opened before the lifespan
    begins, and a second lifespan begins anew.
    """

    def __init__(self, running: Callable[[], AbstractAsyncContextManager[Service]]) -> None:
        self._running = running
        self._service: Service | None = None

    @asynccontextmanager
    async def lifespan(self, _outer: object = None) -> AsyncIterator[None]:
        """Start the stage, and drain it at the end: `FastAPI(lifespan=payment_app.lifespan)`.

        Raises ConfigurationError and StoreUnavailable.
        """
        async with self._running() as service:
            self._service = service
            try:
                yield
            finally:
                self._service = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection scope, as the server gives it."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case _:  # a WebSocket: closed before it is accepted, which is 403
                await send({"type": "websocket.close"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        started = False
        try:
            async with self.lifespan():
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
        except Exception as error:
            phase = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        if service is None:
            await _send_answer(_not_started(), scope, send)
            raise ConfigurationError(NOT_STARTED)
        request = _request(service, scope, receive)
        ambiguous = _ambiguous(request.headers)
        answered = ambiguous or await dispatch(service, request)
        await _send_answer(answered, scope, send)


def _request(service: Service, scope: Scope, receive: Receive) -> Request:
    prefix = quote(scope.get("root_path", "").rstrip("/"))
    raw_path = scope.get("raw_path")
    path = quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    path = _ABSOLUTE.sub("", path, count=1)  # some servers leave the form for proxies to us
    headers = HeaderPairs([(_text(name), _text(value)) for name, value in scope["headers"]])
    return Request(
        method=scope["method"],
        path=_below(path, prefix, quote(scope.get("app_root_path", "").rstrip("/"))),
        prefix=prefix,
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        scheme=scope.get("scheme", "http"),
        local_address=_local_address(scope),
        read_body=partial(_read_body, service, headers, receive),
    )


def _local_address(scope: Scope) -> str:
    """The address of the listener; empty at a socket file, whose path stands in its place.

    The port says nothing of that: some servers give it as text, and some have a name out of the
    URL of a request, with no port. A server that says no address may listen anywhere.
    """
    host = str((scope.get("server") or ("",))[0])
    if host.startswith("/"):  # gunicorn gives the first two letters of its path
        return ""
    return host or UNKNOWN_ADDRESS


def _below(path: str, prefix: str, outer: str) -> str:
    """The path below the one that the application is mounted under.

    Servers differ in whether the path holds the root_path; the specification says it does. Behind a
    proxy that takes its own part away, `FastAPI(root_path=)` puts that `outer` part into the
    root_path alone, and its mounts add theirs to it: the path begins with the rest of it.
    """
    for each in (prefix, prefix.removeprefix(outer)):
        if each and path.startswith(f"{each}/"):
            return path[len(each) :]
    return path


def _ambiguous(headers: Headers) -> Answer | None:
    """400 for a head that two readers understand in two ways, which some servers let pass.

    `stage serve` refuses it too: a gateway that goes by the other one of two lengths would take a
    part of one request for the next one.
    """
    twice = [name for name in SENT_ONCE if len(headers.getall(name, ())) > 1]
    framed_twice = headers.get("Content-Length", "") and headers.get("Transfer-Encoding", "")
    if not twice and not framed_twice:
        return None
    why = f"{twice[0]} stands twice" if twice else "the body has a length and chunks"
    problem = not_readable(why).problem()
    return Answer(status=problem.status, headers=(PROBLEM_JSON,), body=problem.encode(), close=True)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


async def _read_body(service: Service, headers: Headers, receive: Receive) -> bytes:
    """The body, capped and timed. Raises WireError 400, 408 or 413."""
    limit = service.limits.body_bytes_max
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(service.body_seconds_max):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise not_readable("the connection was closed within the body")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise too_large(limit)
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise too_slow(service.body_seconds_max) from None
    return b"".join(parts)


async def _send_answer(answer: Answer, scope: Scope, send: Send) -> None:
    pairs = [*answer.headers, ("Content-Length", str(len(answer.body)))]
    if answer.close and scope.get("http_version", "1.1").startswith("1"):
        pairs.append(("Connection", "close"))
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _not_started() -> Answer:
    problem = Problem(
        status=503,
        title="Not started",
        detail=NOT_STARTED,
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
    )
    return Answer(status=503, headers=(PROBLEM_JSON,), body=problem.encode())
