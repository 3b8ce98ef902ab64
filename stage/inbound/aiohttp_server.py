"""aiohttp's server with limits: makes the connections, counts them, watches over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from aiohttp import HttpVersion10, hdrs, web

from stage.inbound.aiohttp import CALLER, SERVER_HEADER, DirectHandler
from stage.inbound.aiohttp_connection import (
    GIVE_WAY_SECONDS,
    BoundedProtocol,
    ServerLimits,
    Waiting,
)
from stage.inbound.handshake import Handshake, TlsPort
from stage.inbound.held import HeldStarts
from stage.inbound.lookups import Lookups
from stage.inbound.overload import Overload
from stage.inbound.problems import of_status
from stage.inbound.request import PROBLEM_JSON
from stage.inbound.tls import ListenerTls

SWEEP_SECONDS = 1.0
"""How often connections are looked at: each limit of time is exceeded by at most so much."""
REPORT_SECONDS = 10.0
SETTLE_SECONDS_MAX = 1.0
"""Between the end of the drain delay and the drain: starts that are shed are answered then too."""
SETTLE_LOOKS = 100

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Reports(NamedTuple):
    """Where to report connections that did not come about: how many, and the last reason."""

    turned_away: Callable[[int], None]
    handshakes_failed: Callable[[int, str], None] = lambda _count, _reason: None


class Starts(NamedTuple):
    """The limit of what is started, and where to look for a start before it is refused."""

    overload: Overload
    lookups: Lookups


class BoundedServer(web.Server):
    """Makes the connections and watches over all of them.

    `reports` are called at most once in REPORT_SECONDS each.
    """

    def __init__(
        self,
        server: web.Server,
        limits: ServerLimits,
        reports: Reports,
        starts: Starts | None = None,
        direct: DirectHandler | None = None,
    ) -> None:
        """`server` is aiohttp's own, of which the handler and its requests are taken.

        `starts` says how starts are held; without it no saga is started at this server.

        `direct` handles the requests that need no router of its application.
        """
        handle = _counted(server.request_handler, direct)
        super().__init__(handle, request_factory=server.request_factory)
        overload, lookups = starts or Starts(Overload(), Lookups(_none_seen))
        self.overload = overload
        self.held = HeldStarts(lookups, overload)
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


async def _none_seen(_saga_ids: Sequence[str]) -> frozenset[str]:
    return frozenset()


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
