"""aiohttp's server with limits: how many connections, and how long one may keep us waiting.

aiohttp waits for the rest of a head for an hour, and for ever for a client that reads no answer.
Only the methods of `asyncio.Protocol` and the public ones of aiohttp are overridden here.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from random import random
from typing import Any, NamedTuple, Protocol, cast

import msgspec
from aiohttp import HttpVersion10, hdrs, web

from stage.inbound.aiohttp import (
    CALLER,
    SERVER_HEADER,
    SERVICE,
    Connection,
    DirectHandler,
    direct,
)
from stage.inbound.client_certificate import certificate_of
from stage.inbound.handshake import Handshake, TlsPort, left_in_kernel
from stage.inbound.held import HeldStarts, Turn
from stage.inbound.problems import of_status
from stage.inbound.read import key_of
from stage.inbound.request import PROBLEM_JSON
from stage.inbound.service import Service
from stage.inbound.tls import ListenerTls
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem

SWEEP_SECONDS = 1.0
"""How often connections are looked at: each limit of time is exceeded by at most so much."""
READ_SECONDS = 2.0
"""An answer that its reader has not acknowledged for so long is looked at. Earlier it may be on its
way, and to ask the kernel about each of thousands of busy connections took a twentieth of all
time."""
REPORT_SECONDS = 10.0
GIVE_WAY_SECONDS = 0.5
"""A connection that has waited for less gives way to no other one."""
SETTLE_SECONDS_MAX = 1.0
"""Between the end of the drain delay and the drain: starts that are shed are answered then too."""
SETTLE_LOOKS = 100

_START = b"POST /sagas HTTP/1.1\r\n"
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_KEY = re.compile(rb"\nidempotency-key:([^\r\n]{1,200})(?=\r\n)", re.IGNORECASE)
_FRAMED_OTHERWISE = re.compile(rb"\n(?:transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)
_NO_LINGER = struct.pack("ii", 1, 0)


class Reports(NamedTuple):
    """Where to report connections that did not come about: how many, and the last reason."""

    turned_away: Callable[[int], None]
    handshakes_failed: Callable[[int, str], None] = lambda _count, _reason: None


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one connection, and of all together. Times in seconds."""

    connections_max: int = 4_000
    head_seconds_max: float = 10.0
    """From the first byte of a request, or the beginning of a connection, to the end of its
    head."""
    answer_seconds_max: float = 10.0
    """How long an answer may wait for its reader."""
    idle_seconds_max: float = 75.0
    """Longer than the 60 s after which proxies let go: who closes first loses no request."""
    lingering_seconds_max: float = 1.0
    """How long the rest of a refused body is read."""


class Waiting(Protocol):
    """A connection of which no request is being answered."""

    def give_way(self) -> None:
        """Close it, because another one needs its place."""
        ...

    def is_due(self, now: float) -> bool:
        """Whether a request may be on its way, has begun to come in, or waits to be read."""
        ...


