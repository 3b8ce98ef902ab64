"""The neighbours at both ends of the chain, with books of their own. They keep to the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from math import inf
from typing import Any
from urllib.parse import parse_qs
from zlib import crc32

import msgspec

from stage.outbound.transport import ANSWER_BYTES_MAX
from stage.ports.stage import Answer, Lost
from stage.simulation.facts import Local
from stage.simulation.loop import EPOCH
from stage.simulation.network import NOT_NOW, Headers, Message, Network
from stage.wire import headers as h
from stage.wire.envelope import (
    Envelope,
    TrailEntry,
    decode_envelope,
    encode_envelope,
    format_instant,
)
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem
from stage.wire.replies import decode_compensate, encode_compensate, encode_executed
from stage.wire.shared import SharedPage, SharedSaga, Side

CLIENT = "client"
TAIL = "tail"
TIMEOUT_SECONDS = 28.0
REFUSED_PAYLOAD = frozenset({410, 422, 503})
ASKED_MAX = 5
"""How often a client asks while it gets no answer."""
PATIENCE_SECONDS = (4.0, 60.0)
DEADLINE_SECONDS = (0.2, 12.0)
LATE_SECONDS = (0.0, 20.0)
TEXT = 60_000
"""The characters of each text with which an answer of the tail is filled."""
CANNOT_SECONDS = (1.0, 60.0)
PAUSE_SECONDS_MAX = 300.0
"""Between two requests to compensate, once nothing but a long outage is left of the faults."""
SAYS_SOMETHING = frozenset({200, 202, 409, 410, 422})
"""Codes that tell a stranger something of a saga; a gateway puts 404 or a 5xx over a 403."""
STRANGER = "web"
"""Another upstream of the first stage, which counts its orders as the client does."""
OTHER_AMOUNT = 666_666
"""The amount in another payload under the same id; no client asks for as much."""


class Verdict(StrEnum):
    """The belief of a client about its saga."""

    OPEN = "open"
    EXECUTED = "executed"
    FAILED = "failed"
    """Nothing of it stands behind the client."""
    STANDS = "stands"
    """The stage said that it cannot compensate."""


AGREED: dict[int, tuple[Outcome, ...]] = {
    200: (Outcome.EXECUTED,),
    202: (Outcome.IN_PROGRESS,),
    400: (Outcome.NOT_EXECUTED,),
    409: (Outcome.COMPENSATED, Outcome.NOT_EXECUTED),
    410: (Outcome.COMPENSATED, Outcome.NOT_EXECUTED),
    413: (Outcome.NOT_EXECUTED,),
    415: (Outcome.NOT_EXECUTED,),
    422: (Outcome.NOT_EXECUTED,),
    429: (Outcome.NOT_EXECUTED,),
    503: (Outcome.NOT_EXECUTED,),
    504: (Outcome.NOT_EXECUTED,),
}
"""Which outcomes agree with a code, of an answer to `POST /sagas` (protocol 3.3)."""
AGREED_UNDO: dict[int, tuple[Outcome, ...]] = {
    200: (Outcome.COMPENSATED, Outcome.NOT_EXECUTED),
    202: (Outcome.IN_PROGRESS,),
    409: (Outcome.EXECUTED, Outcome.UNKNOWN),
    410: (Outcome.COMPENSATED, Outcome.NOT_EXECUTED, Outcome.UNKNOWN),
}
"""The outcomes that agree with the code of an answer to `compensate` (protocol 3.4)."""
REJECTED = frozenset({400, 413, 415, 422})
"""A no to a request that could not be read is about a saga only where it names that."""
GONE = 410
IN_DOUBT = frozenset({400, 409, 410, 413, 415, 422})
"""A no in doubt, where the body does not say so: it is compensated, not repeated."""


def own_word(
    answer: Answer | Lost, saga: str, agreed: Mapping[int, tuple[Outcome, ...]]
) -> Outcome | None:
    """The outcome that an answer states of this saga in agreement with its code, if it does.

    Read apart from `stage.wire.replies`, as a witness of it.
    """
    if isinstance(answer, Lost):
        return None
    try:
        stated = msgspec.json.decode(answer.body)
        if stated.get("saga_id", "" if answer.status in REJECTED else saga) != saga:
            return None
        outcome = Outcome(stated["outcome"])
    except (msgspec.DecodeError, AttributeError, KeyError, ValueError):
        return None
    return outcome if outcome in agreed.get(answer.status, ()) else None


class Order(msgspec.Struct, kw_only=True):
    """One saga as its client sees it."""

    saga: str
    body: bytes
    data: Mapping[str, Any]
    deadline: float | None = None
    verdict: Verdict = Verdict.OPEN
    asked_back: bool = False
    """The stage asked us to compensate."""
    asked: bool = False
    """We asked the stage to compensate."""
    nothing_stands: bool = False
    """The stage's own word is that nothing of it stands there."""
    buried: bool = False
    """We asked before we sent it."""
    accepted: bool = False
    done: bool = False
    cannot_until: float | None = None
    """Until when we say that we cannot compensate it; None before we were asked."""
    turning: asyncio.Task[None] | None = None
    """We are about to turn back by ourselves."""

    def open(self) -> bool:
        """True while the client does not know how it went."""
        return self.verdict is Verdict.OPEN

    @property
    def is_turning(self) -> bool:
        """Whether the client is about to take it back by itself."""
        return self.turning is not None and not self.turning.done()


