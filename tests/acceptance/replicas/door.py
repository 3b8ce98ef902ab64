"""A real nginx before the replicas of a stage: each request goes to any of them."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.acceptance.gateway.nginx import NGINX
from tests.acceptance.kills.http1 import LOOPBACK

START_SECONDS_MAX = 10.0
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/door.pid;
error_log {folder}/door.error.log;
events {{ worker_connections 2048; }}
http {{
    log_format end '$status $upstream_addr $upstream_status $request';
    access_log {folder}/door.access.log end;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_connect_timeout 1s;
    proxy_read_timeout {read_seconds}s;
    # A request that was sent to one replica is sent to no other: its caller repeats it.
    upstream replicas {{
        random;
        keepalive 64;
        # Shorter than the drain delay: a proxy that is about to use a connection that its replica
        # closes gives 502, and repeats no POST.
        keepalive_timeout 200ms;
        {servers}
    }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


class Door:
    """One nginx with a port of its own before the ports of the replicas."""

    def __init__(
        self, folder: Path, port: int, behind: Sequence[int], *, read_seconds: int = 8
    ) -> None:
        self.port = port
        self._folder = folder
        self._behind = behind
        self._read_seconds = read_seconds
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it, and return when it is open."""
        assert NGINX is not None
        # One that did not answer gets its share all the same: it may be back.
        servers = "\n        ".join(
            f"server {LOOPBACK}:{port} max_fails=0;" for port in self._behind
        )
        text = CONFIGURATION.format(
            folder=self._folder,
            host=LOOPBACK,
            port=self.port,
            read_seconds=self._read_seconds,
            servers=servers,
        )
        configuration = self._folder / "door.conf"
        configuration.write_text(text, encoding="utf-8")
        self._process = await asyncio.create_subprocess_exec(
            NGINX, "-p", str(self._folder), "-c", str(configuration), stdout=DEVNULL, stderr=DEVNULL
        )
        async with asyncio.timeout(START_SECONDS_MAX):
            while not await self._open():
                assert self._process.returncode is None, "nginx ended"
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it, with the requests that it holds. It must not have ended before."""
        if self._process is not None:
            assert self._process.returncode is None, "nginx ended by itself"
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    async def _open(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return True

    def answers(self) -> Counter[int]:
        """How often it has answered with each code, its own answers among them."""
        lines = (self._folder / "door.access.log").read_text("utf-8").splitlines()
        return Counter(int(line.partition(" ")[0]) for line in lines)

    def errors(self) -> list[str]:
        """The last lines of its log: why it gave an answer of its own."""
        return (self._folder / "door.error.log").read_text("utf-8").splitlines()[-20:]

    def shares(self) -> dict[int, int]:
        """How many requests each replica has answered, by its port."""
        found = dict.fromkeys(self._behind, 0)
        for line in (self._folder / "door.access.log").read_text("utf-8").splitlines():
            answered = line.split(" ", 2)[1].rpartition(":")[2]
            if answered.isdigit():
                found[int(answered)] += 1
        return found
