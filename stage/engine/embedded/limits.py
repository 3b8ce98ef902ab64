"""The limits of the embedded engine: how much it takes on, and how long it waits."""

from __future__ import annotations

import msgspec

from stage.core.retry import RetryPolicy
from stage.core.shares import NOBODY, Shares
from stage.engine.saga.dropped import LOOK_AGE_SECONDS
from stage.wire.limits import DEFAULT_LIMITS, Limits

STORE_RETRY = RetryPolicy(attempts_max=None, backoff_seconds_min=0.05, backoff_seconds_max=2.0)
OPEN_SECONDS_MAX = 5.0
"""How much longer than they asked for callers wait for the database."""
DEFER_SECONDS_MAX = 1.0
"""How long a process that stops waits until what 202 says to its callers is journaled."""
WRITTEN_SECONDS_MAX = 0.25
"""How long a query for the journal or a list waits for what was answered to be durable."""
LOOK_AGAIN_SECONDS = 0.25
"""How often a query that waits looks at a saga which rests outside of memory."""
LOOK_SECONDS = 0.02
"""How often a caller looks at a saga that a scheduler has yet to open."""
EVICT_AFTER_SECONDS = 5.0
"""A saga that rests longer than this leaves memory; the scan brings it back when it is due."""
GIVE_WAY_SECONDS = 0.1
"""A recovered saga that rests longer than this leaves memory while others wait for its room."""
OPEN_PER_RUNNING_MAX = 4
"""Sagas in memory, as a multiple of those that may run: the others are only being looked up."""
RECOVERY_SHARE = 0.5
"""The share of the running sagas that recovery may take; the rest is for new ones."""
RECOVERY_BURST = 2
RECOVERY_PAUSE_SECONDS = 0.011
"""So many are recovered at once, and so long is the pause until the next: at most 180 a second.
Each costs more than a new saga, since its call is in doubt; with 250 a second the new ones waited
three to five times as long as without, with 180 less than twice."""
RECOVERY_SCAN_SECONDS = 1.0
RECOVERY_IDS_MAX = 100_000
"""Sagas claimed at start, which are only ids in memory."""
DUE_IDS_MAX = 1_000
"""Sagas claimed by one scan; the next one finds the others."""
NEWER_SECONDS = 10.0
"""How long a saga that only a newer release can read is left alone. Each scan would find the same
ones again otherwise, and none of those that are due behind them."""
NEWER_IDS_MAX = 10_000
MAIL_SECONDS = 0.05
PAUSED_SECONDS_MAX = 30.0
"""The longest `Retry-After` of a paused intake: a pause may be ended at any time."""
CLOSE_SAGAS_MAX = 100
"""Sagas closed in one unit, so that the writer is never held for long."""
CLOSE_SHARE = 0.2
"""The share of the time that closing may take while there is more to close. A unit takes longer
when the writer has much to do, so that closing gives way to sagas."""
DROP_ACTS_MAX = 500
"""Acts of the audit that are dropped in one unit."""
CLOSE_PAUSE_SECONDS_MIN = 0.05
CLOSE_PAUSE_SECONDS_MAX = 10.0


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much the engine takes on. `sagas_max` bounds new sagas, never compensation."""

    sagas_max: int = 1_000
    inline: bool = True
    """Whether an attempt that is alone has no task of its own (`embedded/inline.py`)."""
    fast_path: bool = True
    """Whether new sagas go the usual way as a straight line (`saga/fast_path.py`)."""
    deadline_seconds_default: float = 60.0
    """The budget of a saga whose caller gives none, so that an outage has an end (rule 28)."""
    compensation_reserve: float = 0.1
    """The share of a budget that is kept back for compensation."""
    compensation_window_seconds: float = 7 * 86_400.0
    answers_retention_seconds: float | None = None
    """How long the answer of a closed saga is kept; None: for ever (decision 0080)."""
    rows_retention_seconds: float | None = None
    """How long the row of a closed saga is kept, where its id has an instant; None: for ever."""
    dropped_age_seconds: float = LOOK_AGE_SECONDS
    """No row is dropped whose id is younger than that."""
    audit_retention_seconds: float | None = None
    """How long the acts of operators are kept; None: for ever."""
    mail_seconds: float = MAIL_SECONDS
    """How often a replica reads the mail that others left for its sagas."""
    shares: Shares = NOBODY
    """The upstreams that are configured: each has its part of what callers may take (rule 37)."""
    wire: Limits = DEFAULT_LIMITS
    """The limits of the context that is handed on: nothing is accepted that downstream refuses."""
