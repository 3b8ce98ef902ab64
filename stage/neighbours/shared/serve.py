"""Serve one application until a signal, print a line when it listens, and stop quickly."""

from __future__ import annotations

import asyncio
import signal
import ssl

from aiohttp import web

SHUTDOWN_SECONDS = 0.2
"""How long open requests may go on after the signal: other services must survive a lost peer."""


async def serve(
    app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes a free one; the line printed names it.

    Raises OSError when the port cannot be had.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        scheme = "http" if tls is None else "https"
        print(f"listening on {scheme}://{host}:{runner.addresses[0][1]}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()
