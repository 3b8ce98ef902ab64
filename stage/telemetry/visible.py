"""The one allowlist of spans and log lines. A name that is not on it is never shown.

Payloads are not on it, nor anything that a stranger chose. A later version that adds a member to
an event or an attribute to a span has to add it here too, or nobody sees it.
"""

from __future__ import annotations

import logging
from typing import Final

from stage.core.event_table import EVENTS, NAMED, Level
from stage.core.events import Event
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


# --- log lines -----------------------------------------------------------------------------------

LEVELS: Final = {level: logging.getLevelNamesMapping()[level.upper()] for level in Level}
"""The levels of core.event_table as the log knows them."""

LOG_EVENTS: Final = {name: LEVELS[row.level] for name, row in NAMED.items()}
"""The events of the journal and the level of their line, as core.event_table has them."""

LOG_NAMES_OTHERWISE: Final = frozenset({"span"})
"""Public members of events that every line has under another name."""


def log_members(kind: type[Event]) -> tuple[str, ...]:
    """The members of an event that its line may hold: the allowlist of core.event_table."""
    return tuple(name for name in EVENTS[kind].public if name not in LOG_NAMES_OTHERWISE)
