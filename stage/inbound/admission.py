"""Which requests to run sagas are let in, and which may wait for an answer (rule 37).

Compensation is never shed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from stage.core.shares import NOBODY, Shares
from stage.inbound.overload import Overload
from stage.ports.engine import Busy

REQUESTS_MAX = 2_000
RETRY_AFTER_SECONDS = 1.0
JOINS_MAX = 16
"""Requests that may wait for the answer of one saga: the one that runs it, and retries of it."""
QUERY_COST = 0.25
"""The work of a query, as a part of that of a start."""


class NotSaid(Exception):
    """Not now, and nothing is said of the saga: it was seen, or nobody could look for it."""

    title = "Not now"

    def __init__(self, reason: str, retry_after: float = RETRY_AFTER_SECONDS) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class TooManyJoined(NotSaid):
    """As many requests wait for the answer of that saga as may: ask again later."""

    title = "Too many wait for it"


class Admission:
    """Counts the requests that wait for a saga; touched from the event loop only."""

    def __init__(
        self,
        requests_max: int = REQUESTS_MAX,
        callers: Shares = NOBODY,
        joins_max: int = JOINS_MAX,
    ) -> None:
        """`callers` has the names that are configured: one alone may take all places."""
        self.overload = Overload()
        self.decoding = asyncio.Semaphore(1)
        """For the thread that decodes large bodies."""
        self.shares = callers
        self._requests_max = requests_max
        self._joins_max = joins_max
        self._waiting = 0
        self._watching = 0
        self._by_caller: dict[str, int] = {}
        self._by_saga: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait for the answer of a saga."""
        return self._waiting

    def start(self, named: str = "") -> None:
        """Let a request to run a saga in, before its body is read. Raises Busy."""
        if self._waiting >= self._requests_max:
            raise Busy(
                f"{self._waiting} requests are waiting, the limit",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if not self.overload.admits(self.shares.caller(named)):
            raise Busy("there is more to do than can be done", retry_after=RETRY_AFTER_SECONDS)

    def query(self, named: str) -> None:
        """Let a neighbour's query in; only one that takes more than its share is shed, by NotSaid.

        Operators have to see what goes on, so they are not asked for here.
        """
        if not self.overload.admits(self.shares.caller(named), QUERY_COST):
            raise NotSaid("there is more to do than can be done")

    def place(self, saga_id: str, named: str) -> Place:
        """Hold a place while the answer of that saga is waited for. `named` is its upstream."""
        return Place(self, saga_id, self.shares.caller(named))

    def enter(self, saga_id: str, caller: str) -> None:
        """Take a place. Raises Busy when the caller has its share, and TooManyJoined."""
        share = self.shares.most(caller, self._requests_max)
        joined, waiting = self._by_saga.get(saga_id, 0), self._by_caller.get(caller, 0)
        if joined >= self._joins_max:
            raise TooManyJoined(f"{self._joins_max} requests wait for that saga, the limit")
        if waiting >= share or self._waiting >= self._requests_max:
            who = caller or "callers that are not configured"
            raise Busy(
                f"{waiting} requests of {who} are waiting, the limit",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._waiting += 1
        self._by_caller[caller] = waiting + 1
        self._by_saga[saga_id] = joined + 1

    def leave(self, saga_id: str, caller: str) -> None:
        """Give the place back."""
        self._waiting -= 1
        _drop(self._by_caller, caller)
        _drop(self._by_saga, saga_id)

    @contextmanager
    def watch(self, seconds: float) -> Iterator[float]:
        """How long a query or a compensation that asks to wait for `seconds` may wait.

        No such request is refused: where too many wait, it is answered at once as things stand.
        They take no place of a start, and starts take none of theirs.
        """
        if seconds <= 0.0 or self._watching >= self._requests_max:
            yield 0.0
            return
        self._watching += 1
        try:
            yield seconds
        finally:
            self._watching -= 1


class Place:
    """`with` it a place is held."""

    __slots__ = ("_admission", "_caller", "_saga_id")

    def __init__(self, admission: Admission, saga_id: str, caller: str) -> None:
        self._admission = admission
        self._saga_id = saga_id
        self._caller = caller

    def __enter__(self) -> None:
        """See `Admission.enter`."""
        self._admission.enter(self._saga_id, self._caller)

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._admission.leave(self._saga_id, self._caller)


def _drop(counts: dict[str, int], key: str) -> None:
    left = counts.pop(key) - 1
    if left:
        counts[key] = left
