"""A collector that costs next to nothing, and how many sagas were served by the spans that it has.

It is nginx, which keeps each request in a file. They are read once all is measured: to read the
spans of a second takes a tenth of a second of a processor, for which a stage beside it would wait.
OTLP is read no further than to the kind of each span (opentelemetry/proto/trace/v1). One span of
kind SERVER a saga shows that the saga was sampled and exported.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import LOOPBACK, ended, free_port, until_listening

LENGTH_DELIMITED, VARINT = 2, 0
OTHER_BYTES = {1: 8, 5: 4}
RESOURCE_SPANS, SCOPE_SPANS, SPANS = 1, 2, 2
"""Where each level has the next one."""
KIND, SERVER = 6, 2

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_max_body_size 64m;
    client_body_temp_path {folder}/requests;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {host}:{port};
        location /v1/traces {{
            client_body_in_file_only on;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://{host}:{port}/taken;
        }}
        location /taken {{ return 200; }}
    }}
}}
"""
"""A body is read before a request is passed on, and not before an answer that is fixed. Without a
master nginx stays the user that it was started by, whose folder this is."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The collector that listens at that URL, and the folder of the requests that it has."""

    url: str
    requests: Path

    def served(self) -> int:
        """Spans of requests that were served. A stage has exported all of them once it ended."""
        return sum(map(_served_in, (path for path in self.requests.rglob("*") if path.is_file())))


@contextmanager
def counting(nginx: str, folder: Path) -> Iterator[Spans]:
    """The collector while it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    port, configuration = free_port(), folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=LOOPBACK, port=port))
    process = subprocess.Popen([nginx, "-c", str(configuration), "-e", str(folder / "nginx.log")])
    try:
        until_listening(port, process)
        yield Spans(f"http://{LOOPBACK}:{port}", folder / "requests")
    finally:
        ended(process)


def _served_in(file: Path) -> int:
    try:
        return served_in(file.read_bytes())
    except (IndexError, TypeError):  # an exporter was killed as it sent
        print(f"a request to the collector is cut off: {file.name}", file=sys.stderr)
        return 0


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
