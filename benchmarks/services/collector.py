"""A collector that counts: requests that a traced stage served, by the spans that reach it.

OTLP over HTTP, read no further than to the kind of each span (opentelemetry/proto/trace/v1). One
span of kind SERVER a saga shows that the saga was sampled and exported; `GET /served` has their
number.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator

from aiohttp import web

from benchmarks.services.loop import run

SERVED = web.AppKey("served", list[int])
LENGTH_DELIMITED, VARINT = 2, 0
OTHER_BYTES = {1: 8, 5: 4}
RESOURCE_SPANS, SCOPE_SPANS, SPANS = 1, 2, 2
"""Where each level has the next one."""
KIND, SERVER = 6, 2
BODY_BYTES_MAX = 64_000_000


def fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message of protobuf, by number."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == LENGTH_DELIMITED:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        else:
            at += OTHER_BYTES[kind]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def served_in(body: bytes) -> int:
    """How many spans of kind SERVER a request of an exporter has."""
    levels = [memoryview(body)]
    for inner in (RESOURCE_SPANS, SCOPE_SPANS, SPANS):
        levels = [
            value
            for message in levels
            for number, value in fields(message)
            if number == inner and isinstance(value, memoryview)
        ]
    return sum((KIND, SERVER) in fields(span) for span in levels)


async def take(request: web.Request) -> web.Response:
    """Count what an exporter sends."""
    request.app[SERVED][0] += served_in(await request.read())
    return web.Response(content_type="application/x-protobuf")


async def served(request: web.Request) -> web.Response:
    """The number so far."""
    return web.json_response(request.app[SERVED][0])


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app[SERVED] = [0]
    app.router.add_post("/v1/traces", take)
    app.router.add_get("/served", served)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    run(serve(options.parse_args().port))
