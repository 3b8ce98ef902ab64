"""Every name that telemetry gives: spans, their attributes, metrics. Change them with care.

Dashboards and alerts are written against these names, so they stand in one place and nowhere else.
Span names have few values: a saga id is an attribute, never part of a name. Which of them may
stand where is in `telemetry.visible`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stage.core.commands import AttemptKind
from stage.core.event_table import NAMED
from stage.core.states import ParkCause
from stage.ports.author_code import Thread
from stage.ports.observer import DroppedKind

SCOPE: Final = "stage"
"""The instrumentation scope of our spans, and the name of our logger."""

# --- spans ---------------------------------------------------------------------------------------

UNTRACED_ROUTES: Final = (
    "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/.well-known/stage",
    "/console/live",
)  # fmt: skip
"""Asked every few seconds by platforms and open pages: no span is made, and traces are passed on.

They are the ends of routes: a host may have mounted the stage below a path of its own."""

HTTP_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
OTHER_METHOD: Final = "_OTHER"
"""The value that the HTTP conventions of OpenTelemetry give a method out of the list."""
UNMATCHED_ROUTE: Final = "/?"

ATTEMPT_VERBS: Final = {
    AttemptKind.EXECUTE: "step",
    AttemptKind.PROBE: "probe",
    AttemptKind.COMPENSATE: "compensate",
    AttemptKind.TELL: "tell",
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


def attempt_span(kind: AttemptKind, step: str, peer: str) -> str:
    """`step charge`, `probe charge`, `compensate charge`, `tell order`."""
    return f"{ATTEMPT_VERBS[kind]} {peer if kind is AttemptKind.TELL else step}"


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

FAILED_OUTCOMES: Final = frozenset(
    {*(name for name, row in NAMED.items() if row.failed), CUT_OFF, *RUN_OUTCOMES}
)
"""The outcomes that end a span with the status ERROR. A refusal is an answer, not an error."""

# --- metrics -------------------------------------------------------------------------------------


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. `unit` in UCUM; `bounds` of the buckets; `values` of the label, where known."""

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    unit: str = ""
    bounds: tuple[float, ...] = ()


M_SAGAS: Final = "stage.sagas"
M_PARKED: Final = "stage.parked"
M_APPROVALS: Final = "stage.approvals"
M_OLDEST_APPROVAL: Final = "stage.oldest_approval"
M_APPROVAL_EXPIRY: Final = "stage.approval.expiry"
M_NEWER: Final = "stage.newer_sagas"
M_LOST: Final = "stage.lost_sagas"
M_STALE: Final = "stage.database.error"
M_PAUSED: Final = "stage.paused"
M_OLDEST: Final = "stage.oldest_unfinished"
M_LAG: Final = "stage.due_lag"
M_COMPENSATION: Final = "stage.oldest_compensation"
M_RUNS: Final = "stage.runs"
M_IN_DOUBT: Final = "stage.in_doubt"
M_READY: Final = "stage.ready"
M_DRAINING: Final = "stage.draining"
M_CLOCK_JUMP: Final = "stage.clock.jump"
M_CERTIFICATE_EXPIRY: Final = "stage.certificate.expiry"
M_FILES_REFUSED: Final = "stage.files.refused"
M_QUEUE: Final = "stage.writer.queue"
M_BREAKER: Final = "stage.breaker.open"
M_LIMIT: Final = "stage.limit"
M_IN_USE: Final = "stage.in_use"
M_DATABASE_SIZE: Final = "stage.database.size"
M_PEER_ANSWERS: Final = "stage.peer.answers"
M_REQUESTS: Final = "stage.requests"
M_SAGAS_ACCEPTED: Final = "stage.sagas.accepted"
M_SAGAS_ENDED: Final = "stage.sagas.ended"
M_SAGAS_PARKED: Final = "stage.sagas.parked"
M_SAGAS_RECOVERED: Final = "stage.sagas.recovered"
M_SAGA_DURATION: Final = "stage.saga.duration"
M_ATTEMPTS: Final = "stage.attempts"
M_ATTEMPT_DURATION: Final = "stage.attempt.duration"
M_BATCH_UNITS: Final = "stage.writer.batch"
M_COMMIT_DURATION: Final = "stage.writer.commit.duration"
M_CONNECTION_WAIT: Final = "stage.database.wait"
M_DENIED: Final = "stage.denied"
M_DEFECTS: Final = "stage.defects"
M_DROPPED: Final = "stage.dropped"
M_STUCK: Final = "stage.code.stuck"
M_LINES_DROPPED: Final = "stage.log.lines.dropped"

