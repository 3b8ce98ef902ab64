"""Version 1 of the protocol as it is spoken to neighbours.

The `read_…` functions give an answer its meaning and are pure. The class only sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import assert_never
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from stage.outbound.client import BreakerUse, PeerClient, PeerRequest
from stage.outbound.credentials import PeerCredentials
from stage.ports.cached import of_now
from stage.ports.neighbour import (
    CannotCompensate,
    Compensated,
    CompensateReply,
    Executed,
    ForwardReply,
    InProgress,
    NoInDoubt,
    NotExecuted,
    NotUnderstood,
    OutcomeReply,
    ShownExecuted,
)
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.wire import headers as h
from stage.wire.chain import CHAIN_ASKED, CHAIN_HOPS, ChainView, decode_chain
from stage.wire.envelope import format_instant, path_of_saga
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.problem import WireError, decode_problem
from stage.wire.replies import (
    NOT_ALLOWED_CODES,
    UNSERVED_CODES,
    CompensateReplyKind,
    CompensateRequest,
    ReplyKind,
    decode_executed,
    encode_compensate,
    kind_of_compensate_reply,
    kind_of_reply,
    kind_of_saga_view,
)
from stage.wire.shared import SharedPage, decode_shared

REASON_CHARS_MAX = 300
SAGAS = "/sagas"
SAGA = "/sagas/{saga_id}"
COMPENSATE = "/sagas/{saga_id}/compensate"
OK = 200
WAIT_SHARE = 0.8
"""A share of the timeout: how long a neighbour may wait for an end before it answers 202."""

_JSON = ("Content-Type", h.CONTENT_JSON)


class ChainV1:
    """`ports.neighbour.Neighbours` over HTTP. The mappings are base URLs by name."""

    def __init__(
        self,
        client: PeerClient,
        *,
        downstreams: Mapping[str, str],
        upstreams: Mapping[str, str],
        credentials: Mapping[str, PeerCredentials] | None = None,
        renamed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`renamed` has the name of today by each name that a neighbour had before."""
        self._renamed = renamed
        names: dict[str, tuple[str, ...]] = {}
        for former, today in renamed.items():
            names[today] = (*names.get(today, (today,)), former)
        self._names = {each: names[today] for today in names for each in names[today]}
        self._client = client
        self._credentials = credentials or {}
        self._upstreams = frozenset(upstreams)
        addresses = {**upstreams, **downstreams}
        self._bases = {name: url.rstrip("/") for name, url in addresses.items()}

    def name_of_today(self, peer: str) -> str:
        """See `ports.neighbour.Neighbours`."""
        return self._renamed.get(peer, peer)

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See `ports.neighbour.Neighbours`."""
        return self._names.get(peer, (peer,))

    def is_upstream(self, peer: str) -> bool:
        """See `ports.neighbour.Neighbours`."""
        return self.name_of_today(peer) in self._upstreams

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
        """See `ports.neighbour.Neighbours`."""
        answer = await self._client.send(
            PeerRequest(
                peer=peer,
                method="POST",
                url=self._bases[peer] + SAGAS,
                route=SAGAS,
                breaker=BreakerUse.GUARDED,
                trace=trace,
                timeout=timeout,
                credentials=self._credentials.get(peer),
                headers=(
                    _JSON,
                    (h.IDEMPOTENCY_KEY, saga_id),
                    (h.PREFER, f"wait={max(1, int(timeout * WAIT_SHARE))}"),
                ),
                body=body,
                budget=budget,
            )
        )
        return answer if isinstance(answer, Lost) else read_forward(answer, saga_id)

    async def get_outcome(
        self, peer: str, saga_id: str, *, trace: TraceContext, timeout: float
    ) -> OutcomeReply:
        """See `ports.neighbour.Neighbours`. Neighbours need not serve it: no breaker heeds it."""
        answer = await self._client.send(
            PeerRequest(
                peer=peer,
                method="GET",
                url=self._url(peer, saga_id),
                route=SAGA,
                breaker=BreakerUse.IGNORED,
                trace=trace,
                timeout=timeout,
                credentials=self._credentials.get(peer),
                headers=(h.NO_CACHE,),
            )
        )
        answer = of_now(answer)
        return answer if isinstance(answer, Lost) else read_outcome(answer, saga_id)

    async def compensate(
        self,
        peer: str,
        saga_id: str,
        request: CompensateRequest,
        *,
        trace: TraceContext,
        timeout: float,
    ) -> CompensateReply:
        """See `ports.neighbour.Neighbours`."""
        peer = self.name_of_today(peer)
        answer = await self._client.send(
            PeerRequest(
                peer=peer,
                method="POST",
                url=self._url(peer, saga_id) + "/compensate",
                route=COMPENSATE,
                breaker=BreakerUse.RECORDED,
                trace=trace,
                timeout=timeout,
                credentials=self._credentials.get(peer),
                headers=(_JSON,),
                body=encode_compensate(
                    request.requested_by,
                    request.reason,
                    request.outcome,
                    first_sent_at=request.first_sent_at,
                ),
            )
        )
        return answer if isinstance(answer, Lost) else read_compensate(answer, saga_id)

    async def get_chain(
        self,
        peer: str,
        saga_id: str,
        *,
        asked: tuple[str, ...],
        hops: int,
        timeout: float,
        trace: TraceContext,
    ) -> ChainView | Lost:
        """See `ports.neighbour.Neighbours`. Not part of the saga: no span, and no breaker."""
        peer = self.name_of_today(peer)
        answer = await self._client.send(
            PeerRequest(
                peer=peer,
                method="GET",
                url=self._url(peer, saga_id) + "?view=chain",
                route=SAGA,
                breaker=BreakerUse.IGNORED,
                trace=trace,
                timeout=timeout,
                credentials=self._credentials.get(peer),
                headers=((CHAIN_ASKED, ",".join(asked)), (CHAIN_HOPS, str(hops))),
                budget=timeout,
                spanned=False,
            )
        )
        return answer if isinstance(answer, Lost) else read_chain(answer, saga_id)

    async def get_shared(
        self, peer: str, asker: str, *, since: float, after: str, timeout: float
    ) -> SharedPage | Lost:
        """See `ports.neighbour.Neighbours`. No saga is on its way: no span, and no breaker."""
        if peer not in self._bases:  # an orchestrator: it calls, and cannot be called
            return Lost(reason="it has no url", certain=True)
        asked = {"since": format_instant(since), "with": asker}
        query = urlencode({**asked, "after": after} if after else asked)
        answer = await self._client.send(
            PeerRequest(
                peer=peer,
                method="GET",
                url=f"{self._bases[peer]}{SAGAS}?{query}",
                route=SAGAS,
                breaker=BreakerUse.IGNORED,
                trace=TraceContext(),
                timeout=timeout,
                credentials=self._credentials.get(peer),
                headers=(h.NO_CACHE,),
                spanned=False,
            )
        )
        answer = of_now(answer)
        return answer if isinstance(answer, Lost) else read_shared(answer, asker)

    def _url(self, peer: str, saga_id: str) -> str:
        return self._bases[peer] + path_of_saga(saga_id)


def read_forward(answer: Answer, saga_id: str) -> ForwardReply:
    """The meaning of an answer to `POST /sagas` (protocol 3.3)."""
    wrong = ""
    if answer.status == OK:  # nearly all answers are a yes: it is read once
        try:
            data = decode_executed(answer.body, saga_id, DEFAULT_LIMITS)
            return Executed(data=msgspec.Raw(msgspec.json.encode(data)))
        except WireError as error:
            wrong = str(error)
    match kind_of_reply(answer.status, answer.body, saga_id):
        case ReplyKind.EXECUTED:
            return Lost(reason=f"answered 200 with a body that is not understood: {wrong}")
        case ReplyKind.ACCEPTED:
            return InProgress(retry_after=answer.retry_after)
        case ReplyKind.REFUSED | ReplyKind.GONE:
            return NotExecuted(reason=_reason(answer), saga_over=True)
        case ReplyKind.REJECTED | ReplyKind.TOO_LATE:
            return NotExecuted(reason=_reason(answer))
        case ReplyKind.IN_DOUBT:
            return NoInDoubt(reason=_reason(answer))
        case ReplyKind.NOT_NOW | ReplyKind.NOT_ALLOWED:
            return replace(_lost(answer, certain=True), not_now=True)
        case ReplyKind.UNKNOWN:
            return _lost(answer)
        case kind:
            assert_never(kind)


def read_outcome(answer: Answer, saga_id: str) -> OutcomeReply:
    """The meaning of an answer to `GET /sagas/{id}`. Only a word on the saga itself counts."""
    match kind_of_saga_view(answer.status, answer.body, saga_id):
        case ReplyKind.EXECUTED:
            return ShownExecuted()
        case ReplyKind.ACCEPTED:
            return InProgress(retry_after=answer.retry_after)
        case ReplyKind.GONE:
            reason = f"does not show it as executed ({answer.status})"
            return NotExecuted(reason=reason, saga_over=True)
        case _:
            return Lost(
                reason=_reason(answer),
                retry_after=answer.retry_after,
                unserved=answer.status in UNSERVED_CODES,
            )


def read_compensate(answer: Answer, saga_id: str) -> CompensateReply:
    """The meaning of an answer to `POST /sagas/{id}/compensate` (protocol 3.4)."""
    match kind_of_compensate_reply(answer.status, answer.body, saga_id):
        case CompensateReplyKind.COMPENSATED:
            return Compensated()
        case CompensateReplyKind.ACCEPTED:
            return InProgress(retry_after=answer.retry_after)
        case CompensateReplyKind.CANNOT:
            problem = decode_problem(answer.body)
            stands = problem.left if problem is not None else ()
            return CannotCompensate(reason=_reason(answer), stands=tuple(stands))
        case CompensateReplyKind.NOT_UNDERSTOOD:
            return NotUnderstood(reason=_reason(answer), retry_after=answer.retry_after)
        case CompensateReplyKind.NOT_NOW | CompensateReplyKind.AWAY:
            return _lost(answer)
        case kind:
            assert_never(kind)


def read_chain(answer: Answer, saga_id: str) -> ChainView | Lost:
    """The chain in an answer to `GET /sagas/{id}?view=chain`."""
    if answer.status != OK:
        return Lost(reason=_reason(answer))
    try:
        return decode_chain(answer.body, saga_id)
    except WireError as error:
        return Lost(reason=str(error))


def read_shared(answer: Answer, asker: str) -> SharedPage | Lost:
    """The page in an answer to `GET /sagas?since=`."""
    if answer.status != OK:
        return Lost(reason=_reason(answer), retry_after=answer.retry_after)
    try:
        return decode_shared(answer.body, asker)
    except WireError as error:
        return Lost(reason=str(error))


def _lost(answer: Answer, *, certain: bool = False) -> Lost:
    return Lost(
        reason=_reason(answer),
        certain=certain,
        retry_after=answer.retry_after,
        denied=answer.status in NOT_ALLOWED_CODES,
    )


def _reason(answer: Answer) -> str:
    problem = decode_problem(answer.body)
    text = "" if problem is None else problem.detail or problem.title
    said = f": {text}" if text else ""
    return f"answered {answer.status}{said}"[:REASON_CHARS_MAX]