class BoundedProtocol(Connection):
    """One connection. It counts as waiting while no request of it is being answered."""

    __slots__ = (
        "_flow_held",
        "_head_since",
        "_held",
        "_held_size",
        "_idle_since",
        "_read_since",
        "_retires",
        "_server",
        "_turned_away",
        "_unread_since",
        "caller",
        "counted",
        "trust",
    )

    def __init__(self, server: BoundedServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._head_since: float | None = None
        self._unread_since: float | None = None
        self._read_since: float | None = None
        """When it began to wait, if all that was written before was read by then."""
        self._flow_held = False
        """Its body comes faster than it is read."""
        self._held: bytes | None = None
        """The start of it that waits for its turn, and what came behind it."""
        self._held_size = 0
        """The bytes of that start alone."""
        self._retires = False
        """It is to be closed, and its request was in the kernel by then."""
        self._idle_since: float | None = None
        """Since when nothing came after a start of it was refused unparsed."""
        self._turned_away = False
        self.certificate = None
        self.caller = ""
        """The name of the caller before: a neighbour keeps its connections to itself."""
        self.counted = False
        """It has its place since before its handshake."""
        self.trust = b""
        """The trust that its certificate was verified under; empty without TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol. Beyond the limit of connections it is answered 503 at once."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if not self.counted and not self._server.has_room():
            self._turned_away = True
            transport.write(_TURNED_AWAY)
            transport.close()
            return
        self.certificate = certificate_of(transport.get_extra_info("peercert"))
        super().connection_made(transport)
        self._head_since = self._server.waits(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._turned_away:
            return
        self._idle_since = None
        if self._held is not None:
            self._held += data
            if self.transport is not None:
                self.transport.pause_reading()
            return
        if self._head_since is None and self._server.is_waiting(self):
            now = self._server.now()
            limited = self._server.overload.limited
            if limited and is_whole_start(data) and not self._server.lets_in(self, now):
                self._hold(data)
                return
            self._head_since = now
        super().data_received(data)

    def pause_reading(self) -> None:
        """See aiohttp's protocol."""
        self._flow_held = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See aiohttp's protocol, which parses again at each body, also where nothing waits."""
        if self._flow_held:
            self._flow_held = False
            super().resume_reading(resume_parser)

    def _hold(self, data: bytes) -> None:
        """Let a start wait for its turn without parsing it.

        To parse one costs a tenth of a saga, and a client that is refused at once and asks again
        at once would ask for nothing else to be done. Bytes behind it are read once.
        """
        self._server.forget(self)  # it does not give way: it will be answered
        if self.transport is not None:
            self._held, self._held_size = data, len(data)
            # aiohttp has not seen the request: it would take the connection for an idle one.
            self.keep_alive(True)
            self._server.held.hold(self, self.caller)

    @property
    def held_saga_id(self) -> str:
        """See `held.Start`."""
        return key_in(self._held or b"")

    def answer_held(self, turn: Turn) -> None:
        """See `held.Start`."""
        transport, data, self._held = self.transport, self._held, None
        if transport is None or data is None or transport.is_closing():
            return
        if len(data) > self._held_size:
            transport.resume_reading()
        now = self._server.waits(self)
        if turn is Turn.PARSED and not self._close:
            self._head_since = now
            self._server.overload.batch.begins(self, now)
            super().data_received(data)
            return
        self._server.overload.shed += 1
        ends = self._close or self.retires or turn is Turn.GIVES_WAY
        answers = (_SHED if turn is Turn.NOT_SEEN else _SHED_UNKNOWN)[ends]
        transport.write(answers[int(random() * len(answers))])
        if ends:
            transport.close()
        else:
            self._idle_since = now
            if len(data) > self._held_size:
                self.data_received(data[self._held_size :])

    def eof_received(self) -> None:
        """See asyncio.Protocol."""
        if not self._turned_away:
            super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        if not self._turned_away:
            if self._held is not None:
                self._held = None
                self._server.held.forget(self, self.caller)
            self._server.forget(self)
            self._server.answered(self)
            super().connection_lost(exc)

    @property
    def retires(self) -> bool:
        """Whether the answer is the last one of its connection."""
        return self._retires or self._server.retiring

    def is_due(self, now: float) -> bool:
        """Whether a request may be on its way, has begun to come in, or waits to be read."""
        head = self._head_since
        if head is not None:
            return now - head < GIVE_WAY_SECONDS
        return self.transport is not None and _queued(self.transport, termios.FIONREAD)

    def close(self) -> None:
        """End after the request that is being answered; at once where there is none.

        aiohttp would leave that one open until the end of the drain, and read nothing from it. One
        whose request has come to the kernel in this moment is left to answer it.
        """
        transport = self.transport
        if transport is None or self._messages or not self._server.is_waiting(self):
            super().close()
        elif _finished(transport):
            super().close()
            transport.close()
        else:
            self._retires = True

    def begins(self) -> None:
        """A whole head has come in, and its request is answered from here on."""
        self._head_since = None
        self._server.forget(self)

    def ends(self) -> None:
        """The answer is made; it is written next."""
        self._server.answered(self)
        if self.transport is not None:
            self._server.waits(self)

    def give_way(self) -> None:
        """Close a connection that waits, because another one needs its place."""
        self._server.forget(self)
        if self.transport is not None and self.transport.get_write_buffer_size():
            _reset(self.transport)
        self.force_close()

    def check(self, now: float, limits: ServerLimits) -> None:
        """Abort a connection whose head or whose reader is too slow, close one that is idle."""
        transport = self.transport
        if transport is None:
            return
        unread, head = self._is_unread_since(transport, now), self._head_since
        self._unread_since = unread
        if (unread is not None and now - unread >= limits.answer_seconds_max) or (
            head is not None and now - head >= limits.head_seconds_max
        ):
            _reset(transport)
        elif self._idle_since is not None and now - self._idle_since >= limits.idle_seconds_max:
            self.force_close()

    def _is_unread_since(self, transport: asyncio.Transport, now: float) -> float | None:
        """Since when something written has not reached the reader: it is here, or in the kernel.

        A connection that goes on to ask has read what it was answered, however far away it is. One
        that only asks, and reads nothing, fills the kernel's buffer, and then ours.
        """
        before = now if self._unread_since is None else self._unread_since
        if transport.get_write_buffer_size():
            return before
        waits = self._server.waits_since(self)
        if waits is None:
            unread = self._held is None and _queued(transport, termios.TIOCOUTQ)
            return before if unread else None
        if now - waits < READ_SECONDS or waits == self._read_since:
            return None
        if _queued(transport, termios.TIOCOUTQ):
            return waits
        self._read_since = waits
        return None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The problem for what the parser refuses, or what no handler caught.

        Neither the answer nor a line of the log quotes it: a head holds credentials.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if isinstance(exc, Exception) and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log_exception("a request was not answered: %s", type(exc).__name__)
            problem = _unanswered(status)
        else:
            problem = of_status(status, "Not HTTP", "the request is not HTTP as RFC 9112 has it")
        response = web.Response(
            status=status, body=problem.encode(), headers=[PROBLEM_JSON, SERVER_HEADER]
        )
        response.force_close()
        return response


def is_whole_start(data: bytes) -> bool:
    """Whether the bytes are exactly one `POST /sagas`, head and body.

    Anything else is left to the parser: a start that came in pieces, or below a prefix.
    """
    if not data.startswith(_START):
        return False
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    lengths = _LENGTH.findall(data, 0, end + 2)
    if _FRAMED_OTHERWISE.search(data, 0, end):
        return False
    return len(lengths) == 1 and len(data) == end + 4 + int(lengths[0])


def key_in(data: bytes) -> str:
    """The saga id that the `Idempotency-Key` in the head of a request says, or nothing."""
    found = _KEY.findall(data, 0, data.find(b"\r\n\r\n") + 2)
    return key_of([value.decode("latin-1") for value in found])


class BoundedServer(web.Server):
    """Makes the connections and watches over all of them.

    `reports` are called at most once in REPORT_SECONDS each.
    """

    def __init__(
        self,
        server: web.Server,
        limits: ServerLimits,
        reports: Reports,
        service: Service,
        direct: DirectHandler | None = None,
    ) -> None:
        """`server` is aiohttp's own, of which the handler and its requests are taken.

        `direct` handles the requests that need no router of its application.
        """
        handle = _counted(server.request_handler, direct)
        super().__init__(handle, request_factory=server.request_factory)
        self.overload = service.admission.overload
        self.held = HeldStarts(service.lookups, self.overload)
        self.retiring = False
        self.now: Callable[[], float] = asyncio.get_running_loop().time
        self._limits = limits
        self._reports = reports
        self._waiting: dict[Waiting, float] = {}
        """Since when, in the order in which they began to wait."""
        self._handshakes: set[Handshake] = set()
        self._turned_away = 0
        self._reported_at = float("-inf")
        self._refused = 0
        self._refused_at = float("-inf")
        self._sweeping = False

    def __call__(self) -> BoundedProtocol:
        """A connection that is about to be made."""
        return BoundedProtocol(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._limits.idle_seconds_max,
            lingering_time=self._limits.lingering_seconds_max,
        )

    def port(self, tls: ListenerTls) -> TlsPort:
        """A port whose connections begin with a handshake."""
        limits = self._limits
        return TlsPort(self, tls, limits.head_seconds_max, limits.lingering_seconds_max)

    def secure(self, trust: bytes) -> BoundedProtocol:
        """See `handshake.Handshakes`."""
        protocol = self()
        protocol.trust, protocol.counted = trust, True
        return protocol

    def begins(self, handshake: Handshake) -> None:
        """See `handshake.Handshakes`."""
        self._handshakes.add(handshake)
        self.waits(handshake)

    def ends(self, handshake: Handshake, failure: str) -> None:
        """See `handshake.Handshakes`."""
        self._handshakes.discard(handshake)
        self.forget(handshake)
        if failure:
            self._handshakes_failed(failure)

    async def watch(self, tls: ListenerTls) -> None:
        """Take up renewed files until cancelled."""
        await tls.keep_fresh(lambda: self.close_other_than(tls.in_force.trust))

    def close_other_than(self, trust: bytes) -> None:
        """Close what was let in with a certificate under another trust; its answer is finished."""
        for protocol in self.connections:
            if (
                isinstance(protocol, BoundedProtocol)
                and protocol.certificate is not None
                and protocol.trust != trust
            ):
                protocol.close()

    def has_room(self) -> bool:
        """True when one more connection may stay; the one that waits longest gives way to it.

        Where all are busy a start that is held does, and none that was begun.
        """
        if len(self.connections) + len(self._handshakes) < self._limits.connections_max:
            return True
        for waiting, since in self._waiting.items():
            if self.now() - since < GIVE_WAY_SECONDS:
                break  # its request may be there already, and not read
            self.forget(waiting)
            waiting.give_way()
            return True
        if self.held.give_way():
            return True
        self._turned_away += 1
        self._tell()
        return False

    def lets_in(self, protocol: BoundedProtocol, now: float) -> bool:
        """Whether a start is parsed at once; under a limit it waits where others wait already."""
        overload = self.overload
        if self.held or not overload.room(now) or not overload.lets_in(protocol.caller):
            return False
        overload.batch.begins(protocol, now)
        return True

    def answered(self, protocol: BoundedProtocol) -> None:
        """A request of that connection is answered, or the connection gone."""
        self.overload.batch.ends(protocol)
        self.held.next_batch()

    def waits(self, protocol: Waiting) -> float:
        """From now on no request of that connection is being answered; returns the time."""
        now = self._waiting[protocol] = self.now()
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        return now

    def is_waiting(self, protocol: Waiting) -> bool:
        """Whether no request of that connection is being answered."""
        return protocol in self._waiting

    def waits_since(self, protocol: Waiting) -> float | None:
        """Since when no request of that connection is being answered; None while one is."""
        return self._waiting.get(protocol)

    def forget(self, protocol: Waiting) -> None:
        """That connection is busy, or gone."""
        self._waiting.pop(protocol, None)

    async def settle(self) -> None:
        """Close each connection that has no request; a new one has GIVE_WAY_SECONDS to tell it.

        A request that comes to the kernel between the last look and the close is answered too. A
        start that is held is refused now: another process may have a place for it.
        """
        self.held.end()
        await self._until_none_is_due()
        self.pre_shutdown()  # in the same step as the last look
        await self._until_none_is_due()

    async def _until_none_is_due(self) -> None:
        for _ in range(SETTLE_LOOKS):
            if not self._has_due():
                break
            await asyncio.sleep(SETTLE_SECONDS_MAX / SETTLE_LOOKS)

    def _has_due(self) -> bool:
        now = self.now()
        return bool(self.held) or any(each.is_due(now) for each in self._waiting)

    def _sweep(self) -> None:
        now = self.now()
        open_ = self.connections
        for protocol in open_:
            if isinstance(protocol, BoundedProtocol):
                protocol.check(now, self._limits)
        self._tell()
        self._sweeping = bool(open_)
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _tell(self) -> None:
        now = self.now()
        if self._turned_away and now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            count, self._turned_away = self._turned_away, 0
            self._reports.turned_away(count)

    def _handshakes_failed(self, failure: str) -> None:
        self._refused += 1
        now = self.now()
        if now - self._refused_at >= REPORT_SECONDS:
            self._refused_at = now
            count, self._refused = self._refused, 0
            self._reports.handshakes_failed(count, failure)


class BoundedRunner(web.AppRunner):
    """web.AppRunner whose server has limits."""

    __slots__ = ("_bounded", "_ports", "_reports", "_tls", "_tls_ports", "_watching")

    def __init__(
        self,
        app: web.Application,
        limits: ServerLimits,
        reports: Reports,
        tls: ListenerTls | None = None,
    ) -> None:
        super().__init__(app, handle_signals=False, access_log=None)
        self._bounded = limits
        self._reports = reports
        self._tls = tls
        self._ports: list[asyncio.Server] = []
        self._tls_ports: list[TlsPort] = []
        self._watching: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, backlog: int, *, among: bool = False) -> int:
        """Open a port, in TLS where it was given; its number. Raises OSError.

        `among` others that open the same one, the kernel spreads the connections over all.
        """
        server = self.server
        assert isinstance(server, BoundedServer)
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            self._watching = self._watching or loop.create_task(server.watch(self._tls))
            self._tls_ports.append(server.port(self._tls))
            return await self._tls_ports[-1].open(host, port, backlog, among=among)
        opened = await loop.create_server(
            server, host, port, backlog=backlog, reuse_port=among or None
        )
        self._ports.append(opened)
        found: int = opened.sockets[0].getsockname()[1]
        return found

    async def cleanup(self) -> None:
        """End in order: who has got a connection before the ports closed is answered once."""
        loop, server = asyncio.get_running_loop(), self.server
        self.retire()
        if self._watching is not None:
            self._watching.cancel()
        while self._tls_ports:
            await self._tls_ports.pop().close()
        while self._ports:
            for accepted in _close(self._ports.pop()):
                await loop.connect_accepted_socket(cast(BoundedServer, server), accepted)
        if isinstance(server, BoundedServer):
            await server.settle()
        await super().cleanup()

    def retire(self) -> None:
        """End each kept connection with its next answer.

        Otherwise a proxy sends a request on one just as it is closed, and may not repeat it.
        """
        if isinstance(self.server, BoundedServer):
            self.server.retiring = True

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        service = self.app[SERVICE]
        return BoundedServer(made, self._bounded, self._reports, service, direct(self.app))


