"""A real nginx before Temporal's dev server, as Temporal Cloud has a gate: key, certificate, TLS.

It asks for a certificate of the authority that it trusts, and refuses each request without the API
key in `authorization`. Both can be changed while it is up; it then ends the connections that are.
"""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

from stage.demo.chain import LOOPBACK, free_ports
from tests.acceptance.gateway.nginx import NGINX
from tests.certificates import Authority

START_SECONDS_MAX = 30.0
POLL_SECONDS = 0.02
CONFIGURATION = """
daemon off;
worker_processes 1;
worker_shutdown_timeout 1s;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 512; }}
http {{
    log_format end '$status $ssl_client_serial';
    access_log {folder}/nginx.access.log end;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    server {{
        listen {address} ssl http2;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_client_certificate {trusted};
        ssl_verify_client on;
        location / {{
            if ($http_authorization != "Bearer {api_key}") {{ return 401; }}
            grpc_pass grpc://{behind};
            grpc_read_timeout 120s;
        }}
    }}
}}
"""


class Gate:
    """One nginx. `authority` signed its own certificate, and that of clients at first."""

    def __init__(self, folder: Path, behind: str, *, api_key: str) -> None:
        folder.mkdir()
        (port,) = free_ports(1)
        self.address = f"{LOOPBACK}:{port}"
        self.authority = Authority(folder)
        self._folder = folder
        self._behind = behind
        self._certificate = self.authority.sign("gate", LOOPBACK)
        self._process: Process | None = None
        self._write(api_key, self.authority)

    def _write(self, api_key: str, trusted: Authority) -> None:
        cert, key = self._certificate
        text = CONFIGURATION.format(
            folder=self._folder,
            address=self.address,
            behind=self._behind,
            cert=cert,
            key=key,
            trusted=trusted.file,
            api_key=api_key,
        )
        (self._folder / "nginx.conf").write_text(text)

    async def start(self) -> None:
        """Start it, and return when it listens."""
        assert NGINX is not None
        self._process = await asyncio.create_subprocess_exec(
            *(NGINX, "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")),
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        async with asyncio.timeout(START_SECONDS_MAX):
            while not await self._listens():
                assert self._process.returncode is None, "nginx ended"
                await asyncio.sleep(POLL_SECONDS)

    async def _listens(self) -> bool:
        host, port = self.address.split(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        writer.close()
        return True

    def admit(self, *, api_key: str, trusted: Authority) -> None:
        """Let in only clients with this key, and with a certificate of this authority."""
        assert self._process is not None
        self._write(api_key, trusted)
        self._process.send_signal(signal.SIGHUP)

    def answers(self) -> set[str]:
        """The codes that it has answered with."""
        lines = (self._folder / "nginx.access.log").read_text().splitlines()
        return {line.split(" ")[0] for line in lines}

    async def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
