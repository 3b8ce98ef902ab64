"""How much leaves to one peer: places, a rate, and turns that share both fairly (rule 29)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum

from stage.ports.peers import PeerLimits, PeerStanding

BURST_SECONDS = 0.05
"""The time for which a bucket saves up: more would be a storm after every silence."""
TICK_SECONDS = 0.001
"""The shortest wait for the rate."""
ROUNDING = 1e-6
"""The part of a token that the precision of the clock may hide."""
FAILURES_MAX = 8
"""Failures in a row after which a peer is taken to be away, and its places are halved."""
UNLIMITED = PeerLimits()


class Lane(StrEnum):
    """Why an attempt is made. Each lane with attempts that wait gets every n-th turn."""

    NEW = "new"
    RECOVERED = "recovered"
    COMPENSATION = "compensation"
    """An undo, and the message of a late failure."""


class TokenBucket:
    """Lets `rate_per_second` requests leave; at most a moment's worth is saved up.

    Instants are those of the caller. A clock that jumps costs a wait of one token at most.
    """

    def __init__(self, rate_per_second: float, now: float) -> None:
        self._rate = rate_per_second
        self._most = max(1.0, rate_per_second * BURST_SECONDS)
        self._tokens = self._most
        self._filled_at = now

    def change(self, rate_per_second: float) -> None:
        """Set another rate; the tokens that are saved up stay, as far as it lets any be saved."""
        self._rate = rate_per_second
        self._most = max(1.0, rate_per_second * BURST_SECONDS)

    def wait_seconds(self, now: float) -> float:
        """Seconds until a request may leave; 0 when one may."""
        self._tokens += max(0.0, now - self._filled_at) * self._rate
        self._tokens = min(self._tokens, self._most)
        self._filled_at = now
        missing = 1.0 - self._tokens
        return 0.0 if missing <= ROUNDING else missing / self._rate

    def take(self) -> None:
        """Count a request that leaves, also one that did not wait: it is owed then."""
        self._tokens -= 1.0


class Gate:
    """The way to one peer. `enter` before an attempt and `leave` after it.

    A peer that fails many times in a row gets fewer places, down to one, and one more with each
    answer: thousands that waited for it do not come at once when it is back.
    """

    def __init__(self, limits: PeerLimits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._bucket = (
            None if limits.rate_per_second is None else TokenBucket(limits.rate_per_second, now())
        )
        self._lanes: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        """Attempts that wait. The lane that had a turn goes to the end."""
        self._waiting = 0
        """How many attempts wait in all lanes."""
        self._inside = 0
        self._places_max = self._places = limits.concurrency_max
        self._failures = 0
        self._held: frozenset[Lane] = frozenset()
        self._answered_at: float | None = None
        self._failed_at: float | None = None
        self._failure = ""
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, lanes: frozenset[Lane]) -> None:
        """Let nothing of these lanes in from here on; what waits in the others goes on."""
        self._held = lanes
        self._admit()

    def holds(self, lane: Lane) -> bool:
        """Whether a pause lets nothing of that lane in."""
        return lane in self._held

    def standing(self, peer: str) -> PeerStanding:
        """The standing of the peer, for people."""
        return PeerStanding(
            peer=peer,
            under_way=self._inside,
            queued=self._waiting,
            places=self._places,
            places_max=self._places_max,
            rate_per_second=self._limits.rate_per_second,
            answered_at=self._answered_at,
            failed_at=self._failed_at,
            failure=self._failure,
        )

    def enter_at_once(self, lane: Lane) -> bool:
        """Enter, where there is a place and nothing waits for it."""
        if self._inside >= self._places or self._waiting or lane in self._held:
            return False
        if self._bucket is not None:
            if not self._token():
                return False
            self._bucket.take()
        self._inside += 1
        return True

    async def enter(self, lane: Lane) -> None:
        """Wait for a place and for the rate; the turns go round the lanes."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lanes[lane].append(waiter)
        self._waiting += 1
        self._admit()
        if waiter.done():
            return
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # admitted in the same moment
                self._inside -= 1
            with suppress(ValueError):  # it is there no more once its turn has come
                self._lanes[lane].remove(waiter)
                self._waiting -= 1
            self._admit()
            raise

    def leave(self, *, answered: bool | None, failure: str = "") -> None:
        """Give the place back. `answered` is None for an attempt of which nothing left.

        `failure` says how one that was not answered ended, for people.
        """
        self._inside -= 1
        if answered:
            self._answered_at = self._now()
        elif answered is False:
            self._failed_at, self._failure = self._now(), failure
        if answered:
            self._failures = 0
            self._places = min(self._places + 1, self._places_max)
        elif answered is False:
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                self._places = max(1, self._places // 2)
        if self._waiting:
            self._admit()

    def divide(self, replicas: int) -> None:
        """Keep to one of so many equal parts of the limits; one place at least."""
        self._places_max = max(1, self._limits.concurrency_max // replicas)
        self._places = min(self._places, self._places_max)
        if self._bucket is not None and self._limits.rate_per_second is not None:
            self._bucket.change(self._limits.rate_per_second / replicas)

    def charge(self) -> None:
        """Count a further request of an attempt that is inside; the next one waits for it."""
        if self._bucket is not None:
            self._bucket.take()

    def _admit(self) -> None:
        """Let in as many as there are places and tokens for."""
        while self._waiting and self._inside < self._places:
            lane = self._next()
            if lane is None or not self._token():
                return
            waiter = self._lanes[lane].popleft()
            self._waiting -= 1
            if waiter.done():
                continue  # stopped while it waited
            self._lanes[lane] = self._lanes.pop(lane)
            self.charge()
            self._inside += 1
            waiter.set_result(None)

    def _next(self) -> Lane | None:
        """The lane whose turn it is: none where all that wait are held."""
        free = (lane for lane, waiting in self._lanes.items() if waiting and lane not in self._held)
        return next(free, None)

    def _token(self) -> bool:
        """Whether the rate lets one more leave; otherwise it is tried again when it does."""
        if self._bucket is None:
            return True
        wait = self._bucket.wait_seconds(self._now())
        if wait > 0 and self._timer is None:
            later = max(wait, TICK_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(later, self._tick)
        return wait <= 0

    def _tick(self) -> None:
        self._timer = None
        self._admit()


class Gates:
    """One gate a peer, made when it is first used. `limits` by kind and name: `externals.psp`."""

    def __init__(self, limits: Mapping[str, PeerLimits], now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._gates: dict[str, Gate] = {}
        self._replicas = 1
        self._held: Mapping[str, frozenset[Lane]] = {}

    def of(self, peer: str) -> Gate:
        """The gate of that peer."""
        gate = self._gates.get(peer)
        if gate is None:
            gate = self._gates[peer] = Gate(self._limits.get(peer, UNLIMITED), self._now)
            gate.divide(self._replicas)
            gate.hold(self._held.get(peer, frozenset()))
        return gate

    def standing(self) -> list[PeerStanding]:
        """The standing of each peer that was used, or is limited."""
        return [self.of(peer).standing(peer) for peer in sorted({*self._gates, *self._limits})]

    def hold(self, held: Mapping[str, frozenset[Lane]]) -> None:
        """Hold these lanes of these peers from here on, and no others."""
        if held != self._held:
            self._held = held
            for peer, gate in self._gates.items():
                gate.hold(held.get(peer, frozenset()))

    def divide(self, replicas: int) -> None:
        """Keep to one of so many equal parts of each peer's limits: each replica has a part."""
        if replicas != self._replicas:
            self._replicas = replicas
            for gate in self._gates.values():
                gate.divide(replicas)
