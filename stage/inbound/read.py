"""Reads a request: its body, its budget, its preferences, and the saga in its path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from stage.inbound.request import Request
from stage.wire import headers as h
from stage.wire.envelope import SAGA_ID_RE, check_saga_id
from stage.wire.problem import WireError

T = TypeVar("T")

LOOP_BYTES_MAX: Final = 32_768
"""Larger bodies are decoded off the event loop: in the worst case a byte costs 0.3 us."""


async def read_json(request: Request, bytes_max: int | None = None) -> bytes:
    """The whole body, which has to say that it is JSON. Raises WireError 400, 408, 413 or 415.

    `bytes_max` is the limit of this endpoint, where it is below that of all bodies.
    """
    check_type(request)
    body = await read_any(request)
    if bytes_max is not None and len(body) > bytes_max:
        raise too_large(bytes_max)
    return body


async def decoded(one_thread: asyncio.Semaphore, body: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode a body: a large one in a thread, so that the event loop is not held.

    One at a time: a thread gives the loop its turns, and many of them would take most of those.
    """
    if len(body) <= LOOP_BYTES_MAX:
        return decode(body)
    async with one_thread:
        return await asyncio.to_thread(decode, body)


async def read_any(request: Request) -> bytes:
    """The whole body, whatever it says it is. Raises WireError 400, 408, 413 or 415."""
    for encoding in request.headers.getall("Content-Encoding", ()):
        h.check_content_type(h.CONTENT_JSON, encoding)
    return await request.read_body()


def check_type(request: Request) -> None:
    """Raise WireError 415 for a body that does not say it is JSON in UTF-8."""
    h.check_content_type(request.headers.get("Content-Type", ""))


def too_large(bytes_max: int) -> WireError:
    """413, for adapters to raise while they read a body."""
    return WireError(
        413,
        "Body too large",
        f"the body is larger than {bytes_max} bytes",
        hint="GET /.well-known/stage shows the limits",
    )


def too_slow(seconds_max: float) -> WireError:
    """408, for adapters to raise while they read a body."""
    return WireError(
        408,
        "Body too slow",
        f"the body did not arrive within {seconds_max:g} s",
        hint="send the body at once; nothing was executed",
    )


def not_readable(detail: str) -> WireError:
    """400, for adapters to raise for a body that breaks off or is not framed as HTTP says."""
    return WireError(400, "Body not readable", detail, hint="send JSON in UTF-8, as it is")


def deadline_of(request: Request, deadline: float | None, now: float) -> float | None:
    """When the saga has to be done, by our own clock (protocol 3.1).

    The budget header alone holds where it is given: the envelope's deadline was made by another
    clock. None without either: the engine has a default.
    """
    budget = h.parse_budget_ms(request.headers.getall(h.SAGA_BUDGET_MS, ()))
    return deadline if budget is None else now + budget


def wait_of(request: Request, default: float, most: float) -> tuple[float, bool]:
    """How long the caller wants to wait, in seconds, and whether it wants 202 at once."""
    preferences = request.headers.getall(h.PREFER, ())
    if not preferences:
        return min(default, most), False
    prefer = h.parse_prefer(preferences)
    wait = default if prefer.wait is None else prefer.wait
    return min(wait, most), prefer.respond_async


def key_of(values: Sequence[str]) -> str:
    """The saga id that an `Idempotency-Key` says before the body is read; empty without one."""
    key = values[0].strip(" \t").removeprefix('"').removesuffix('"') if len(values) == 1 else ""
    return key if SAGA_ID_RE.fullmatch(key) else ""


def saga_id_of(request: Request) -> str:
    """The saga id in the path. Raises WireError 422."""
    saga_id = request.parameters["saga_id"]
    check_saga_id(saga_id)
    return saga_id
