"""The adapter for aiohttp: builds a Request, reads its body, writes the Answer as a response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict

from stage.inbound.aiohttp_response import DirectResponse, fits
from stage.inbound.client_certificate import ClientCertificate
from stage.inbound.dispatch import UNKNOWN_ROUTE, answer
from stage.inbound.local import user_of
from stage.inbound.problems import of_status, problem_answer
from stage.inbound.read import not_readable, too_large, too_slow
from stage.inbound.request import UNKNOWN_ADDRESS, Answer, Door, Request
from stage.inbound.routes import ROUTES, Route, methods_of, open_route
from stage.inbound.service import Service
from stage.wire.envelope import SAGA_ID_RE

SERVER_HEADER = ("Server", "stage")
"""Without versions: they would say which defects to try."""
CALLER: web.RequestKey[str] = web.RequestKey("caller", str)
"""Under this key a request has the name of its caller, once it is answered."""
SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


class Connection(web.RequestHandler):
    """A connection whose caller may have shown a certificate, which its listener verified."""

    __slots__ = ("certificate",)

    certificate: ClientCertificate | None


class Doors:
    """The doors that this process has opened itself; those of another server are none of them.

    Without an admin port there is one door, with all that is served.
    """

    def __init__(self) -> None:
        self.admin_port: int | None = None
        self.beside: str | None = None
        """The path of the socket beside the database, which only its owner may open."""


DOORS: web.AppKey[Doors] = web.AppKey("doors", Doors)
DirectHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse] | None]
"""Handles a request without the router; None where only the router knows it."""
_START: Final = "/sagas"
_BEFORE_ID, _BEHIND_ID = "/sagas/", "/compensate"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


class Mount(NamedTuple):
    """Where a request is answered: the stage, its doors, and the path that it is mounted under."""

    service: Service
    doors: Doors
    prefix: str


def make_app() -> web.Application:
    """The application without its keys; `SERVICE` must be set before it starts."""
    # No body is decompressed, whatever route it comes to: none of ours takes such a one.
    app = web.Application(middlewares=[_others], handler_args={"auto_decompress": False})
    app[DOORS] = Doors()
    for route in ROUTES:
        handle = partial(_handle, route)
        for method in methods_of(route):
            app.router.add_route(method, route.template, handle, expect_handler=expect_later)
    return app


async def _handle(route: Route, request: web.Request) -> web.StreamResponse:
    canonical = _canonical(request)
    mount = Mount(request.app[SERVICE], request.app[DOORS], canonical[: -len(route.template)])
    received = _routed(mount, request, request.match_info)
    return _response(await _answered(mount.service, request, received, route, canonical))


def direct(app: web.Application) -> DirectHandler | None:
    """Handles starts and requests to compensate without the router.

    That takes as long as all checks before a body. None where the author has made requests take
    another way: by middlewares or signals.
    """
    if list(app.middlewares) != [_others] or app.on_response_prepare:
        return None
    mount = Mount(app[SERVICE], app[DOORS], "")
    execute, compensate = (
        next(route for route in ROUTES if route.name == name) for name in ("execute", "compensate")
    )

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse] | None:
        path = request.raw_path
        if request.method != "POST":
            return None
        if path == _START:
            return _directly(mount, request, execute, _NO_PARAMETERS)
        saga_id = saga_id_to_compensate(path)
        if saga_id is None:
            return None
        return _directly(mount, request, compensate, {"saga_id": saga_id})

    return handle


def saga_id_to_compensate(path: str) -> str | None:
    """The saga id in a path that asks to compensate it, without escapes or query; None otherwise.

    A saga id holds nothing that a path escapes, so that the router would find the same one.
    """
    if not (path.startswith(_BEFORE_ID) and path.endswith(_BEHIND_ID)):
        return None
    saga_id = path[len(_BEFORE_ID) : -len(_BEHIND_ID)]
    return saga_id if SAGA_ID_RE.fullmatch(saga_id) else None


async def _directly(
    mount: Mount, request: web.BaseRequest, route: Route, parameters: Mapping[str, str]
) -> web.StreamResponse:
    received = _request(mount, request, parameters, request.raw_path, "")
    answered = await _answered(mount.service, request, received, route, route.template)
    if fits(answered, request):
        return DirectResponse(answered, SERVER_HEADER[1])
    return _response(answered)


async def _answered(
    service: Service, request: web.BaseRequest, received: Request, route: Route, canonical: str
) -> Answer:
    answered = await answer(service, received, route, canonical)
    request[CALLER] = service.admission.shares.caller(received.about.principal.name)
    return answered


@web.middleware
async def _others(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Span and problem documents for requests that fit no route of ours.

    They fit none at all, or a route that the author added to the application.
    """
    matched = request.match_info.handler
    if isinstance(matched, partial) and matched.func is _handle:
        return await handler(request)
    responses: list[web.StreamResponse] = []

    async def endpoint(_service: Service, received: Request) -> Answer:
        try:
            responses.append(await handler(request))
        except web.HTTPException as error:
            problem = of_status(error.status, error.reason, error.text or "")
            allow = error.headers.get("Allow")
            return problem_answer(received, problem, *([("Allow", allow)] if allow else ()))
        return Answer(status=responses[0].status)

    mount = Mount(request.app[SERVICE], request.app[DOORS], "")
    answered = await answer(
        mount.service,
        _routed(mount, request, request.match_info),
        open_route(endpoint),
        _canonical(request) or UNKNOWN_ROUTE,
    )
    if not responses:
        return _response(answered)
    for name, value in (*answered.headers, SERVER_HEADER):
        responses[0].headers.setdefault(name, value)
    return responses[0]


