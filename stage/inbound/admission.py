"""How many requests to run sagas are let in at the same time. Compensation is never shed."""

from __future__ import annotations

from stage.ports.engine import Busy

REQUESTS_MAX = 2_000
RETRY_AFTER_SECONDS = 1.0


class Admission:
    """Counts the requests that wait for a saga; touched from the event loop only.

    `with admission:` holds one place. Raises Busy, before anything happened, when all are taken.
    """

    def __init__(self, requests_max: int = REQUESTS_MAX) -> None:
        self._requests_max = requests_max
        self._waiting = 0

    def __enter__(self) -> None:
        if self._waiting >= self._requests_max:
            raise Busy(
                f"{self._waiting} requests are waiting, the limit",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._waiting += 1

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1
