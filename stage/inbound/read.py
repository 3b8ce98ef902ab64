"""Reads a request: its body within a size and a time, its budget, its preferences."""

from __future__ import annotations

import asyncio

from aiohttp import web

from stage.inbound.service import Edge
from stage.wire import headers as h
from stage.wire.envelope import check_saga_id
from stage.wire.problem import WireError


async def read_body(request: web.Request, edge: Edge) -> bytes:
    """The whole body. Raises WireError 408, 413 or 415."""
    check_type(request)
    return await read_any_body(request, edge)


async def read_any_body(request: web.Request, edge: Edge) -> bytes:
    """The whole body, whatever it says it is. Raises WireError 408 or 413."""
    _check_encoding(request)
    length = request.content_length
    if length is not None and length > edge.limits.body_bytes_max:
        raise _too_large(edge)
    if length == 0 or not request.body_exists:
        return b""
    content = request.content
    if content.is_eof() and content.exception() is None:  # most bodies come with their head
        return content.read_nowait()  # who decodes it measures it
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(edge.body_seconds_max):
            async for chunk in content.iter_any():
                size += len(chunk)
                if size > edge.limits.body_bytes_max:
                    raise _too_large(edge)
                parts.append(chunk)
    except TimeoutError:
        raise WireError(
            408,
            "Body too slow",
            f"the body did not arrive within {edge.body_seconds_max:g} s",
            hint="send the body at once; nothing was executed",
        ) from None
    return b"".join(parts)


def check_type(request: web.Request) -> None:
    """Raise WireError 415 for a body that does not say it is JSON in UTF-8."""
    h.check_content_type(request.headers.get("Content-Type"))


def _check_encoding(request: web.Request) -> None:
    for encoding in request.headers.getall("Content-Encoding", []):
        h.check_content_type(h.CONTENT_JSON, encoding)


def _too_large(edge: Edge) -> WireError:
    return WireError(
        413,
        "Body too large",
        f"the body is larger than {edge.limits.body_bytes_max} bytes",
        hint="GET /.well-known/stage shows the limits",
    )


def deadline_of(request: web.Request, deadline: float | None, now: float) -> float | None:
    """The smaller of the envelope's deadline and what the budget header leaves (protocol 3.1)."""
    budget = h.parse_budget_ms(request.headers.getall(h.SAGA_BUDGET_MS, []))
    if budget is None:
        return deadline
    by_budget = now + budget
    return by_budget if deadline is None else min(deadline, by_budget)


def wait_of(request: web.Request, default: float, most: float) -> tuple[float, bool]:
    """How long the caller wants to wait, in seconds, and whether it wants 202 at once."""
    preferences = request.headers.getall(h.PREFER, None)
    if preferences is None:
        return min(default, most), False
    prefer = h.parse_prefer(preferences)
    wait = default if prefer.wait is None else prefer.wait
    return min(wait, most), prefer.respond_async


def saga_id_of(request: web.Request) -> str:
    """The saga id in the path. Raises WireError 422."""
    saga_id = request.match_info["saga_id"]
    check_saga_id(saga_id)
    return saga_id
