"""Runs the command line by a fork, and stands in for a stage that it talks to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.forked import ROOT, Done, stage

__all__ = ["ROOT", "Asked", "Done", "Neighbour", "neighbour", "stage"]


class Asked(NamedTuple):
    """One request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Neighbour:
    """A server with one answer for each method and path, that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.url = ""
        self.seconds = 0.0
        """How long each answer takes."""

    def answer(self, request: str, status: int, body: bytes, **headers: str) -> None:
        """Answer `GET /sagas` or the like so from now on."""
        self.answers[request] = (status, headers, body)


@contextmanager
def neighbour() -> Iterator[Neighbour]:
    """Serve on a free loopback port."""
    neighbour = Neighbour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            neighbour.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
            known = neighbour.answers.get(f"{self.command} {self.path}")
            status, headers, answer = known if known is not None else (404, {}, b"nobody")
            time.sleep(neighbour.seconds)
            if status == 0:  # hang up without an answer
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with suppress(ConnectionError):  # it was not waited for
                self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    neighbour.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield neighbour
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
