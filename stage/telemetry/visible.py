"""The one allowlist of spans and log lines. A name that is not on it is never shown.

Payloads are not on it, nor anything that a stranger chose. A later version that adds a member to
an event or an attribute to a span has to add it here too, or nobody sees it.
"""

from __future__ import annotations

import logging
from typing import Final

from stage.telemetry.names import (
    ACTIVITY,
    ATTEMPT,
    ERROR_TYPE,
    HTTP_METHOD,
    HTTP_METHOD_ORIGINAL,
    HTTP_ROUTE,
    HTTP_STATUS,
    OUTCOME,
    PEER,
    REASON,
    SAGA_ID,
    SERVER_ADDRESS,
    SERVER_PORT,
    SPANS,
    STAGE,
    STEP,
    URL_FULL,
    URL_PATH,
    URL_SCHEME,
    URL_TEMPLATE,
)  # fmt: skip

# --- spans ---------------------------------------------------------------------------------------

SPAN_ATTRIBUTES: Final = {
    HTTP_METHOD: ("server", "client"),
    HTTP_METHOD_ORIGINAL: ("server", "client"),
    HTTP_ROUTE: ("server",),
    HTTP_STATUS: ("server", "client"),
    URL_PATH: ("server",),
    URL_SCHEME: ("server",),
    URL_FULL: ("client",),
    URL_TEMPLATE: ("client",),
    SERVER_ADDRESS: ("client",),
    SERVER_PORT: ("client",),
    ERROR_TYPE: SPANS,
    SAGA_ID: ("server", "run", "attempt"),
    STAGE: ("run", "attempt"),
    STEP: ("attempt",),
    ACTIVITY: ("attempt",),
    ATTEMPT: ("attempt",),
    PEER: ("attempt", "client"),
    OUTCOME: ("run", "attempt"),
    REASON: ("run", "attempt"),
}
"""Every attribute, and on which spans it may stand: the table of docs/tracing.md, which is tested
against it."""


def attributes_of(span: str) -> frozenset[str]:
    """The attributes that a span of that type (one of SPANS) may have."""
    return frozenset(name for name, spans in SPAN_ATTRIBUTES.items() if span in spans)


# --- log lines -----------------------------------------------------------------------------------

LOG_EVENTS: Final = {
    "accepted": logging.INFO,
    "tombstoned": logging.INFO,
    "recovered": logging.WARNING,
    "answer_deferred": logging.INFO,
    "compensation_requested": logging.INFO,
    "step_started": logging.INFO,
    "request_prepared": logging.DEBUG,
    "step_succeeded": logging.INFO,
    "step_refused": logging.INFO,
    "step_transient": logging.WARNING,
    "step_in_doubt": logging.WARNING,
    "step_pending": logging.INFO,
    "probe_started": logging.INFO,
    "probe_found": logging.INFO,
    "probe_not_there": logging.INFO,
    "probe_failed": logging.WARNING,
    "turned_back": logging.WARNING,
    "compensation_started": logging.INFO,
    "compensation_succeeded": logging.INFO,
    "compensation_delayed": logging.WARNING,
    "compensation_refused": logging.ERROR,
    "completed": logging.INFO,
    "compensated": logging.INFO,
    "failed_to_compensate": logging.ERROR,
    "tell_started": logging.INFO,
    "tell_delivered": logging.INFO,
    "tell_delayed": logging.WARNING,
    "tell_refused": logging.ERROR,
    "parked": logging.ERROR,
    "retried": logging.WARNING,
    "settled": logging.WARNING,
    "resolved": logging.WARNING,
    "forgotten": logging.WARNING,
}
"""The events of the journal and the level of their line. A verb of an operator is never hidden."""

LOG_FIELDS: Final = frozenset(
    {
        "step",
        "attempt",
        "ordinal",
        "epoch",
        "key",
        "deadline",
        "deferred",
        "upstream",
        "requested_by",
        "reason",
        "retry_after",
        "may_stand",
        "stands",
        "compensation",
        "status",
        "landed",
        "actor",
        "why",
        "cause",
    }
)
"""The members of an event that may stand in a line."""

NEVER_LOGGED: Final = frozenset({"at", "span", "request", "result", "baggage"})
"""Members that are left out on purpose: payloads, what strangers chose, and repetitions of what
every line has."""
