"""How many requests to run sagas are let in at the same time. Compensation is never shed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stage.ports.engine import Busy

REQUESTS_MAX = 2_000
RETRY_AFTER_SECONDS = 1.0


class Admission:
    """Counts the requests that wait for a saga; touched from the event loop only."""

    def __init__(self, requests_max: int = REQUESTS_MAX) -> None:
        self._requests_max = requests_max
        self._waiting = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold one place. Raises Busy, before anything happened, when all are taken."""
        if self._waiting >= self._requests_max:
            raise Busy(
                f"{self._waiting} requests are waiting, the limit",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
