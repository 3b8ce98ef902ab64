"""The adapter for aiohttp: builds a Request, reads its body, writes the Answer as a response."""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict

from stage.inbound.dispatch import UNKNOWN_ROUTE, answer
from stage.inbound.problems import of_status, problem_answer
from stage.inbound.read import not_readable, too_large, too_slow
from stage.inbound.request import Answer, Request
from stage.inbound.routes import ROUTES, Route
from stage.inbound.service import Service

SERVER_HEADER = ("Server", "stage")
"""Without versions: they would say which defects to try."""
SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


def make_app() -> web.Application:
    """The application without its keys; `SERVICE` must be set before it starts."""
    # No body is decompressed, whatever route it comes to: none of ours takes such a one.
    app = web.Application(middlewares=[_others], handler_args={"auto_decompress": False})
    for route in ROUTES:
        app.router.add_route(route.method, route.template, partial(_handle, route))
    return app


async def _handle(route: Route, request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    canonical = _canonical(request)
    prefix = canonical[: -len(route.template)]
    received = _request(service, request, prefix)
    return _response(await answer(service, received, route.endpoint, canonical), request)


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
        service, _request(service, request, ""), endpoint, _canonical(request) or UNKNOWN_ROUTE
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
    return Request(
        method=request.method,
        path=url.raw_path[len(prefix) :],
        prefix=prefix,
        query=url.raw_query_string,
        headers=request.headers,
        scheme=request.scheme,
        read_body=partial(_read_body, service, request),
        parameters=request.match_info,
    )


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


__all__ = ["SERVER_HEADER", "SERVICE", "make_app"]
