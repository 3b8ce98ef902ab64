"""A small gateway in front of shipping: it gives up after a second, whatever shipping does.

`python -m stage.demo.gateway --to URL --port 8083`
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Iterable

import aiohttp
from aiohttp import hdrs, web

from stage.neighbours.shared.serve import serve
from stage.neighbours.shared.tls import (
    add_ca_option,
    add_listener_options,
    caller_context,
    connector,
    listener_context,
)
from stage.wire.limits import DEFAULT_LIMITS

READ_SECONDS = 1.0
NOT_PASSED_ON = frozenset(
    name.lower()
    for name in (hdrs.HOST, hdrs.CONTENT_LENGTH, hdrs.CONNECTION, hdrs.TRANSFER_ENCODING)
)
SESSION = web.AppKey("SESSION", aiohttp.ClientSession)
TO = web.AppKey("TO", str)


def make_app(to: str, trusted: ssl.SSLContext | None = None) -> web.Application:
    """The gateway in front of the service at the URL `to`, called under the TLS `trusted`."""

    async def live(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=connector(trusted),
            timeout=aiohttp.ClientTimeout(total=READ_SECONDS),
            auto_decompress=False,
        ) as session:
            app[SESSION] = session
            yield

    app = web.Application(client_max_size=DEFAULT_LIMITS.body_bytes_max)
    app[TO] = to.rstrip("/")
    app.cleanup_ctx.append(live)
    app.router.add_route("*", "/{path:.*}", pass_on)
    return app


async def pass_on(request: web.Request) -> web.Response:
    """Pass the request on, or answer 504 or 502 with a page of its own."""
    try:
        async with request.app[SESSION].request(
            request.method,
            request.app[TO] + request.raw_path,
            headers=_passed_on(request.headers.items()),
            data=await request.read(),
            allow_redirects=False,
        ) as answer:
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers=_passed_on(answer.headers.items()),
            )
    except TimeoutError:
        return _page(504, "Gateway Time-out")
    except aiohttp.ClientError:
        return _page(502, "Bad Gateway")


def _passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in NOT_PASSED_ON]


def _page(status: int, title: str) -> web.Response:
    text = f"<html><body><h1>{status} {title}</h1></body></html>"
    return web.Response(status=status, text=text, content_type="text/html")


def main() -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m stage.demo.gateway", description=__doc__)
    parser.add_argument("--to", required=True, metavar="URL", help="the service behind it")
    parser.add_argument("--port", type=int, default=8083, help="0 takes a free one (%(default)s)")
    add_listener_options(parser)
    add_ca_option(parser)
    options = parser.parse_args()
    try:
        tls, trusted = listener_context(options), caller_context(options.ca_file)
    except ValueError as error:
        print(f"gateway: its certificates cannot be used: {error}", file=sys.stderr)
        return 2
    asyncio.run(serve(make_app(options.to, trusted), "127.0.0.1", options.port, tls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
