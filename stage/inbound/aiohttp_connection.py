"""One connection of aiohttp's server with limits: how long it may keep us waiting.

aiohttp waits for the rest of a head for an hour, and for ever for a client that reads no answer.
Only the methods of `asyncio.Protocol` and the public ones of aiohttp are overridden here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol, cast

import msgspec
from aiohttp import web

from stage.inbound.aiohttp import SERVER_HEADER, Connection
from stage.inbound.client_certificate import certificate_of
from stage.inbound.held import HeldStarts, Turn
from stage.inbound.kernel_queue import UNACKNOWLEDGED, UNREAD, finished, queued, reset
from stage.inbound.overload import Overload
from stage.inbound.problems import of_status
from stage.inbound.request import PROBLEM_JSON
from stage.inbound.unparsed import TURNED_AWAY, is_whole_start, key_in, shed
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem

READ_SECONDS = 2.0
"""An answer that its reader has not acknowledged for so long is looked at. Earlier it may be on its
way, and to ask the kernel about each of thousands of busy connections took a twentieth of all
time."""
GIVE_WAY_SECONDS = 0.5
"""A connection that has waited for less gives way to no other one."""


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


class Connections(Protocol):
    """The server, as its connections know it. `BoundedServer` says what each member holds."""

    overload: Overload
    held: HeldStarts
    retiring: bool
    now: Callable[[], float]

    def has_room(self) -> bool: ...

    def lets_in(self, protocol: BoundedProtocol, now: float) -> bool: ...

    def answered(self, protocol: BoundedProtocol) -> None: ...

    def waits(self, protocol: Waiting) -> float: ...

    def is_waiting(self, protocol: Waiting) -> bool: ...

    def waits_since(self, protocol: Waiting) -> float | None: ...

    def forget(self, protocol: Waiting) -> None: ...


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

    def __init__(self, server: Connections, **options: Any) -> None:
        super().__init__(cast(web.Server, server), **options)
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
            transport.write(TURNED_AWAY)
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
        transport.write(shed(not_seen=turn is Turn.NOT_SEEN, ends=ends))
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
        return self.transport is not None and queued(self.transport, UNREAD)

    def close(self) -> None:
        """End after the request that is being answered; at once where there is none.

        aiohttp would leave that one open until the end of the drain, and read nothing from it. One
        whose request has come to the kernel in this moment is left to answer it.
        """
        transport = self.transport
        if transport is None or self._messages or not self._server.is_waiting(self):
            super().close()
        elif finished(transport):
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
            reset(self.transport)
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
            reset(transport)
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
            unread = self._held is None and queued(transport, UNACKNOWLEDGED)
            return before if unread else None
        if now - waits < READ_SECONDS or waits == self._read_since:
            return None
        if queued(transport, UNACKNOWLEDGED):
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


def _unanswered(status: int) -> Problem:
    return Problem(
        status=status,
        title="Not answered",
        detail="a defect; whether anything was executed is not known",
        outcome=Outcome.UNKNOWN,
        retryable=True,
        hint="retry under the same saga id",
    )
