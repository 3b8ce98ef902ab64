"""The client: offers sagas at a steady rate and does what protocol 3.3 asks of a caller.

An unknown outcome (a broken connection, a timeout, a 5xx) is asked again under the same id and
with the same bytes; 202 is followed to its end; 503 is retried later. A share of the sagas is
also undone, from either end and at any time: that is the `Kind`.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import FIRST_COMPLETED
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import md5

import msgspec

from tests.acceptance.kills.http1 import Broken, Message, Peer, request_bytes

ASK_SECONDS = 8.0
AGAIN_SECONDS = (0.05, 0.6)
LATE_SECONDS_MAX = 1.5
IN_FLIGHT_MAX = 250
"""Beyond it the client holds back. Most sagas must have a chance to end between two kills of one
process: who is lost six times in a row without an outcome is parked as a crash loop (rule 15)."""
ENDED = frozenset({"completed", "compensated", "failed_to_compensate"})


class Kind(StrEnum):
    """The fate of a saga beside its request."""

    PLAIN = "plain"
    WITHDRAWN = "withdrawn"
    """The client asks order to compensate, at any moment."""
    BURIED = "buried"
    """The client asks to compensate before the request: it must never run."""
    LATE = "late"
    """After it was executed, the operator of shipping undoes it: the failure travels up."""
    PULLED = "pulled"
    """The operator of shipping undoes it at any moment, also before it came."""


SHARES = {Kind.WITHDRAWN: 0.04, Kind.BURIED: 0.01, Kind.LATE: 0.05, Kind.PULLED: 0.04}


@dataclass(slots=True)
class Placed:
    """One saga as the client knows it."""

    saga_id: str
    kind: Kind
    accepted: bool = False
    """Answered 2xx at least once."""
    status: int = 0
    """The code of the final answer to the request."""
    answer: bytes = b""
    undone: bool = False
    """Somebody was told that nothing of it stands here."""
    asked: int = 0
    surprises: list[str] = field(default_factory=list)


class Load:
    """Offers sagas until it is told to stop. `placed` holds them all."""

    def __init__(
        self, order: int, shipping: int, seed: int, rate: float, most: int = IN_FLIGHT_MAX
    ) -> None:
        """`rate` sagas are offered a second, and at most `most` are in flight."""
        self._order = Peer(order)
        self._shipping = Peer(shipping)
        self._seed = seed
        self._rate = rate
        self._most = most
        self._dice = random.Random(f"{seed}/load")
        self._tasks: set[asyncio.Task[None]] = set()
        self.placed: list[Placed] = []
        self.stopped = False
        self.offered_seconds = 0.0

    async def offer(self, most: int) -> None:
        """Offer at the rate until there are so many, or until `stop` is called."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for placed in self._sagas():
            if len(self.placed) >= most or self.stopped:
                break
            await asyncio.sleep(max(0.0, start + len(self.placed) / self._rate - loop.time()))
            while len(self._tasks) >= self._most and not self.stopped:
                await asyncio.wait(self._tasks, timeout=1.0, return_when=FIRST_COMPLETED)
            self.placed.append(placed)
            task = loop.create_task(self._live(placed))
            self._tasks.add(task)
            task.add_done_callback(self._over)
        self.offered_seconds = loop.time() - start

    def stop(self) -> None:
        """Offer nothing more."""
        self.stopped = True

    @property
    def in_flight(self) -> int:
        """Sagas whose client does not know the end yet."""
        return len(self._tasks)

    @property
    def finished(self) -> int:
        """Sagas whose client knows the end."""
        return len(self.placed) - len(self._tasks)

    async def close(self) -> None:
        """Give up on what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._order.close()
        self._shipping.close()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _sagas(self) -> Iterator[Placed]:
        number = 0
        while True:
            number += 1
            share = self._dice.random()
            kind = Kind.PLAIN
            for each, wanted in SHARES.items():
                share -= wanted
                if share < 0:
                    kind = each
                    break
            yield Placed(saga_id=f"k{self._seed}-{number}", kind=kind)

    async def _live(self, placed: Placed) -> None:
        match placed.kind:
            case Kind.PLAIN:
                await self._place(placed)
            case Kind.WITHDRAWN:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._place(placed))
                    both.create_task(self._undo(placed, self._order, self._late()))
            case Kind.BURIED:
                await self._undo(placed, self._order, 0.0)
                await self._place(placed)
                if placed.status != 410:
                    placed.surprises.append(f"buried, and answered {placed.status}")
            case Kind.LATE:
                await self._place(placed)
                await self._undo(placed, self._shipping, self._late())
            case Kind.PULLED:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._place(placed))
                    both.create_task(self._undo(placed, self._shipping, self._late()))

    def _late(self) -> float:
        return self._dice.uniform(0.0, LATE_SECONDS_MAX)

    async def _place(self, placed: Placed) -> None:
        """Ask until there is an answer that is final."""
        raw = self.request(placed.saga_id)
        while True:
            placed.asked += 1
            answer = await self._ask(self._order, raw)
            if answer is None:
                continue
            if answer.status == 202:
                placed.accepted = True
                if not await self._follow(placed):
                    return
            elif answer.status in (200, 409, 410):
                placed.accepted = placed.accepted or answer.status == 200
                placed.status, placed.answer = answer.status, answer.body
                return
            else:
                placed.surprises.append(f"answered {answer.status}: {answer.body[:200]!r}")
                return

    def request(self, saga_id: str, amount: int = 100) -> bytes:
        """The request of a saga: the same bytes whenever it is sent."""
        envelope = {
            "saga_id": saga_id,
            "protocol": 1,
            "data": {"order_id": f"o-{saga_id}", "amount": amount},
            "trail": [],
        }
        digest = md5(saga_id.encode(), usedforsecurity=False).hexdigest()
        prefer = "respond-async" if int(digest[0], 16) % 2 else "wait=4"
        trace = f"00-{digest}-{digest[:16]}-01"
        return request_bytes(
            "POST",
            "/sagas",
            msgspec.json.encode(envelope),
            (("Prefer", prefer), ("traceparent", trace)),
        )

    async def _follow(self, placed: Placed) -> bool:
        """Ask where it stands until it has ended; False when it never will by itself."""
        raw = request_bytes("GET", f"/sagas/{placed.saga_id}", headers=(("Prefer", "wait=4"),))
        while True:
            answer = await self._ask(self._order, raw)
            if answer is None:
                continue
            if answer.status != 200:
                placed.surprises.append(f"accepted, and then GET answered {answer.status}")
                return False
            view = msgspec.json.decode(answer.body)
            if view["state"] in ENDED or view["parked"]:
                return view["state"] in ENDED
            await asyncio.sleep(self._dice.uniform(*AGAIN_SECONDS))

    async def _undo(self, placed: Placed, stage: Peer, seconds: float) -> None:
        """Ask to compensate until the answer is that nothing stands."""
        await asyncio.sleep(seconds)
        by = "client" if stage is self._order else "operator"
        body = msgspec.json.encode({"requested_by": by, "reason": placed.kind.value})
        raw = request_bytes("POST", f"/sagas/{placed.saga_id}/compensate", body)
        while True:
            answer = await self._ask(stage, raw)
            if answer is None:
                continue
            if answer.status == 200:
                placed.undone = True
                return
            if answer.status != 202:
                placed.surprises.append(f"compensate answered {answer.status}: {answer.body!r}")
                return
            await asyncio.sleep(self._dice.uniform(*AGAIN_SECONDS))

    async def _ask(self, peer: Peer, raw: bytes) -> Message | None:
        """One request; None when it has to be asked again, after a pause."""
        try:
            answer = await peer.ask(raw, ASK_SECONDS)
        except Broken:
            await asyncio.sleep(self._dice.uniform(*AGAIN_SECONDS))
            return None
        if answer.status in (429, 503):
            await asyncio.sleep(float(answer.header("Retry-After") or 1.0))
            return None
        if answer.status >= 500 and answer.status != 504:
            await asyncio.sleep(self._dice.uniform(*AGAIN_SECONDS))
            return None
        return answer