def _close(port: asyncio.Server) -> list[socket.socket]:
    """Close a port; the connections that nobody has accepted yet."""
    found = [each for opened in port.sockets for each in left_in_kernel(opened.fileno())]
    port.close()
    return found


def _queued(transport: asyncio.Transport, way: int) -> bool:
    """Whether the kernel holds bytes of this connection, in or out."""
    found = transport.get_extra_info("socket")
    if found is None:
        return False
    queued = bytearray(4)
    try:
        fcntl.ioctl(found.fileno(), way, queued)
    except OSError:  # not every system tells it of a socket
        return False
    return any(queued)


def _finished(transport: asyncio.Transport) -> bool:
    """Tell the other side at once that no answer comes any more; False if it has asked already.

    A transport tells it some turns of the event loop later, and a proxy that sends a request in
    between gets a reset in place of an answer. Bytes that lie here for a slow reader go first.
    """
    if _queued(transport, termios.FIONREAD):
        return False
    if transport.get_write_buffer_size():
        return True
    found = transport.get_extra_info("socket")
    if found is not None and transport.get_extra_info("sslcontext") is None:
        with suppress(OSError), socket.socket(fileno=os.dup(found.fileno())) as same:
            same.shutdown(socket.SHUT_WR)
    return True


def _reset(transport: asyncio.Transport) -> None:
    """Drop the connection with all that waits in it, that in the kernel included."""
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def _counted(routed: Handler, direct: DirectHandler | None) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, BoundedProtocol)
        protocol.begins()
        try:
            if request.version < HttpVersion10:  # the parser takes a line without a version
                raise web.HTTPBadRequest
            expected = request.headers.get(hdrs.EXPECT)
            if expected is not None and expected.lower() != "100-continue":
                raise web.HTTPExpectationFailed  # aiohttp quotes it, and fails on bytes of no text
            directly = None if direct is None or expected is not None else direct(request)
            response = await (routed(request) if directly is None else directly)
            if protocol.retires:
                response.force_close()
            return response
        except web.HTTPException as error:  # of aiohttp itself, before any handler of ours
            refused = of_status(error.status, error.reason)
            headers = [PROBLEM_JSON, SERVER_HEADER]
            response = web.Response(status=error.status, body=refused.encode(), headers=headers)
            response.force_close()
            return response
        finally:
            protocol.caller = _caller_of(request, protocol.caller)
            protocol.ends()

    return handle


