"""The exceptions with which a step's function does not succeed. Any other exception is in doubt."""

from __future__ import annotations


class Refused(Exception):
    """A business no: nothing happened, and asking again would not help. Never retried."""


class Transient(Exception):
    """It certainly did not happen; it may be tried again after `retry_after` seconds."""

    def __init__(self, reason: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        if retry_after is not None and not 0 <= retry_after < float("inf"):
            raise ValueError(f"retry_after={retry_after!r}: give seconds, 0 or more")
        self.retry_after = retry_after


class Pending(Exception):
    """The API has taken the call on, and how it ends becomes known later: the probe is asked.

    Only a call with a probe may raise it; its probe raises it while the end is not known. The
    probe is asked again after `retry_after` seconds at the earliest.
    """

    def __init__(self, reason: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        if retry_after is not None and not 0 <= retry_after < float("inf"):
            raise ValueError(f"retry_after={retry_after!r}: give seconds, 0 or more")
        self.retry_after = retry_after


class InDoubt(Exception):
    """It is not known whether it happened: probe it, repeat it, or compensate it."""