_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0
)  # fmt: skip
_UNITS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

METRICS: Final = {
    M_SAGAS: Metric(kind="gauge", labels=("state",), description="Sagas in the database by state."),
    M_PARKED: Metric(
        kind="gauge", labels=("cause",), description="Sagas that wait for a person, by why."
    ),
    M_APPROVALS: Metric(
        kind="gauge",
        labels=("step",),
        description="Sagas that wait for a person to approve this step.",
    ),
    M_OLDEST_APPROVAL: Metric(
        kind="gauge",
        unit="s",
        labels=("step",),
        description="How long the oldest of these sagas has waited for a person; 0 for none.",
    ),
    M_APPROVAL_EXPIRY: Metric(
        kind="gauge",
        unit="s",
        labels=("step",),
        description="Until the first of these sagas is refused for want of an answer.",
    ),
    M_NEWER: Metric(
        kind="gauge",
        description="Sagas of a newer version of the stage, which this release leaves alone.",
    ),
    M_LOST: Metric(
        kind="gauge",
        description=(
            "Sagas that neighbours asked for, that the database has lost,"
            " and that were not adopted."
        ),
    ),
    M_PAUSED: Metric(
        kind="gauge",
        description="1 while an operator holds this target in this direction.",
        labels=("target", "direction"),
    ),
    M_STALE: Metric(
        kind="gauge",
        description="1 while the database cannot be read, and its gauges are the last known.",
    ),
    M_OLDEST: Metric(
        kind="gauge",
        unit="s",
        description="Age of the oldest saga that has not ended nor waits for a person; 0 for none.",
    ),
    M_LAG: Metric(
        kind="gauge",
        unit="s",
        description="For how long the longest due saga has been due; 0 for none.",
    ),
    M_COMPENSATION: Metric(
        kind="gauge",
        unit="s",
        description="Time since the oldest undo under way began; 0 for none.",
    ),
    M_RUNS: Metric(kind="gauge", description="Sagas that are being run in this process."),
    M_IN_DOUBT: Metric(
        kind="gauge", description="Steps in doubt of running sagas, and sagas parked for one."
    ),
    M_READY: Metric(kind="gauge", description="1 while new sagas are accepted, otherwise 0."),
    M_DRAINING: Metric(kind="gauge", description="1 while the process drains, from SIGTERM on."),
    M_CLOCK_JUMP: Metric(
        kind="gauge",
        unit="s",
        description="How far the wall clock jumped ahead and is not believed; 0 for not at all.",
    ),
    M_CERTIFICATE_EXPIRY: Metric(
        kind="gauge",
        unit="s",
        labels=("place",),
        description="Until a certificate that is in use expires; below 0 it has.",
    ),
    M_FILES_REFUSED: Metric(
        kind="gauge",
        labels=("place",),
        description=(
            "1 while changed files of a certificate or of credentials cannot be used,"
            " and what they held before is."
        ),
    ),
    M_QUEUE: Metric(kind="gauge", description="Units of work that wait for the writer."),
    M_BREAKER: Metric(
        kind="gauge",
        labels=("peer",),
        description="1 while a peer is left alone because it keeps failing.",
    ),
    M_LIMIT: Metric(
        kind="gauge",
        labels=("what",),
        description="How many of these this process takes at a time, at most.",
    ),
    M_IN_USE: Metric(
        kind="gauge", labels=("what",), description="How many of these there are now, by limit."
    ),
    M_DATABASE_SIZE: Metric(
        kind="gauge",
        unit="By",
        labels=("part",),
        description="Size of the database on its disk, by part.",
    ),
    M_REQUESTS: Metric(
        kind="counter",
        labels=("method", "route", "code"),
        description="Requests that were answered, by the template of their path.",
    ),
    M_PEER_ANSWERS: Metric(
        kind="counter",
        labels=("peer", "answer"),
        description="Requests to peers that ended, by the code of the answer or what became of it.",
    ),
    M_SAGAS_ACCEPTED: Metric(kind="counter", description="Sagas that were durably accepted."),
    M_SAGAS_ENDED: Metric(
        kind="counter",
        labels=("outcome",),
        values=("completed", "compensated", "failed_to_compensate"),
        description="Sagas that came to an end, by which.",
    ),
    M_SAGAS_PARKED: Metric(
        kind="counter",
        labels=("cause",),
        values=tuple(ParkCause),
        description="How often a saga was parked for a person, by why.",
    ),
    M_SAGAS_RECOVERED: Metric(
        kind="counter", description="How often a saga was taken over from a run that was lost."
    ),
    M_SAGA_DURATION: Metric(
        kind="histogram",
        unit="s",
        labels=("outcome",),
        bounds=_SECONDS,
        description="From acceptance to the end.",
    ),
    M_ATTEMPTS: Metric(
        kind="counter",
        labels=("step", "activity", "outcome"),
        description="Attempts of steps that ended, by how.",
    ),
    M_ATTEMPT_DURATION: Metric(
        kind="histogram",
        unit="s",
        labels=("step", "activity", "outcome"),
        bounds=_SECONDS,
        description="From the begin of an attempt until its outcome was durable.",
    ),
    M_BATCH_UNITS: Metric(
        kind="histogram", bounds=_UNITS, description="Units of work that shared a commit."
    ),
    M_CONNECTION_WAIT: Metric(
        kind="histogram",
        unit="s",
        bounds=_SECONDS,
        description="How long a statement waited for a connection to the server.",
    ),
    M_COMMIT_DURATION: Metric(
        kind="histogram",
        unit="s",
        bounds=_SECONDS,
        description="How long COMMIT took, with its fsync.",
    ),
    M_DENIED: Metric(
        kind="counter",
        labels=("step",),
        description="Attempts that a neighbour or a gateway answered 401 or 403, or for which a"
        " peer refused our certificate.",
    ),
    M_DEFECTS: Metric(
        kind="counter",
        labels=("where",),
        values=("author", "mail", "renew", "request", "retention", "run", "scan", "send", "watch"),
        description="Exceptions that should never have been raised.",
    ),
    M_DROPPED: Metric(
        kind="counter",
        labels=("kind",),
        values=tuple(DroppedKind),
        description=(
            "Answers, rows of sagas and acts of the audit that were dropped for their age,"
            " and requests about lost sagas that were not kept."
        ),
    ),
    M_STUCK: Metric(
        kind="counter",
        labels=("thread",),
        values=tuple(Thread),
        description="How often code did not come to an end, and all sagas waited for it.",
    ),
    M_LINES_DROPPED: Metric(
        kind="counter",
        description="Lines of stdout and stderr that were dropped: nobody read them, or their disk"
        " was full.",
    ),
}
"""Every metric: the table of docs/metrics.md, which is tested against it. No label holds an id."""


