"""Sagas at a fixed rate, whether or not they are answered (open loop).

wrk waits for an answer before it sends the next request, so that a stall is seen only by the few
that were stalled. Here each request has a moment at which it is due, and its latency counts from
there: all who would have come meanwhile see the stall. Sockets and their times are handled without
an event loop, whose timers go by the millisecond, as half of the latencies measured here do.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

CONNECTIONS_MAX = 1024
ANSWER_SECONDS_MAX = 30.0
READ_BYTES = 65_536
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NO_ANSWER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request: its latency in seconds, and the status it was answered."""

    latency: float
    status: int


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of the values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def request_of(saga_id: str, host: str) -> bytes:
    """The request that saga.lua makes."""
    body = (
        f'{{"saga_id":"{saga_id}","protocol":1,"data":{{"order_id":"o-1","amount":100,'
        '"currency":"KRW"},"trail":[{"stage":"order","at":"2026-11-23T02:29:58.120Z"}]}'
    )
    head = f"POST /sagas HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class _Connection:
    """One connection to a server, with at most one request on it."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=ANSWER_SECONDS_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._seen = b""
        self.due: float | None = None
        """None while no request is on it."""

    def fileno(self) -> int:
        """See socket.socket."""
        return self._socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        """Send a request, whole: it is far smaller than what the kernel takes."""
        self.due, self._seen = due, b""
        self._socket.sendall(request)

    def receive(self) -> int | None:
        """The status once the answer is whole; NO_ANSWER when the server hung up before."""
        try:
            read = self._socket.recv(READ_BYTES)
        except ConnectionError:
            return NO_ANSWER
        if not read:
            return NO_ANSWER
        self._seen += read
        head, ended, body = self._seen.partition(b"\r\n\r\n")
        if not ended:
            return None
        length = LENGTH.search(head)
        if length is None:
            raise ValueError(f"an answer without Content-Length: {head!r}")
        return int(head[9:12]) if len(body) >= int(length[1]) else None

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class _Server:
    """Connections to one server; an idle one is used again before another is made."""

    def __init__(self, url: str, watched: select.epoll) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None, f"no host and port in {url}"
        self._host, self._port, self._netloc = parts.hostname, parts.port, parts.netloc
        self._watched = watched
        self._idle: list[_Connection] = []
        self.open: dict[int, _Connection] = {}

    def send(self, saga_id: str, due: float, connections_max: int) -> bool:
        """Send a saga; False when all connections are taken."""
        if not self._idle and len(self.open) >= connections_max:
            return False
        connection = self._idle.pop() if self._idle else self._connect()
        connection.send(request_of(saga_id, self._netloc), due)
        return True

    def _connect(self) -> _Connection:
        connection = _Connection(self._host, self._port)
        self.open[connection.fileno()] = connection
        self._watched.register(connection, select.EPOLLIN)
        return connection

    def read(self, number: int) -> Answered | None:
        """Read from the connection with that number; the answer once it is whole, None before."""
        connection = self.open[number]
        status = connection.receive()
        if status is None:
            return None
        due, connection.due = connection.due, None
        if status == NO_ANSWER:
            self._drop(connection)
        else:
            self._idle.append(connection)
        return None if due is None else Answered(latency=time.monotonic() - due, status=status)

    def _drop(self, connection: _Connection) -> None:
        self._watched.unregister(connection)
        del self.open[connection.fileno()]
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self.open.values()):
            self._drop(connection)


def offer_at_rate(
    urls: Sequence[str],
    *,
    rate: float,
    seconds: float,
    run: str,
    connections_max: int = CONNECTIONS_MAX,
) -> list[Answered]:
    """Offer so many sagas a second, to the servers in turn; then wait for what is open.

    A saga for which no connection is free waits, and its latency counts that as well. A saga
    without an answer `ANSWER_SECONDS_MAX` after the end counts as NO_ANSWER.
    """
    with select.epoll() as watched:
        servers = [_Server(url, watched) for url in urls]
        try:
            return _offered(servers, watched, rate, seconds, run, connections_max)
        finally:
            for server in servers:
                server.close()


def _offered(
    servers: Sequence[_Server],
    watched: select.epoll,
    rate: float,
    seconds: float,
    run: str,
    connections_max: int,
) -> list[Answered]:
    # Long because the schedule, the sockets and the end share one loop and its clock.
    total, number = round(rate * seconds), 0
    waiting: deque[tuple[int, float]] = deque()
    answered: list[Answered] = []
    began = time.monotonic()
    latest = began + seconds + ANSWER_SECONDS_MAX
    while len(answered) < total:
        now = time.monotonic()
        if now > latest:
            lost = total - len(answered)
            return [*answered, *(Answered(latency=now - began, status=NO_ANSWER),) * lost]
        while number < total and began + number / rate <= now:
            waiting.append((number, began + number / rate))
            number += 1
        while waiting:
            which, due = waiting[0]
            if not servers[which % len(servers)].send(f"{run}-{which}", due, connections_max):
                break
            waiting.popleft()
        # epoll itself waits by the millisecond.
        wait = began + number / rate - time.monotonic() if number < total else 0.1
        if not select.select([watched.fileno()], [], [], max(0.0, wait))[0]:
            continue
        for ready, _ in watched.poll(0):
            server = next(each for each in servers if ready in each.open)
            if (answer := server.read(ready)) is not None:
                answered.append(answer)
    return answered