def _caller_of(request: web.BaseRequest, before: str) -> str:
    return request.get(CALLER, before) if isinstance(request, web.Request) else before


def _unanswered(status: int) -> Problem:
    return Problem(
        status=status,
        title="Not answered",
        detail="a defect; whether anything was executed is not known",
        outcome=Outcome.UNKNOWN,
        retryable=True,
        hint="retry under the same saga id",
    )


def _raw_503(detail: str, retry_after: int, outcome: Outcome, *more: str) -> bytes:
    problem = Problem(
        status=503,
        title="Not now",
        detail=detail,
        outcome=outcome,
        retryable=True,
        hint="retry under the same saga id after Retry-After seconds",
    )
    body = problem.encode()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"{PROBLEM_JSON[0]}: {PROBLEM_JSON[1]}",
        f"Retry-After: {retry_after}",
        f"Content-Length: {len(body)}",
        "Server: stage",
        *more,
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


_TURNED_AWAY = _raw_503("too many connections are open", 1, Outcome.UNKNOWN, "Connection: close")
_OVERLOADED = "there is more to do than can be done"
_SHED, _SHED_UNKNOWN = (
    tuple(
        tuple(_raw_503(_OVERLOADED, seconds, outcome, *more) for seconds in (1, 2, 3))
        for more in ((), ("Connection: close",))
    )
    for outcome in (Outcome.NOT_EXECUTED, Outcome.UNKNOWN)
)
"""By whether the connection ends with it."""
