"""The adapter for aiohttp: builds a Request, reads its body, writes the Answer as a response."""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict

from stage.inbound.client_certificate import ClientCertificate
from stage.inbound.dispatch import UNKNOWN_ROUTE, answer
from stage.inbound.local import user_of
from stage.inbound.problems import of_status, problem_answer
from stage.inbound.read import not_readable, too_large, too_slow
from stage.inbound.request import Answer, Door, Request
from stage.inbound.routes import ROUTES, Route, open_route
from stage.inbound.service import Service

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
    """The ports of this process: it is set once they are open. Without an admin port there is
    one door, with all that is served."""

    def __init__(self) -> None:
        self.admin_port: int | None = None


DOORS: web.AppKey[Doors] = web.AppKey("doors", Doors)


def make_app() -> web.Application:
    """The application without its keys; `SERVICE` must be set before it starts."""
    # No body is decompressed, whatever route it comes to: none of ours takes such a one.
    app = web.Application(middlewares=[_others], handler_args={"auto_decompress": False})
    app[DOORS] = Doors()
    for route in ROUTES:
        app.router.add_route(route.method, route.template, partial(_handle, route))
    return app


async def _handle(route: Route, request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    canonical = _canonical(request)
    prefix = canonical[: -len(route.template)]
    received = _request(service, request, prefix)
    answered = await answer(service, received, route, canonical)
    request[CALLER] = service.admission.shares.caller(received.about.principal.name)
    return _response(answered, request)


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

    service = request.app[SERVICE]
    answered = await answer(
        service,
        _request(service, request, ""),
        open_route(endpoint),
        _canonical(request) or UNKNOWN_ROUTE,
    )
    if not responses:
        return _response(answered, request)
    for name, value in (*answered.headers, SERVER_HEADER):
        responses[0].headers.setdefault(name, value)
    return responses[0]


def _canonical(request: web.Request) -> str:
    """The template of the path, with the paths of the applications it is mounted in."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _request(service: Service, request: web.Request, prefix: str) -> Request:
    url = request.rel_url
    door, address, user = _came_in(request)
    return Request(
        method=request.method,
        path=url.raw_path[len(prefix) :],
        prefix=prefix,
        query=url.raw_query_string,
        headers=request.headers,
        scheme=request.scheme,
        door=door,
        local_address=address,
        local_user=user,
        certificate=_certificate(request),
        read_body=partial(_read_body, service, request),
        parameters=request.match_info,
    )


def _came_in(request: web.Request) -> tuple[Door, str, str]:
    """The door, the address of it, and the user of this machine at the local one."""
    transport = request.transport
    name = None if transport is None else transport.get_extra_info("sockname")
    if transport is not None and isinstance(name, str | bytes):
        return Door.LOCAL, "", user_of(transport.get_extra_info("socket"))
    if not isinstance(name, tuple):
        return Door.ONLY, "", ""  # it has gone
    admin_port = request.app[DOORS].admin_port
    if admin_port is None:
        return Door.ONLY, name[0], ""
    return Door.ADMIN if name[1] == admin_port else Door.PUBLIC, name[0], ""


def _certificate(request: web.Request) -> ClientCertificate | None:
    connection = request.protocol
    return connection.certificate if isinstance(connection, Connection) else None


async def _read_body(service: Service, request: web.Request) -> bytes:
    """The body, capped and timed. Raises WireError 400, 408 or 413."""
    limit = service.limits.body_bytes_max
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
        async with asyncio.timeout(service.body_seconds_max):
            async for chunk in content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                parts.append(chunk)
    except TimeoutError:
        raise too_slow(service.body_seconds_max) from None
    except RequestPayloadError as error:
        raise not_readable(str(error)) from None
    except ConnectionError:  # the caller has gone: no defect, and there is nobody to answer
        raise not_readable("the connection was closed within the body") from None
    return b"".join(parts)


def _response(answered: Answer, request: web.Request) -> web.Response:
    headers = CIMultiDict((*answered.headers, SERVER_HEADER))
    response = web.Response(status=answered.status, body=answered.body, headers=headers)
    if answered.close:
        response.force_close()
    return response


__all__ = ["CALLER", "DOORS", "Connection", "SERVER_HEADER", "SERVICE", "make_app"]
