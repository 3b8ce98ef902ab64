"""nginx as external API, downstream and collector: fixed answers, so that none is measured."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import LOOPBACK, ended, until_listening

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 100000000;
    client_max_body_size 64m;
    client_body_buffer_size 8m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {host}:{port};
        {more}
        location /charges {{ return 200 '{{"id":"c-1"}}'; }}
        location /refunds {{ return 200 '{{"refunded":1}}'; }}
        location /v1/traces {{ return 200 '{{}}'; }}
        location /sagas {{
            return 200 '{{"outcome":"executed","data":{{"shipping":{{"parcel":"p-1"}}}}}}';
        }}
        location /refusing/sagas {{
            default_type application/problem+json;
            return 409 '{{"title":"No","status":409,"outcome":"not_executed","retryable":false}}';
        }}
        location ~ ^/refusing/sagas/.+/compensate$ {{
            return 200 '{{"outcome":"not_executed"}}';
        }}
    }}
}}
"""


@contextmanager
def neighbours(nginx: str, folder: Path, port: int, more: str = "") -> Iterator[str]:
    """Their URL while they run; `/refusing` below it is a downstream that refuses every saga.

    `more` are further directives of the server, such as a port with TLS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "nginx.conf"
    text = CONFIGURATION.format(folder=folder, host=LOOPBACK, port=port, more=more)
    configuration.write_text(text)
    process = subprocess.Popen([nginx, "-c", str(configuration), "-e", str(folder / "nginx.log")])
    try:
        until_listening(port, process)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        ended(process)