class Client:
    """The stage before the first one: sends sagas, and follows protocol 3.3 and 3.4."""

    def __init__(self, first: str, network: Network) -> None:
        self._first = first
        self._network = network
        self._loop = network.loop
        self._random = network.random
        self._faults = network.faults
        self._books = network.books
        self.orders: dict[str, Order] = {}

    # --- the way in ------------------------------------------------------------------------------

    async def serve(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """The stage tells us of a late failure, and we take over; or asks for what we share."""
        if method == "GET":
            return _shared(path, CLIENT, [_as_upstream(order) for order in self.orders.values()])
        saga = path.removeprefix("/sagas/").removesuffix("/compensate")
        order = self.orders.get(saga)
        if order is not None and self._cannot(order):
            self._books.tell(saga, CLIENT, "is asked to compensate, and cannot")
            self._books.cannot.add(saga)
            return _problem(409, saga, Outcome.EXECUTED)
        if order is not None:
            order.asked_back = True
            word = decode_compensate(body).outcome
            order.nothing_stands = order.nothing_stands or word is Outcome.COMPENSATED
            if word is Outcome.COMPENSATED or order.verdict is not Verdict.STANDS:
                order.verdict = Verdict.FAILED
            self._books.tell(saga, CLIENT, "is asked to compensate")
        return _undone(saga)

    def _cannot(self, order: Order) -> bool:
        """Whether it says so now: from the first notification on, or from none.

        Of four such sagas one stays so, and one is taken back by the client itself after a while;
        the others are once they are asked for again.
        """
        if order.cannot_until is None:
            until = 0.0
            if self._faults.happens("client_cannot"):
                way = crc32(f"{order.saga}/cannot".encode()) % 4
                seconds = self._random.uniform(*CANNOT_SECONDS)
                until = inf if way == 0 else self._loop.time() + seconds
                if way == 1:
                    order.turning = self._loop.create_task(self._turn(order, seconds))
            order.cannot_until = until
        return self._loop.time() < order.cannot_until

    async def _turn(self, order: Order, seconds: float) -> None:
        """It turns back by itself, and says so to the stage."""
        await asyncio.sleep(seconds)
        await self.undo(order)

    # --- one saga --------------------------------------------------------------------------------

    def begin(self, saga: str, data: Mapping[str, Any], deadline: float | None = None) -> Order:
        """A saga that is to be sent."""
        body = _envelope(saga, data, CLIENT, deadline, now=EPOCH + self._loop.time())
        order = Order(saga=saga, body=body, data=data, deadline=deadline)
        self.orders[saga] = order
        self._books.payloads[saga] = msgspec.json.encode(data)
        return order

    async def run(self, saga: str, data: Mapping[str, Any]) -> None:
        """Send one saga and follow it to its end, with the whims of this world."""
        faults, random = self._faults, self._random
        deadline = None
        if faults.happens("deadline"):
            now = EPOCH + self._loop.time()
            deadline = round(now + random.uniform(*DEADLINE_SECONDS), 3)
        order = self.begin(saga, data, deadline)
        whims: list[asyncio.Task[None]] = []
        if faults.happens("early_compensation"):
            if random.random() < 0.5:
                await self.undo(order)
                order.buried = True
            else:
                whims.append(self._later(1.0, self.undo, order))
        if faults.happens("repeat"):
            whims.append(self._later(15.0, self.repeat, order))
        if faults.happens("other_payload"):
            whims.append(self._later(10.0, self._other, order))
        if faults.happens("stranger"):
            whims.append(self._later(20.0, self._stranger, order))
        await self.execute(order)
        if faults.happens("repeat"):
            await self.repeat(order)
        if order.verdict is Verdict.EXECUTED and faults.happens("late_compensation"):
            await asyncio.sleep(random.uniform(*LATE_SECONDS))
            await self.undo(order)
        if whims:
            await asyncio.wait(whims)
        order.done = True

    def _later(
        self, most: float, work: Callable[[Order], Awaitable[None]], order: Order
    ) -> asyncio.Task[None]:
        async def later() -> None:
            await asyncio.sleep(self._random.uniform(0.0, most))
            await work(order)

        return self._loop.create_task(later())

    async def execute(self, order: Order) -> None:
        """Until it is known how it went, or the patience is over; then undo it."""
        random = self._random
        until = self._loop.time() + random.uniform(*PATIENCE_SECONDS)
        sync = not self._faults.happens("not_waiting")
        while order.open():
            answer = await self.post(order, order.body, wait=sync)
            if not order.open():  # the stage asked us to compensate meanwhile
                return
            word = own_word(answer, order.saga, AGREED)
            status = _status(answer)
            match word:
                case Outcome.EXECUTED:
                    order.accepted = True
                    order.verdict = Verdict.FAILED if order.asked else Verdict.EXECUTED
                    return
                case Outcome.COMPENSATED | Outcome.NOT_EXECUTED if status not in NOT_NOW:
                    # This answer does not undo the effect of an earlier request of ours, unless it
                    # says that nothing stands.
                    order.accepted = order.accepted or status in (409, 410)
                    order.nothing_stands = order.nothing_stands or status in (409, 410)
                    order.verdict = Verdict.FAILED
                    return
                case Outcome.IN_PROGRESS:
                    order.accepted = True
                case None if status in IN_DOUBT:
                    await self.undo(order)
                    return
                case _:
                    pass
            if self._loop.time() > until:
                await self.undo(order)
                return
            await asyncio.sleep(random.uniform(0.1, 2.0))

    async def post(self, order: Order, body: bytes, *, wait: bool) -> Answer | Lost:
        """One `POST /sagas`."""
        sent = [
            ("Content-Type", h.CONTENT_JSON),
            (h.IDEMPOTENCY_KEY, order.saga),
            (h.PREFER, f"wait={self._random.randint(1, 25)}" if wait else "respond-async"),
        ]
        answer = await self._network.carry(
            self._message(CLIENT, order, "/sagas", sent, body), TIMEOUT_SECONDS
        )
        self._heard(order, "POST /sagas", answer)
        return answer

    def _message(
        self, source: str, order: Order, path: str, headers: Headers, body: bytes
    ) -> Message:
        """A request to the head of the chain."""
        return Message(
            source=source,
            target=self._first,
            path=path,
            headers=headers,
            body=body,
            saga=order.saga,
        )

    def _heard(self, order: Order, what: str, answer: Answer | Lost) -> None:
        heard = answer.reason if isinstance(answer, Lost) else str(answer.status)
        self._books.tell(order.saga, CLIENT, f"{what} -> {heard}")

    async def undo(self, order: Order) -> None:
        """Ask to compensate until it is answered."""
        order.asked = True
        path = f"/sagas/{order.saga}/compensate"
        body = encode_compensate(CLIENT, "the client turned back")
        message = self._message(CLIENT, order, path, [("Content-Type", h.CONTENT_JSON)], body)
        wait = 0.2
        while True:
            answer = await self._network.carry(message, TIMEOUT_SECONDS)
            self._heard(order, "compensate", answer)
            word = own_word(answer, order.saga, AGREED_UNDO)
            if word not in (None, Outcome.IN_PROGRESS):
                self._books.cannot.discard(order.saga)  # the stage knows by now that we know
            match word:
                case Outcome.COMPENSATED | Outcome.NOT_EXECUTED:
                    order.verdict = Verdict.FAILED
                    order.nothing_stands = True
                    return
                case Outcome.UNKNOWN if _status(answer) == GONE:  # an operator there took it over
                    order.verdict = Verdict.FAILED
                    return
                case Outcome.EXECUTED | Outcome.UNKNOWN:
                    order.verdict = Verdict.STANDS
                    return
                case _:
                    pass
            wait = min(wait * 2, 20.0 if self._faults.on else PAUSE_SECONDS_MAX)
            await asyncio.sleep(self._random.uniform(0.5, 1.0) * wait)

    async def repeat(self, order: Order) -> None:
        """Send it once more, whatever is known of it."""
        await self.post(order, order.body, wait=self._random.random() < 0.7)

    async def _other(self, order: Order) -> None:
        """Another payload under the same id, once the first was certainly taken."""
        if not order.accepted or order.buried:
            return
        data = {**order.data, "amount": OTHER_AMOUNT, "other": True}
        body = _envelope(order.saga, data, CLIENT)
        for _ in range(ASKED_MAX):
            answer = await self.post(order, body, wait=True)
            if own_word(answer, order.saga, AGREED) in (Outcome.EXECUTED, Outcome.IN_PROGRESS):
                self._books.violate(
                    "I9", order.saga, f"another payload under the same id was answered {answer}"
                )
            if isinstance(answer, Lost) or answer.status in REFUSED_PAYLOAD:
                return
            await asyncio.sleep(1.0)  # it stopped before it had looked, or a gateway answered

    async def _stranger(self, order: Order) -> None:
        """Another upstream sends a saga of the same id and data, and then has it compensated."""
        if not order.accepted or order.buried:
            return
        body = _envelope(order.saga, order.data, STRANGER)
        await self._intrude(order, "/sagas", body, ((h.IDEMPOTENCY_KEY, order.saga),))
        path = f"/sagas/{order.saga}/compensate"
        await self._intrude(order, path, encode_compensate(STRANGER, "not its own"))

    async def _intrude(self, order: Order, path: str, body: bytes, more: Headers = ()) -> None:
        sent = [("Content-Type", h.CONTENT_JSON), *more]
        answer = await self._network.carry(
            self._message(STRANGER, order, path, sent, body), TIMEOUT_SECONDS
        )
        word = own_word(answer, order.saga, AGREED if path == "/sagas" else AGREED_UNDO)
        status = _status(answer)
        self._books.tell(order.saga, STRANGER, f"POST {path} -> {status} {word}")
        if word is not None and status in SAYS_SOMETHING:
            self._books.strangers_answer(self._first, order.saga, path, status)


class Tail:
    """A model of the stage at the end: keeps its books, refuses, or fails after it said yes."""

    def __init__(self, upstream: str, network: Network) -> None:
        self._upstream = upstream
        self._network = network
        self._loop = network.loop
        self._random = network.random
        self._faults = network.faults
        self._books = network.books
        self._answers: dict[str, Answer] = {}
        self._bodies: dict[str, bytes] = {}
        self._late: list[asyncio.Task[None]] = []
        self.failing: set[str] = set()
        """Sagas that it said yes to, and will fail: no world is at rest before it has."""
        self.late_failures: dict[str, bool] = {}
        """Late failures: whether upstream has taken over."""

    def local(self, saga: str) -> Local:
        """Its local work for a saga."""
        return self._books.local.setdefault((TAIL, saga, ""), Local())

    async def serve(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """`POST /sagas` and `POST /sagas/{id}/compensate`."""
        if path == "/sagas":
            return self._execute(decode_envelope(body), body)
        if path.startswith("/sagas?"):
            return _shared(path, TAIL, [self._as_downstream(saga) for saga in self._answers])
        if method == "GET":
            return self._look(path.removeprefix("/sagas/"))
        saga = path.removeprefix("/sagas/").removesuffix("/compensate")
        self._undo(saga)
        return _undone(saga)

    def _execute(self, envelope: Envelope, body: bytes) -> Answer:
        saga = envelope.saga_id
        before = self._bodies.setdefault(saga, body)
        if before != body:
            self._books.violate("I4", saga, "the tail was handed two different contexts")
        if saga not in self._answers:
            now = EPOCH + self._loop.time()
            if envelope.deadline is not None and envelope.deadline <= now:
                self._answers[saga] = _problem(504, saga, Outcome.NOT_EXECUTED)
            elif self._faults.happens("tail_refuses"):
                self._answers[saga] = _problem(409, saga, Outcome.NOT_EXECUTED)
            else:
                self.local(saga).done += 1
                self._books.tell(saga, TAIL, "EFFECT made")
                self._answers[saga] = Answer(status=200, body=self._executed(saga))
                self._books.said_yes.add((TAIL, saga))
                if self._faults.happens("tail_fails_late"):
                    self.failing.add(saga)
                    self._late.append(self._loop.create_task(self._fail_late(saga)))
        return self._answers[saga]

    def _executed(self, saga: str) -> bytes:
        """Its yes, with what it adds: seldom too much, alone or with what its upstream adds."""
        body = encode_executed(saga, {TAIL: {}})
        if not self._faults.happens("tail_oversized"):
            return body
        alone = crc32(saga.encode()) % 2
        wanted = ANSWER_BYTES_MAX + (9 if alone else -9)
        whole, rest = divmod(wanted - len(encode_executed(saga, {TAIL: {"texts": []}})), TEXT + 3)
        texts = ["x" * TEXT] * whole + ["x" * max(0, rest - 3)]
        return encode_executed(saga, {TAIL: {"texts": texts}})

    def _look(self, saga: str) -> Answer:
        answer = self._answers.get(saga)
        if answer is None:
            return _problem(404, saga, Outcome.NOT_EXECUTED)
        outcome = Outcome.EXECUTED if answer.status == 200 else Outcome.COMPENSATED
        shown = {"saga_id": saga, "outcome": outcome}
        return Answer(status=200, body=msgspec.json.encode(shown))

    def _as_downstream(self, saga: str) -> SharedSaga:
        executed = self._answers[saga].status == 200
        body = self._bodies.get(saga)
        return SharedSaga(
            saga_id=saga,
            side=Side.DOWNSTREAM,
            outcome=Outcome.EXECUTED if executed else Outcome.COMPENSATED,
            accepted_at=format_instant(EPOCH),
            updated_at=format_instant(EPOCH),
            envelope=None if body is None else msgspec.json.decode(body),
        )

    def _undo(self, saga: str) -> None:
        local = self.local(saga)
        if local.done > local.undone:
            local.undone = local.done
            self._books.tell(saga, TAIL, "EFFECT undone")
        self._answers[saga] = _problem(410, saga, Outcome.COMPENSATED)

    async def _fail_late(self, saga: str) -> None:
        """It said yes, fails, and asks upstream until that answers.

        It undoes its part before it asks, and says so, or when it is asked in turn.
        """
        await asyncio.sleep(self._random.uniform(*LATE_SECONDS))
        self.failing.discard(saga)
        if self.local(saga).done == self.local(saga).undone:
            return
        self._books.tell(saga, TAIL, "fails late")
        self.late_failures[saga] = False
        path = f"/sagas/{saga}/compensate"
        word = Outcome.COMPENSATED if self._random.random() < 0.5 else None
        if word is not None:  # without its word it is asked in turn, and undoes its part then
            self._undo(saga)
        body = encode_compensate(TAIL, "failed late", word)
        message = Message(source=TAIL, target=self._upstream, path=path, body=body, saga=saga)
        wait = 5.0
        while True:
            answer = await self._network.carry(message, TIMEOUT_SECONDS)
            if own_word(answer, saga, AGREED_UNDO) is not None:
                self.late_failures[saga] = True
                return
            wait = min(wait * 2, 5.0 if self._faults.on else PAUSE_SECONDS_MAX)
            await asyncio.sleep(self._random.uniform(0.04, 1.0) * wait)


def _as_upstream(order: Order) -> SharedSaga:
    outcome = Outcome.IN_PROGRESS if order.open() else Outcome.UNKNOWN
    if order.nothing_stands:
        outcome = Outcome.COMPENSATED
    elif order.verdict is Verdict.EXECUTED:
        outcome = Outcome.EXECUTED
    return SharedSaga(
        saga_id=order.saga,
        side=Side.UPSTREAM,
        outcome=outcome,
        accepted_at=format_instant(EPOCH),
        updated_at=format_instant(EPOCH),
        envelope=msgspec.json.decode(order.body),
    )


def _shared(path: str, stage: str, sagas: list[SharedSaga]) -> Answer:
    """The list of the sagas that the asker shares with that neighbour (protocol 3.8)."""
    asker = parse_qs(path.partition("?")[2])["with"][0]
    page = SharedPage(stage=stage, shared_with=asker, sagas=sagas)
    return Answer(status=200, body=msgspec.json.encode(page))


def _status(answer: Answer | Lost) -> int:
    return 0 if isinstance(answer, Lost) else answer.status


def _undone(saga: str) -> Answer:
    shown = {"saga_id": saga, "outcome": Outcome.COMPENSATED}
    return Answer(status=200, body=msgspec.json.encode(shown))


def _envelope(
    saga: str,
    data: Mapping[str, Any],
    sender: str,
    deadline: float | None = None,
    *,
    now: float = EPOCH,
) -> bytes:
    trail = (TrailEntry(stage=sender, at=format_instant(now)),)
    envelope = Envelope(saga_id=saga, data=dict(data), deadline=deadline, trail=trail)
    return encode_envelope(envelope)


def _problem(status: int, saga: str, outcome: Outcome) -> Answer:
    problem = Problem(status=status, title="No", outcome=outcome, saga_id=saga)
    return Answer(status=status, body=problem.encode())
