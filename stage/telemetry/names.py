"""Every name that telemetry tells: spans, their attributes, log events. Change them with care.

Dashboards and alerts are written against these names, so they stand in one place and nowhere else.
Span names have few values: a saga id is an attribute, never part of a name.
"""

from __future__ import annotations

import logging
from typing import Final

from stage.core.commands import Activity

SCOPE: Final = "stage"
"""The instrumentation scope of our spans, and the name of our logger."""

# --- spans ---------------------------------------------------------------------------------------

QUIET_ROUTES: Final = frozenset(
    {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/.well-known/stage"}
)
"""Asked by platforms every few seconds: their traces are passed on, and no span is made."""

HTTP_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
OTHER_METHOD: Final = "_OTHER"
"""What the HTTP conventions of OpenTelemetry say for a method out of the list."""
UNMATCHED_ROUTE: Final = "/?"

ATTEMPT_VERBS: Final = {
    Activity.EXECUTE: "step",
    Activity.PROBE: "probe",
    Activity.COMPENSATE: "compensate",
    Activity.TELL: "tell",
}


def request_span(method: str, route: str) -> str:
    """`POST /sagas/{saga_id}/compensate`; the method alone where no route matched."""
    word = method if method in HTTP_METHODS else "HTTP"
    return word if route == UNMATCHED_ROUTE else f"{word} {route}"


def client_span(method: str, route: str, peer: str) -> str:
    """`POST /sagas` to a neighbour, `POST psp` to an API, whose paths are not ours to know."""
    return f"{method if method in HTTP_METHODS else 'HTTP'} {route or peer}"


def run_span(stage: str) -> str:
    """`saga payment`: one run of a saga at a stage."""
    return f"saga {stage}"


def attempt_span(activity: Activity, step: str, peer: str) -> str:
    """`step charge`, `probe charge`, `compensate charge`, `tell order`."""
    return f"{ATTEMPT_VERBS[activity]} {peer if activity is Activity.TELL else step}"


# --- attributes of spans -------------------------------------------------------------------------

# HTTP: the stable semantic conventions of OpenTelemetry, "HTTP spans" 1.23 and later.
HTTP_METHOD: Final = "http.request.method"
HTTP_METHOD_ORIGINAL: Final = "http.request.method_original"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL_FULL: Final = "url.full"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
URL_TEMPLATE: Final = "url.template"

SAGA_ID: Final = "stage.saga_id"
STAGE: Final = "stage.name"
STEP: Final = "stage.step"
ACTIVITY: Final = "stage.activity"
ATTEMPT: Final = "stage.attempt"
PEER: Final = "stage.peer"
OUTCOME: Final = "stage.outcome"
REASON: Final = "stage.reason"

CUT_OFF: Final = "cut_off"
"""How an attempt ended whose process was lost while it was in flight."""
RUN_OUTCOMES: Final = frozenset({"taken_over", "defect"})
"""How a run may end beside the states of its saga: another run has it, or a defect of ours."""

SPANS: Final = ("server", "run", "attempt", "client")
"""The spans we make: for a request, a run of a saga, an attempt of a step, a request of ours."""

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
    """The attributes that a span of that sort (SPANS) may have."""
    return frozenset(name for name, spans in SPAN_ATTRIBUTES.items() if span in spans)


FAILED_OUTCOMES: Final = frozenset(
    {
        "step_transient",
        "step_in_doubt",
        "probe_failed",
        "compensation_delayed",
        "compensation_refused",
        "tell_delayed",
        "tell_refused",
        "failed_to_compensate",
        "parked",
        CUT_OFF,
        *RUN_OUTCOMES,
    }
)
"""What ends a span with the status ERROR. A refusal is a business no: an answer, not an error."""

# --- log events ----------------------------------------------------------------------------------

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
"""The names of the journal, with the level of their line. What an operator did is never hidden."""

LOG_DEFECT: Final = "defect"
"""The one line that no event of the journal stands behind: something raised that never should."""

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
    }
)
"""The members of an event that may stand in a line. What is not named here is never written:
not `request`, not `result`, and not what a later version adds without saying so here."""

NEVER_LOGGED: Final = frozenset({"at", "span", "request", "result", "baggage"})
"""Members left out on purpose: payloads, what strangers chose, and what the line says already."""
