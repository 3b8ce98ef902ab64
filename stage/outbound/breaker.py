"""A circuit breaker a peer: a peer that keeps failing is left alone for a while.

Only the way forward is broken. Compensations and probes always go out, so a breaker never keeps
an undo waiting (rule 13), and their answers close it again.
"""

from __future__ import annotations

from collections.abc import Callable

FAILURES_MAX = 8
"""Failures in a row that open it."""
OPEN_SECONDS_MIN = 0.5
OPEN_SECONDS_MAX = 15.0


class Breaker:
    """Closed, open until an instant, or letting one trial through. Instants in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures = 0
        self._open_until = 0.0
        self._trial = False

    @property
    def is_open(self) -> bool:
        """True while it refuses."""
        return self._failures >= FAILURES_MAX

    @property
    def waits(self) -> bool:
        """True until the next trial may leave. Only a trial shows whether it recovered."""
        return self.is_open and self._open_until > self._now()

    def refuses(self) -> float | None:
        """Seconds until the next trial when the request must not leave; None when it may.

        A request that may leave while the breaker is open is the trial, and must be `record`ed.
        """
        if self._failures < FAILURES_MAX:
            return None
        left = self._open_until - self._now()
        if left > 0:
            return left
        if self._trial:
            return OPEN_SECONDS_MIN
        self._trial = True
        return None

    def record(self, *, answered: bool) -> None:
        """Record the end of a request. An answer below 500 closes the breaker.

        While it is open only the trial lengthens the wait: requests that had left before it opened
        failed in the same outage, and a busy stage has many of them.
        """
        trial, self._trial = self._trial, False
        if answered:
            self._failures = 0
            return
        if self.is_open and not trial:
            return
        self._failures += 1
        over = self._failures - FAILURES_MAX
        if over >= 0:
            wait = min(OPEN_SECONDS_MIN * 2.0 ** min(over, 10), OPEN_SECONDS_MAX)
            self._open_until = self._now() + wait
