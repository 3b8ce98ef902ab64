"""The neighbours at both ends of the chain, with books of their own. They keep to the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import Any

import msgspec

from stage.ports.stage import Answer, Lost
from stage.simulation.books import Books, Local
from stage.simulation.faults import Faults
from stage.simulation.loop import EPOCH, VirtualLoop
from stage.simulation.network import Headers, Network
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
from stage.wire.replies import encode_compensate, encode_executed

CLIENT = "client"
TAIL = "tail"
TIMEOUT_SECONDS = 28.0
ASKED_MAX = 5
"""How often a client asks while it gets no answer."""
PATIENCE_SECONDS = (4.0, 60.0)
DEADLINE_SECONDS = (0.2, 12.0)
LATE_SECONDS = (0.0, 20.0)
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
    buried: bool = False
    """We asked before we sent it."""
    accepted: bool = False
    done: bool = False

    def open(self) -> bool:
        """True while the client does not know how it went."""
        return self.verdict is Verdict.OPEN


class Client:
    """The stage before the first one: sends sagas, and follows protocol 3.3 and 3.4."""

    def __init__(
        self,
        first: str,
        network: Network,
        loop: VirtualLoop,
        random: Random,
        faults: Faults,
        books: Books,
    ) -> None:
        self._first = first
        self._network = network
        self._loop = loop
        self._random = random
        self._faults = faults
        self._books = books
        self.orders: dict[str, Order] = {}

    # --- the way in ------------------------------------------------------------------------------

    async def serve(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """The stage tells us of a late failure: we take over."""
        saga = path.removeprefix("/sagas/").removesuffix("/compensate")
        order = self.orders.get(saga)
        if order is not None:
            order.asked_back = True
            if order.verdict is Verdict.EXECUTED or order.verdict is Verdict.OPEN:
                order.verdict = Verdict.FAILED
            self._books.tell(saga, CLIENT, "is asked to compensate")
        return _undone(saga)

    # --- one saga --------------------------------------------------------------------------------

    def begin(self, saga: str, data: Mapping[str, Any], deadline: float | None = None) -> Order:
        """A saga that is to be sent."""
        now = EPOCH + self._loop.time()
        trail = (TrailEntry(stage=CLIENT, at=format_instant(now)),)
        envelope = Envelope(saga_id=saga, data=dict(data), deadline=deadline, trail=trail)
        order = Order(saga=saga, body=encode_envelope(envelope), data=data, deadline=deadline)
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
            match answer:
                case Answer(status=200):
                    order.accepted = True
                    order.verdict = Verdict.FAILED if order.asked else Verdict.EXECUTED
                    return
                case Answer(status=409 | 410 | 400 | 422 | 504):
                    # This answer does not undo the effect of an earlier request of ours, unless it
                    # says that nothing stands.
                    order.accepted = order.accepted or answer.status in (409, 410)
                    order.verdict = Verdict.FAILED
                    return
                case Answer(status=202):
                    order.accepted = True
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
            CLIENT, self._first, "POST", "/sagas", sent, body, TIMEOUT_SECONDS, order.saga
        )
        self._heard(order, "POST /sagas", answer)
        return answer

    def _heard(self, order: Order, what: str, answer: Answer | Lost) -> None:
        heard = answer.reason if isinstance(answer, Lost) else str(answer.status)
        self._books.tell(order.saga, CLIENT, f"{what} -> {heard}")

    async def undo(self, order: Order) -> None:
        """Ask to compensate until it is answered."""
        order.asked = True
        path = f"/sagas/{order.saga}/compensate"
        body = encode_compensate(CLIENT, "the client turned back")
        sent = [("Content-Type", h.CONTENT_JSON)]
        wait = 0.2
        while True:
            answer = await self._network.carry(
                CLIENT, self._first, "POST", path, sent, body, TIMEOUT_SECONDS, order.saga
            )
            self._heard(order, "compensate", answer)
            if isinstance(answer, Answer):
                if answer.status in (200, 410):
                    order.verdict = Verdict.FAILED
                    return
                if answer.status == 409:
                    order.verdict = Verdict.STANDS
                    return
            wait = min(wait * 2, 20.0)
            await asyncio.sleep(self._random.uniform(0.5, 1.0) * wait)

    async def repeat(self, order: Order) -> None:
        """Send it once more, whatever is known of it."""
        await self.post(order, order.body, wait=self._random.random() < 0.7)

    async def _other(self, order: Order) -> None:
        """Another payload under the same id, once the first was certainly taken."""
        if not order.accepted or order.buried:
            return
        trail = (TrailEntry(stage=CLIENT, at=format_instant(EPOCH)),)
        data = {**order.data, "amount": OTHER_AMOUNT, "other": True}
        body = encode_envelope(Envelope(saga_id=order.saga, data=data, trail=trail))
        status = 500
        for _ in range(ASKED_MAX):
            if status != 500:
                break
            answer = await self.post(order, body, wait=True)
            if isinstance(answer, Lost):
                return
            status = answer.status
            await asyncio.sleep(1.0)  # 500: it stopped before it had looked, and does not know
        if status not in (410, 422, 503):
            self._books.violate(
                "I9", order.saga, f"another payload under the same id was answered {status}"
            )


class Tail:
    """A model of the stage at the end: keeps its books, refuses, or fails after it said yes."""

    def __init__(
        self,
        upstream: str,
        network: Network,
        loop: VirtualLoop,
        random: Random,
        faults: Faults,
        books: Books,
    ) -> None:
        self._upstream = upstream
        self._network = network
        self._loop = loop
        self._random = random
        self._faults = faults
        self._books = books
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
        if method == "GET":
            return self._look(path.removeprefix("/sagas/"))
        saga = path.removeprefix("/sagas/").removesuffix("/compensate")
        self._undo(saga)
        self._answers[saga] = _problem(410, saga, Outcome.COMPENSATED)
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
                self._answers[saga] = Answer(status=200, body=encode_executed(saga, {TAIL: {}}))
                self._books.said_yes.add((TAIL, saga))
                if self._faults.happens("tail_fails_late"):
                    self.failing.add(saga)
                    self._late.append(self._loop.create_task(self._fail_late(saga)))
        return self._answers[saga]

    def _look(self, saga: str) -> Answer:
        answer = self._answers.get(saga)
        if answer is None:
            return _problem(404, saga, Outcome.NOT_EXECUTED)
        outcome = Outcome.EXECUTED if answer.status == 200 else Outcome.COMPENSATED
        shown = {"saga_id": saga, "outcome": outcome}
        return Answer(status=200, body=msgspec.json.encode(shown))

    def _undo(self, saga: str) -> None:
        local = self.local(saga)
        if local.done > local.undone:
            local.undone = local.done
            self._books.tell(saga, TAIL, "EFFECT undone")

    async def _fail_late(self, saga: str) -> None:
        """It said yes, fails, undoes its part, and asks upstream until that answers."""
        await asyncio.sleep(self._random.uniform(*LATE_SECONDS))
        self.failing.discard(saga)
        if self.local(saga).done == self.local(saga).undone:
            return
        self._books.tell(saga, TAIL, "fails late")
        self._undo(saga)
        self._answers[saga] = _problem(410, saga, Outcome.COMPENSATED)
        self.late_failures[saga] = False
        path = f"/sagas/{saga}/compensate"
        word = Outcome.COMPENSATED if self._random.random() < 0.5 else None
        body = encode_compensate(TAIL, "failed late", word)
        sent: Sequence[tuple[str, str]] = [("Content-Type", h.CONTENT_JSON)]
        while True:
            answer = await self._network.carry(
                TAIL, self._upstream, "POST", path, sent, body, TIMEOUT_SECONDS, saga
            )
            if isinstance(answer, Answer) and answer.status in (200, 202, 409, 410):
                self.late_failures[saga] = True
                return
            await asyncio.sleep(self._random.uniform(0.2, 5.0))


def _undone(saga: str) -> Answer:
    shown = {"saga_id": saga, "outcome": Outcome.COMPENSATED}
    return Answer(status=200, body=msgspec.json.encode(shown))


def _problem(status: int, saga: str, outcome: Outcome) -> Answer:
    problem = Problem(status=status, title="No", outcome=outcome, saga_id=saga)
    return Answer(status=status, body=problem.encode())
