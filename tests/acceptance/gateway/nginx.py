"""A real nginx in front of each neighbour, with a short time-out and pages of its own."""

from __future__ import annotations

import asyncio
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
READ_SECONDS = 1
START_SECONDS_MAX = 60.0

CONFIGURATION = """
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 2048; }}
http {{
    log_format end '$status $upstream_header_time $request';
    access_log {folder}/nginx.access.log end;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_connect_timeout {seconds}s;
    proxy_read_timeout {seconds}s;
    proxy_next_upstream off;
    proxy_cache_path {folder}/cache keys_zone=answers:1m;
    split_clients $request_id $fate {{ 2% busy; 2% barred; 2% login; 2% conflict; * goes; }}
    {servers}
}}
"""
SERVER = """
    server {{
        listen 127.0.0.1:{port};
        error_page 403 409 429 502 503 504 /page;
        location = /page {{
            internal;
            default_type text/html;
            return 200 "<html><body>nginx</body></html>";
        }}
        location / {{
            if ($fate = busy) {{ return 429; }}
            if ($fate = barred) {{ return 403; }}
            if ($fate = conflict) {{ return 409; }}
            if ($fate = login) {{ return 200 "<html><body>please log in</body></html>"; }}
            proxy_pass http://127.0.0.1:{behind};
        }}
    }}
"""

CACHING = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_cache answers;
            proxy_cache_valid any 10m;
            proxy_pass http://127.0.0.1:{behind};
        }}
    }}
"""
"""Every answer to a GET is kept for ten minutes, whoever asked, unless it says no-store."""


class Nginx:
    """One nginx; `doors` maps each port that it listens on to the port behind it."""

    def __init__(self, folder: Path, doors: Mapping[int, int], server: str = SERVER) -> None:
        self._folder = folder
        self._doors = doors
        self._server = server
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it, and return when all doors are open."""
        assert NGINX is not None
        servers = "".join(
            self._server.format(port=port, behind=behind) for port, behind in self._doors.items()
        )
        text = CONFIGURATION.format(folder=self._folder, seconds=READ_SECONDS, servers=servers)
        configuration = self._folder / "nginx.conf"
        configuration.write_text(text, encoding="utf-8")
        self._process = await asyncio.create_subprocess_exec(
            NGINX, "-p", str(self._folder), "-c", str(configuration), stdout=DEVNULL, stderr=DEVNULL
        )
        async with asyncio.timeout(START_SECONDS_MAX):
            for port in self._doors:
                while not await _open(port):
                    assert self._process.returncode is None, "nginx ended"
                    await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it, with the requests that it holds."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    def own_answers(self) -> Counter[str]:
        """How often it answered in place of a neighbour, by code; a login page is a 200."""
        counts: Counter[str] = Counter()
        for line in (self._folder / "nginx.access.log").read_text("utf-8").splitlines():
            status, answered_behind, request = line.split(" ", 2)
            if request.startswith("POST") and answered_behind == "-":
                counts[status] += 1
        return counts


async def _open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return True
