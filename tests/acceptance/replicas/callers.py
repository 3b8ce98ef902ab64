"""Neighbours and people who ask any replica, beside the load: duplicates, polls and verbs.

A duplicate is sent only of a saga that the replica knows, with the bytes of its data, so that it
can begin nothing. No answer may be a 4xx that the protocol does not have for it, or a 500, but for
a few that say that nothing is known: a replica that is stopped does not answer in time, and neither
does a database without a processor.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import msgspec

from tests.acceptance.kills.http1 import Broken, Peer, request_bytes
from tests.acceptance.kills.load import Load

CALLERS = 4
PAUSE_SECONDS = 0.1
ASK_SECONDS = 8.0
RECENT = 200
"""The sagas placed last, of which one is asked for."""
EXPECTED = {
    "poll": frozenset({200, 404}),
    "duplicate": frozenset({200, 202, 409, 410}),
    "verb": frozenset({200, 202, 404, 409}),
}
AWAY = frozenset({429, 503})
UNKNOWN = b"saga-stage:problem:unknown"
UNKNOWN_MAX = 0.02
"""Of all answers."""


class Callers:
    """Ask until they are cancelled."""

    def __init__(self, ports: Sequence[int], load: Load, seed: int) -> None:
        self._peers = [Peer(port) for port in ports]
        self._load = load
        self._dice = random.Random(f"{seed}/callers")
        self.asked: Counter[str] = Counter()
        self._unknown: list[str] = []
        self._surprises: list[str] = []

    @property
    def surprises(self) -> list[str]:
        """The answers that should not be; those that nothing is known are where they are many."""
        many = len(self._unknown) > UNKNOWN_MAX * self.asked.total()
        return self._surprises + self._unknown if many else self._surprises

    async def ask(self) -> None:
        """Ask until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._ask())

    async def _ask(self) -> None:
        """Ask about one saga after the other, each time at any replica."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if self._load.placed:
                placed = self._dice.choice(self._load.placed[-RECENT:])
                await self._ask_about(placed.saga_id)

    async def _ask_about(self, saga_id: str) -> None:
        status = await self._one("poll", polled(saga_id, wait=self._dice.choice((0, 1))))
        if status != 200:
            return
        if self._dice.random() < 0.5:
            await self._one("duplicate", duplicate(saga_id))
        else:
            order = msgspec.json.encode({"actor": "somebody", "reason": "it takes long"})
            await self._one("verb", request_bytes("POST", f"/sagas/{saga_id}/retry", order))

    async def _one(self, what: str, raw: bytes) -> int:
        try:
            answer = await self._dice.choice(self._peers).ask(raw, ASK_SECONDS)
        except Broken:
            return 0
        self.asked[what] += 1
        if answer.status not in EXPECTED[what] | AWAY:
            kind = (
                self._unknown
                if 500 == answer.status and UNKNOWN in answer.body
                else self._surprises
            )
            kind.append(f"{what}: {answer.status} {answer.body[:300]!r}")
        return answer.status

    async def differing(self, saga_ids: Sequence[str]) -> list[str]:
        """Sagas of which two replicas say different things, or in different bytes."""
        wrong: list[str] = []
        for saga_id in saga_ids:
            for raw in (polled(saga_id), duplicate(saga_id)):
                found = {
                    (answer.status, answer.body)
                    for answer in [await peer.ask(raw, ASK_SECONDS) for peer in self._peers]
                }
                if len(found) != 1:
                    wrong.append(f"{saga_id}: {found}")
        return wrong

    def close(self) -> None:
        """Let go of the connections."""
        for peer in self._peers:
            peer.close()


def polled(saga_id: str, wait: int = 0) -> bytes:
    """A look at a saga, which may wait for its end."""
    prefer = (("Prefer", f"wait={wait}"),) if wait else ()
    return request_bytes("GET", f"/sagas/{saga_id}", headers=prefer)


def duplicate(saga_id: str) -> bytes:
    """The request that order has sent to payment, as far as it counts."""
    envelope = {
        "saga_id": saga_id,
        "protocol": 1,
        "data": {"order_id": f"o-{saga_id}", "amount": 100},
        "trail": [{"stage": "order", "at": "2026-11-23T02:29:58.120Z"}],
    }
    return request_bytes(
        "POST", "/sagas", msgspec.json.encode(envelope), (("Prefer", "respond-async,wait=2"),)
    )