def prometheus_name(name: str) -> str:
    """The name of a metric in Prometheus text, where a unit is part of it; see `docs/metrics.md`.

    A counter gets `_total` from whoever writes the text.
    """
    metric = METRICS[name]
    unit = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
    return name.replace(".", "_") + unit


# --- log lines -----------------------------------------------------------------------------------

LOG_DEFECT: Final = "defect"
"""The line of an exception that should never have been raised."""
LOG_DROPPED: Final = "retention_dropped"
"""The line of what retention has dropped: its kind, and how many."""
LOG_NO_ROOM: Final = "lost_request_not_kept"
"""The line of a request about a lost saga for which there was no room: a release waits for it."""
LOG_CONTRADICTED: Final = "webhook_contradicts"
"""The line of a webhook that says no to a call which its API had said to have landed."""
LOG_STUCK: Final = "code_stuck"
"""The line of code that does not come to an end: saga, step and stack (rule 35)."""
LOG_SUSPECTS_OFF: Final = "suspects_not_kept"
"""The line at start when the page of suspects cannot be mapped."""
LOG_TURNED_AWAY: Final = "connections_turned_away"
"""A line of the process: as many connections are open as may be (`connections_max`)."""
LOG_HANDSHAKES_FAILED: Final = "handshakes_failed"
"""A line of the process: callers came in whose TLS handshake failed, and why the last one did."""
LOG_LINES_DROPPED: Final = "log_lines_dropped"
"""A line in the place of those that could not be written: how many."""
LOG_EXIT_FORCED: Final = "exit_forced"
"""The last line of a process that could not be stopped in time."""
LOG_FAST_OFF: Final = "fast_telemetry_off"
"""The line at start when the SDK does all by itself (telemetry.fast)."""
FAST_VARIABLE: Final = "STAGE_FAST_TELEMETRY"
"""Switches off everything in telemetry.fast."""
