"""All that the stage talks to, by configured name: the names in a body never become addresses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import assert_never
from urllib.parse import quote

import msgspec

from stage.core.events import Request
from stage.outbound.breaker import Breaker
from stage.outbound.transport import Transport
from stage.ports.links import (
    Accepted,
    Cannot,
    Compensated,
    CompensateReply,
    Done,
    Executed,
    ForwardReply,
    LookReply,
    Refused,
)
from stage.ports.observer import Observer, TraceContext
from stage.ports.stage import Answer, Lost
from stage.wire import headers as h
from stage.wire.chain import CHAIN_ASKED, CHAIN_HOPS, ChainView, decode_chain
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.problem import WireError, decode_problem
from stage.wire.replies import (
    CompensateReply as ReplyToCompensate,
)
from stage.wire.replies import (
    ReplyKind,
    decode_executed,
    encode_compensate,
    kind_of_compensate_reply,
    kind_of_look,
    kind_of_reply,
    parse_retry_after,
)

REASON_CHARS_MAX = 300
SAGAS = "/sagas"
SAGA = "/sagas/{saga_id}"
COMPENSATE = "/sagas/{saga_id}/compensate"
SERVER_ERROR = 500
OK = 200


class HttpLinks:
    """The links over HTTP. Base URLs have no trailing slash."""

    def __init__(
        self,
        transport: Transport,
        *,
        externals: Mapping[str, str],
        downstreams: Mapping[str, str],
        upstreams: Mapping[str, str],
        observer: Observer | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._observer = observer
        self._breakers: dict[str, Breaker] = {}
        self._transport = transport
        self._externals = _bases(externals)
        self._neighbours = {**_bases(upstreams), **_bases(downstreams)}
        self._downstreams = _bases(downstreams)
        self._upstreams = _bases(upstreams)

    @property
    def breakers(self) -> dict[str, bool]:
        """Every peer that was asked, and whether it is left alone now."""
        return {peer: breaker.waits for peer, breaker in list(self._breakers.items())}

    def is_upstream(self, peer: str) -> bool:
        """See `ports.links.Links`."""
        return peer in self._upstreams

    async def exchange(
        self,
        peer: str,
        request: Request,
        *,
        key: str,
        trace: TraceContext,
        budget: float | None,
        timeout: float,
        breakable: bool,
    ) -> Answer | Lost:
        """See `ports.links.Links`."""
        breaker = self._breaker(peer)
        if breakable and (refused := _refused(peer, breaker)) is not None:
            return refused
        headers = [
            *request.headers,
            (h.IDEMPOTENCY_KEY, key),
            *_budget(budget),
        ]
        return await self._send(
            breaker,
            request.method,
            self._externals[peer] + request.path,
            peer=peer,
            route="",
            trace=trace,
            headers=headers,
            body=request.body,
            timeout=timeout,
        )

    async def forward(
        self,
        peer: str,
        saga_id: str,
        body: bytes,
        *,
        trace: TraceContext,
        budget: float | None,
        timeout: float,
    ) -> ForwardReply:
        """See `ports.links.Links`."""
        breaker = self._breaker(peer)
        if (refused := _refused(peer, breaker)) is not None:
            return refused
        headers = [
            ("Content-Type", h.CONTENT_JSON),
            (h.IDEMPOTENCY_KEY, saga_id),
            (h.PREFER, f"wait={max(1, int(timeout * 0.8))}"),
            *_budget(budget),
        ]
        answer = await self._send(
            breaker,
            "POST",
            self._downstreams[peer] + SAGAS,
            peer=peer,
            route=SAGAS,
            trace=trace,
            headers=headers,
            body=body,
            timeout=timeout,
        )
        return answer if isinstance(answer, Lost) else _read_forward(answer, saga_id)

    async def look(
        self, peer: str, saga_id: str, *, trace: TraceContext, timeout: float
    ) -> LookReply:
        """See `ports.links.Links`. Neighbours need not serve it: its failing tells no breaker."""
        answer = await self._send(
            None,
            "GET",
            f"{self._downstreams[peer]}/sagas/{quote(saga_id, safe='~:')}",
            peer=peer,
            route=SAGA,
            trace=trace,
            headers=[],
            body=b"",
            timeout=timeout,
        )
        return answer if isinstance(answer, Lost) else _read_look(answer, saga_id)

    async def compensate(
        self,
        peer: str,
        saga_id: str,
        *,
        requested_by: str,
        reason: str,
        trace: TraceContext,
        timeout: float,
    ) -> CompensateReply:
        """See `ports.links.Links`."""
        body = encode_compensate(requested_by, reason)
        answer = await self._send(
            self._breaker(peer),
            "POST",
            f"{self._neighbours[peer]}/sagas/{quote(saga_id, safe='~:')}/compensate",
            peer=peer,
            route=COMPENSATE,
            trace=trace,
            headers=[("Content-Type", h.CONTENT_JSON)],
            body=body,
            timeout=timeout,
        )
        return answer if isinstance(answer, Lost) else _read_compensate(answer)

    async def chain(
        self,
        peer: str,
        saga_id: str,
        *,
        asked: tuple[str, ...],
        hops: int,
        timeout: float,
        trace: TraceContext,
    ) -> ChainView | Lost:
        """See `ports.links.Neighbours`. Not part of the saga: no span, and no breaker."""
        answer = await self._transport.send(
            "GET",
            f"{self._neighbours[peer]}/sagas/{quote(saga_id, safe='~:')}?view=chain",
            headers=[
                (CHAIN_ASKED, ",".join(asked)),
                (CHAIN_HOPS, str(hops)),
                *_budget(timeout),
                *_trace(trace),
            ],
            body=b"",
            timeout=timeout,
        )
        if isinstance(answer, Lost):
            return answer
        if answer.status != OK:
            return Lost(reason=_reason(answer))
        try:
            return decode_chain(answer.body, saga_id)
        except WireError as error:
            return Lost(reason=str(error))

    async def _send(
        self,
        breaker: Breaker | None,
        method: str,
        url: str,
        *,
        peer: str,
        route: str,
        trace: TraceContext,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout: float,
    ) -> Answer | Lost:
        """Send, and let the breaker know, also when the wait for the answer is cancelled."""
        span = None
        if self._observer is not None:
            span = self._observer.client(method, url, peer=peer, route=route, parent=trace)
            trace = span.context
        answered = False
        outcome, reason = "cancelled", ""
        try:
            answer = await self._transport.send(
                method, url, headers=[*headers, *_trace(trace)], body=body, timeout=timeout
            )
            if isinstance(answer, Answer):
                answered = answer.status < SERVER_ERROR
                outcome = str(answer.status)
            else:
                outcome, reason = answer.error, answer.reason
            return answer
        finally:
            if breaker is not None:
                breaker.record(answered=answered)
            if span is not None:
                span.end(outcome, reason)

    def _breaker(self, peer: str) -> Breaker:
        breaker = self._breakers.get(peer)
        if breaker is None:
            breaker = self._breakers[peer] = Breaker(self._now)
        return breaker


def _refused(peer: str, breaker: Breaker) -> Lost | None:
    left = breaker.refuses()
    if left is None:
        return None
    return Lost(
        reason=f"not sent: {peer} keeps failing, tried again in {left:.1f} s",
        certain=True,
        retry_after=left,
    )


def _read_forward(answer: Answer, saga_id: str) -> ForwardReply:
    match kind_of_reply(answer.status):
        case ReplyKind.EXECUTED:
            try:
                data = decode_executed(answer.body, saga_id, DEFAULT_LIMITS)
            except WireError as error:
                return Lost(reason=f"answered 200 with a body that is not understood: {error}")
            return Executed(data=msgspec.Raw(msgspec.json.encode(data)))
        case ReplyKind.ACCEPTED:
            return Accepted(retry_after=_retry_after(answer))
        case ReplyKind.REFUSED | ReplyKind.GONE:
            return Refused(reason=_reason(answer), over=True)
        case ReplyKind.REJECTED | ReplyKind.TOO_LATE:
            return Refused(reason=_reason(answer))
        case ReplyKind.NOT_NOW:
            return Lost(reason=_reason(answer), certain=True, retry_after=_retry_after(answer))
        case ReplyKind.UNKNOWN:
            return Lost(reason=_reason(answer))
        case kind:
            assert_never(kind)


def _read_look(answer: Answer, saga_id: str) -> LookReply:
    match kind_of_look(answer.status, answer.body, saga_id):
        case ReplyKind.EXECUTED:
            return Done()
        case ReplyKind.ACCEPTED:
            return Accepted(retry_after=_retry_after(answer))
        case ReplyKind.GONE:
            return Refused(reason=f"does not show it as executed ({answer.status})", over=True)
        case _:
            return Lost(reason=_reason(answer), retry_after=_retry_after(answer))


def _read_compensate(answer: Answer) -> CompensateReply:
    match kind_of_compensate_reply(answer.status):
        case ReplyToCompensate.COMPENSATED:
            return Compensated()
        case ReplyToCompensate.ACCEPTED:
            return Accepted(retry_after=_retry_after(answer))
        case ReplyToCompensate.CANNOT:
            problem = decode_problem(answer.body)
            stands = problem.stands if problem is not None and problem.stands else ()
            return Cannot(reason=_reason(answer), stands=tuple(stands))
        case ReplyToCompensate.NOT_NOW | ReplyToCompensate.UNKNOWN:
            return Lost(reason=_reason(answer), retry_after=_retry_after(answer))
        case kind:
            assert_never(kind)


def _reason(answer: Answer) -> str:
    problem = decode_problem(answer.body)
    if problem is None:
        return f"answered {answer.status}"
    text = problem.detail or problem.title
    return f"answered {answer.status}: {text}"[:REASON_CHARS_MAX]


def _retry_after(answer: Answer) -> float | None:
    for name, value in answer.headers:
        if name.lower() == "retry-after":
            return parse_retry_after(value, time.time())
    return None


def _trace(trace: TraceContext) -> list[tuple[str, str]]:
    headers = []
    if trace.traceparent:
        headers.append((h.TRACEPARENT, trace.traceparent))
        if trace.tracestate:
            headers.append((h.TRACESTATE, trace.tracestate))
    if trace.baggage:
        headers.append((h.BAGGAGE, trace.baggage))
    return headers


def _budget(budget: float | None) -> list[tuple[str, str]]:
    return [] if budget is None else [(h.SAGA_BUDGET_MS, str(max(0, int(budget * 1000))))]


def _bases(urls: Mapping[str, str]) -> dict[str, str]:
    return {name: url.rstrip("/") for name, url in urls.items()}
