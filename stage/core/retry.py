"""How often an attempt is repeated and how long it waits: pure, the jitter included."""

from __future__ import annotations

from zlib import crc32

import msgspec

PATIENCE_SECONDS = 3 * 86_400.0
"""How long an undo, and a step without a way back, is tried before a person has to look."""
OUTAGE_SHARE = 0.1
OUTAGE_BACKOFF_SECONDS_MAX = 300.0
"""In an outage a wait may be a share of what it has lasted, so that days of it fill no journal."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one kind of attempt.

    `attempts_max` counts the first attempt; None means that time alone bounds them. An attempt
    that certainly had no effect is never counted (rule 28). The n-th wait is `min * 2**(n-1)`
    seconds, capped at `max`, or at a share of the outage where that is longer.
    """

    attempts_max: int | None = 4
    backoff_seconds_min: float = 0.1
    backoff_seconds_max: float = 5.0

    def exhausted(self, attempts: int) -> bool:
        """True when `attempts` attempts leave no further one."""
        return self.attempts_max is not None and attempts >= self.attempts_max

    def backoff_seconds(self, attempt: int, seed: str, lasted: float = 0.0) -> float:
        """Seconds to wait after the given attempt (1-based), `lasted` seconds after the first.

        The jitter takes up to half of the wait away. It is a hash of `seed` and not a die, so
        that a replay of the same journal waits as long as the first run did.
        """
        exponent = min(attempt - 1, 30)
        share_of_outage = min(lasted * OUTAGE_SHARE, OUTAGE_BACKOFF_SECONDS_MAX)
        longest = max(self.backoff_seconds_max, share_of_outage)
        wait = min(self.backoff_seconds_min * float(2**exponent), longest)
        share = crc32(f"{seed}/{attempt}".encode()) / 0xFFFFFFFF
        return wait * (1.0 - 0.5 * share)


EXECUTION = RetryPolicy()
"""Default for transactions and calls."""

DEFECT = RetryPolicy(attempts_max=None, backoff_seconds_max=60.0)
"""Code that failed before it prepared a request: until the deadline, as it waits for a deploy."""

SETTLEMENT = RetryPolicy(attempts_max=6, backoff_seconds_min=0.2)
"""Default for probes; twice "not there" ends them earlier."""

COMPENSATION = RetryPolicy(attempts_max=None, backoff_seconds_max=60.0)
"""Default for compensations: as many attempts as patience has room for (rules 13 and 28)."""

NEIGHBOUR = RetryPolicy(attempts_max=8)
"""Default for handing on downstream: attempts of which nobody knows whether they arrived."""

PENDING = RetryPolicy(attempts_max=1_000, backoff_seconds_min=0.5, backoff_seconds_max=300.0)
"""Asking downstream again after a 202: three days, and at most 2,000 entries of the journal."""

PENDING_CALL = RetryPolicy(attempts_max=None, backoff_seconds_min=1.0, backoff_seconds_max=600.0)
"""Asking an API what became of a pending call: three days are some 600 probes."""

PENDING_SECONDS_MAX = 3 * 86_400.0
"""How long a pending call is waited for unless its author says otherwise."""

NEIGHBOUR_SETTLEMENT = RetryPolicy(attempts_max=20, backoff_seconds_max=60.0)
"""Looking at downstream what became of the saga: some eight minutes, longer where it hangs."""

NEIGHBOUR_COMPENSATION = RetryPolicy(attempts_max=None, backoff_seconds_max=60.0)
"""Asking a neighbour to compensate goes on until it answers, or patience ends (rule 28)."""