def _canonical(request: web.Request) -> str:
    """The template of the path, with the paths of the applications it is mounted in."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _routed(mount: Mount, request: web.Request, parameters: Mapping[str, str]) -> Request:
    url = request.rel_url
    path = url.raw_path[len(mount.prefix) :]
    return _request(mount, request, parameters, path, url.raw_query_string)


def _request(
    mount: Mount,
    request: web.BaseRequest,
    parameters: Mapping[str, str],
    path: str,
    query: str,
) -> Request:
    door, address, user = _came_in(request, mount.doors)
    service = mount.service
    return Request(
        method=request.method,
        path=path,
        prefix=mount.prefix,
        query=query,
        headers=request.headers,
        scheme=request.scheme,
        door=door,
        local_address=address,
        local_user=user,
        certificate=_certificate(request),
        read_body=partial(
            read_body, request, service.limits.body_bytes_max, service.body_seconds_max
        ),
        parameters=parameters,
    )


def _came_in(request: web.BaseRequest, doors: Doors) -> tuple[Door, str, str]:
    """The door, the address of it, and the user of this machine at the local one."""
    transport = request.transport
    name = None if transport is None else transport.get_extra_info("sockname")
    if transport is not None and isinstance(name, str | bytes):
        if name != doors.beside:
            return Door.ONLY, "", ""  # of another server, which lets in those that it likes
        return Door.LOCAL, "", user_of(transport.get_extra_info("socket"))
    if not isinstance(name, tuple):
        return Door.ONLY, UNKNOWN_ADDRESS, ""  # it has gone
    admin_port = doors.admin_port
    if admin_port is None:
        return Door.ONLY, name[0], ""
    return Door.ADMIN if name[1] == admin_port else Door.PUBLIC, name[0], ""


def _certificate(request: web.BaseRequest) -> ClientCertificate | None:
    connection = request.protocol
    return connection.certificate if isinstance(connection, Connection) else None


async def expect_later(request: web.Request) -> None:
    """Ask for no body yet: one that will be refused by its head need not be sent.

    `read_body` asks for it. Raises HTTPExpectationFailed for another expectation.
    """
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def read_body(request: web.BaseRequest, limit: int, seconds_max: float) -> bytes:
    """The body, capped and timed. Raises WireError 400, 408 or 413."""
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    if length == 0 or not request.body_exists:
        return b""
    content = request.content
    if content.is_eof() and content.exception() is None:  # most bodies come with their head
        return content.read_nowait()  # its decoder measures it
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds_max):
            if request.headers.get(hdrs.EXPECT) and request.version == HttpVersion11:
                await request.writer.write(_CONTINUE)
                request.writer.output_size = 0  # the answer is still to begin
            async for chunk in content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                parts.append(chunk)
    except TimeoutError:
        raise too_slow(seconds_max) from None
    except RequestPayloadError as error:
        raise not_readable(str(error)) from None
    except ConnectionError:  # the caller has gone: no defect, and there is nobody to answer
        raise not_readable("the connection was closed within the body") from None
    return b"".join(parts)


def _response(answered: Answer) -> web.Response:
    headers = CIMultiDict((*answered.headers, SERVER_HEADER))
    response = web.Response(status=answered.status, body=answered.body, headers=headers)
    if answered.close:
        response.force_close()
    return response


__all__ = [
    "CALLER",
    "DOORS",
    "Connection",
    "DirectHandler",
    "SERVER_HEADER",
    "SERVICE",
    "direct",
    "expect_later",
    "make_app",
    "read_body",
]
