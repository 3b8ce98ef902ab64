"""One request to a peer: its circuit breaker, its span, and the headers that every request has."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec
from msgspec.structs import replace

from stage.outbound.breaker import Breaker
from stage.outbound.credentials import NotShown, PeerCredentials
from stage.outbound.proxy import Proxy
from stage.outbound.secret_files import Shown
from stage.ports.clock import Clock
from stage.ports.credentials import OutgoingRequest
from stage.ports.observer import Observer, TraceContext
from stage.ports.stage import Answer, Lost
from stage.wire import headers as h
from stage.wire.http import parse_retry_after

SERVER_ERROR = 500
CREDENTIALS_SHARE = 0.5
"""A share of the timeout: credentials that are not there in time must not end as a timeout."""


class BreakerUse(Enum):
    """The part that the breaker of its peer plays in a request."""

    GUARDED = "guarded"
    """It is held back while the breaker is open, and its end is recorded."""
    RECORDED = "recorded"
    """It always leaves, and its end is recorded."""
    IGNORED = "ignored"
    """It always leaves, and its end says nothing of the peer: a peer need not serve it."""


class PeerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a peer.

    `route` is the template of the path for the name of the span, empty where there is none. With
    `budget` (seconds left) the header Saga-Budget-Ms is sent. A request that is not `spanned` has
    no client span of its own: it is not part of a saga. A `fresh` one gets its own connection.
    """

    peer: str
    method: str
    url: str
    route: str
    breaker: BreakerUse
    trace: TraceContext
    timeout: float
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    budget: float | None = None
    spanned: bool = True
    credentials: PeerCredentials | None = None
    fresh: bool = False


class HttpTransport(Protocol):
    """Sends one HTTP request. `outbound.transport.Transport` keeps the law of the ports."""

    # Many because a value for each request would cost time and say no more.
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout: float,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        fresh: bool = False,
    ) -> Answer | Lost:
        """Send once and read the whole answer; `timeout` in seconds covers both.

        `fresh` asks for a connection that no other request has used.
        """
        ...


class PeerClient:
    """Sends to all peers of one stage and remembers which of them keep failing.

    `clock` is what HTTP dates are compared with, `monotonic` times the breakers.
    """

    def __init__(
        self,
        transport: HttpTransport,
        *,
        clock: Clock,
        observer: Observer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        answered: Callable[[str, str], None] | None = None,
    ) -> None:
        """`answered` is notified of the end of each request: the peer, and the code or a word."""
        self._transport = transport
        self._clock = clock
        self._observer = observer
        self._monotonic = monotonic
        self._answered = answered
        self._breakers: dict[str, Breaker] = {}

    @property
    def breakers(self) -> dict[str, bool]:
        """Every peer that was asked, and whether it is left alone now."""
        return {peer: breaker.waits for peer, breaker in list(self._breakers.items())}

    async def send(self, request: PeerRequest) -> Answer | Lost:
        """Send once, unless the breaker holds it back. See the law in `ports.external`."""
        shown = _NOTHING_SHOWN
        if request.credentials is not None:
            try:
                request, shown = await self._with_credentials(request, request.credentials)
            except NotShown as error:
                return Lost(reason=f"not sent: {request.peer}: {error}", certain=True)
        if request.breaker is BreakerUse.IGNORED:
            return await self._send(request, None, shown)
        breaker = self._breakers.get(request.peer)
        if breaker is None:
            breaker = self._breakers[request.peer] = Breaker(self._monotonic)
        if request.breaker is BreakerUse.GUARDED:
            left = breaker.refuses()
            if left is not None:
                return Lost(
                    reason=f"not sent: {request.peer} keeps failing, tried again in {left:.1f} s",
                    certain=True,
                    retry_after=left,
                )
        return await self._send(request, breaker, shown)

    async def _with_credentials(
        self, request: PeerRequest, credentials: PeerCredentials
    ) -> tuple[PeerRequest, Shown]:
        """The request, and beside it what it is shown: no value that may be printed holds both.

        Getting them takes of the time of the request. Raises NotShown.
        """
        outgoing = OutgoingRequest(
            method=request.method, url=request.url, headers=request.headers, body=request.body
        )
        began = self._monotonic()
        try:
            async with asyncio.timeout(request.timeout * CREDENTIALS_SHARE):
                shown = await credentials.show(outgoing)
        except TimeoutError:
            raise NotShown("its credentials were not there in time") from None
        names = {name.lower() for name, _ in shown.headers}
        headers = tuple(each for each in request.headers if each[0].lower() not in names)
        left = request.timeout - (self._monotonic() - began)
        return replace(request, headers=headers, timeout=left), shown

    async def _send(
        self, request: PeerRequest, breaker: Breaker | None, shown: Shown
    ) -> Answer | Lost:
        """Send and record the end, also when the wait for the answer is cancelled."""
        span, trace = None, request.trace
        if self._observer is not None and request.spanned:
            span = self._observer.client(
                request.method, request.url, peer=request.peer, route=request.route, parent=trace
            )
            trace = span.context
        answered = False
        end, reason = "cancelled", ""
        try:
            answer = await self._transport.send(
                request.method,
                request.url,
                headers=_headers(request, shown, trace),
                body=request.body,
                timeout=request.timeout,
                tls=shown.tls,
                proxy=shown.proxy,
                fresh=request.fresh,
            )
            if isinstance(answer, Lost):
                end, reason = answer.error, answer.reason
                return answer
            answered = answer.status < SERVER_ERROR
            end = str(answer.status)
            return self._with_retry_after(answer)
        finally:
            if breaker is not None:
                breaker.record(answered=answered)
            if self._answered is not None:
                self._answered(request.peer, end)
            if span is not None:
                span.end(end, reason)

    def _with_retry_after(self, answer: Answer) -> Answer:
        for name, value in answer.headers:
            if len(name) == _RETRY_AFTER_CHARS and name.lower() == _RETRY_AFTER:
                seconds = parse_retry_after(value, self._clock.now())
                return replace(answer, retry_after=seconds)
        return answer


_NOTHING_SHOWN = Shown()
_RETRY_AFTER = h.RETRY_AFTER.lower()
_RETRY_AFTER_CHARS = len(_RETRY_AFTER)
"""Lengths are compared first: answers have many headers, and few have this one."""


def _headers(request: PeerRequest, shown: Shown, trace: TraceContext) -> list[tuple[str, str]]:
    """All headers of a request: its own, what it is shown, its budget, its trace."""
    headers = [*request.headers, *shown.headers]
    if request.budget is not None:
        headers.append((h.SAGA_BUDGET_MS, str(max(0, int(request.budget * 1000)))))
    if trace.traceparent:
        headers.append((h.TRACEPARENT, trace.traceparent))
        if trace.tracestate:
            headers.append((h.TRACESTATE, trace.tracestate))
    if trace.baggage:
        headers.append((h.BAGGAGE, trace.baggage))
    return headers
