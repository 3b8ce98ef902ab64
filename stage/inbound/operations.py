"""The endpoints as the OpenAPI document describes them: parameters, bodies, answers, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stage.core.states import ParkCause
from stage.wire import headers as h
from stage.wire.chain import CHAIN_ASKED, CHAIN_HOPS

Parameter = dict[str, Any]

MALFORMED = {400: "Malformed; nothing was executed"}
PAST_RETENTION = "Past retention: nothing is known of it any more"
NOT_FOUND = {404: "Never seen here", 410: PAST_RETENTION}
NOT_ACCEPTED = {422: "Well-formed but not accepted"}
NO_NAME = {
    401: "No token that is known; nothing was executed",
    403: "Not for this caller, or not its saga; nothing was executed",
}
UNAVAILABLE = {
    500: "A defect; the outcome is unknown",
    503: "Not now: the outcome says whether anything was executed; see Retry-After",
}
BODY = {
    **MALFORMED,
    408: "The body did not arrive in time",
    413: "Larger than the limits allow",
    415: "Not JSON in UTF-8",
    **NOT_ACCEPTED,
}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. `answers` name schemas of the document, by status; `problems` say why."""

    id: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    body: str = ""
    body_required: bool = True
    answers: Mapping[int, tuple[str, tuple[str, ...]]] = {}
    problems: Mapping[int, str] = {}
    anyone: bool = False
    """No token is asked for."""
    content_type: str = h.CONTENT_JSON
    there: bool = False
    """A neighbour serves it, and may answer less than a stage does."""


def _header(name: str, description: str, schema: dict[str, Any]) -> Parameter:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema,
    }


def _query(name: str, schema: dict[str, Any], **more: Any) -> Parameter:
    return {"name": name, "in": "query", "required": False, "schema": schema, **more}


TEXT = {"type": "string"}
GIVEN = {"type": "string", "minLength": 1}
TRACE = (
    _header(h.TRACEPARENT, "W3C Trace Context", TEXT),
    _header(h.TRACESTATE, "W3C Trace Context", TEXT),
    _header(h.BAGGAGE, "W3C Baggage; passed on as far as the operator allows", TEXT),
)
PREFER = _header(h.PREFER, "RFC 7240: wait=SECONDS, respond-async", TEXT)
WAIT = _header(h.PREFER, "RFC 7240: wait=SECONDS waits for an end, or a person", TEXT)
BUDGET = _header(
    h.SAGA_BUDGET_MS,
    "Milliseconds that are left for the saga, a week at most; the deadline holds without it",
    {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999},
)
IDEMPOTENCY = _header(h.IDEMPOTENCY_KEY, "Equals the saga id where it is sent", TEXT)
ACT_KEY = _header(
    h.IDEMPOTENCY_KEY,
    "A repeat under the same key does nothing, and is answered as the first was; kept for a week",
    TEXT,
)
CHAIN = (
    _header(CHAIN_ASKED, "Stages that view=chain has asked already; stages send it", TEXT),
    _header(CHAIN_HOPS, "How many stages further view=chain may go", {"type": "integer"}),
)
VIEW = _query("view", {"type": "string", "enum": ["journal", "plan", "verbs", "chain"]})
LIST = (
    _query("state", {"type": "array", "items": GIVEN}, explode=True),
    _query("parked", {"type": "string", "enum": ["true", "false"]}),
    _query("cause", {"type": "string", "enum": [cause.value for cause in ParkCause]}),
    _query("step", GIVEN, description="The step that it waits at, or is parked at"),
    _query("peer", GIVEN, description="The peer of that step, by kind and name: externals.psp"),
    _query("older_than", {"type": "number", "minimum": 0}, description="Seconds without a change"),
    _query("changed_from", GIVEN, description="Last changed at or after, RFC 3339"),
    _query("changed_before", GIVEN, description="Last changed before, RFC 3339"),
    _query("number", GIVEN, description="NAME:VALUE of a number that the stage indexes; alone"),
    _query("trace_id", GIVEN, description="Of a stage that indexes numbers; alone"),
    _query("since", TEXT, description="For neighbours: shared sagas that changed since, RFC 3339"),
    _query("with", TEXT, description="With since: the name of the neighbour that asks"),
    _query("after", TEXT, description="The last saga id, or the `next`, of the page before"),
    _query("limit", {"type": "integer", "minimum": 1, "maximum": 500}),
)

NUMBER: Parameter = {
    "name": "number",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}

EXTERNAL: Parameter = {
    "name": "external",
    "in": "path",
    "required": True,
    "description": "The name of the external API, as the stage has it configured",
    "schema": TEXT,
}

VERB_PROBLEMS = {**BODY, **NOT_FOUND, 409: "Not allowed as the saga stands", **UNAVAILABLE}
COMPENSATE = Operation(
    id="compensate",
    summary="Compensate the saga; asked by upstream, downstream, an orchestrator or a person",
    parameters=(PREFER, *TRACE),
    body="CompensateRequest",
    body_required=False,
    answers={
        200: ("Nothing of it stands", ("Standing",)),
        202: ("Durably accepted, still working", ("Standing",)),
    },
    problems={
        **BODY,
        409: "Cannot: the body lists what stands",
        410: "Over: nothing of it stands, or an operator here has taken over all that may stand",
        **UNAVAILABLE,
    },
)
EXECUTE = Operation(
    id="execute",
    summary="Run this stage, and those after it, for the saga in the body",
    parameters=(BUDGET, PREFER, IDEMPOTENCY, *TRACE),
    body="Envelope",
    answers={
        200: ("Done here and downstream", ("Executed",)),
        202: ("Durably accepted, still running", ("Standing",)),
    },
    problems={
        **BODY,
        409: "Over: refused or failed, and nothing of it stands",
        410: "Compensated, tombstoned or past retention here; it will never run",
        504: "The deadline was over on arrival",
        **UNAVAILABLE,
    },
)


def _verb(verb: str, summary: str) -> Operation:
    return Operation(
        id=verb,
        summary=summary,
        parameters=(ACT_KEY, *TRACE),
        body="Order",
        answers={200: ("The saga as it stands, or with dry_run would stand, after", ("Saga",))},
        problems=VERB_PROBLEMS,
    )


def _read(id: str, summary: str, schema: str, **more: Any) -> Operation:  # noqa: A002 - OpenAPI's word
    return Operation(id=id, summary=summary, answers={200: (summary, (schema,))}, **more)


def _sweep(id: str, summary: str) -> Operation:  # noqa: A002 - OpenAPI's word
    return Operation(
        id=id,
        summary=summary,
        parameters=(NUMBER, ACT_KEY),
        body="SweepChange",
        answers={200: ("The sweep as it stands", ("Sweep",))},
        problems={**BODY, 404: "No such sweep", **UNAVAILABLE},
    )


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/sagas"): EXECUTE,
    ("GET", "/sagas"): Operation(
        id="list",
        summary="One page of sagas; with `since` those that are shared with a neighbour",
        parameters=LIST,
        answers={200: ("One page of sagas", ("Page", "SharedPage"))},
        problems={
            410: "With `since`: sagas of then were dropped",
            **MALFORMED,
            **NOT_ACCEPTED,
            **UNAVAILABLE,
        },
    ),
    ("GET", "/now"): _read(
        "now", "How the stage stands at this instant", "Now", problems=UNAVAILABLE
    ),
    ("GET", "/groups"): _read(
        "groups",
        "What waits and is parked, counted by cause, step, peer and state",
        "Groups",
        problems=UNAVAILABLE,
    ),
    ("GET", "/pauses"): _read("pauses", "The pauses in force", "Pauses"),
    ("POST", "/pauses"): Operation(
        id="pause",
        summary="Hold what goes to a peer, or refuse new sagas for now",
        parameters=(ACT_KEY,),
        body="PauseOrder",
        answers={200: ("The pauses in force", ("Pauses",))},
        problems={**BODY, **UNAVAILABLE},
    ),
    ("POST", "/pauses/end"): Operation(
        id="resume",
        summary="End a pause before its time",
        parameters=(ACT_KEY,),
        body="ResumeOrder",
        answers={200: ("The pauses in force", ("Pauses",))},
        problems={
            **BODY,
            404: "Not paused",
            409: "Another pause than the one that began `at` is in force",
            **UNAVAILABLE,
        },
    ),
    ("GET", "/sweeps"): _read("sweeps", "Verbs that are done to many sagas", "Sweeps"),
    ("POST", "/sweeps"): Operation(
        id="begin_sweep",
        summary="Do a verb to many sagas, at a rate; with dry_run only count them",
        parameters=(ACT_KEY,),
        body="SweepOrder",
        answers={200: ("The sweep as it stands", ("Sweep",))},
        problems={**BODY, **UNAVAILABLE},
    ),
    ("GET", "/sweeps/{number}"): _read(
        "sweep",
        "One sweep and its progress",
        "Sweep",
        parameters=(NUMBER,),
        problems={404: "No such sweep"},
    ),
    ("POST", "/sweeps/{number}/stop"): _sweep("stop_sweep", "Act on no further saga"),
    ("POST", "/sweeps/{number}/resume"): _sweep("resume_sweep", "Let a stopped sweep go on"),
    ("POST", "/reconcile"): Operation(
        id="reconcile",
        summary="Ask the neighbours for sagas that a restored database lost, and take them over",
        body="ReconcileOrder",
        answers={200: ("What they list, against the database", ("Reconcile",))},
        problems={**BODY, 409: "Nobody can be asked, or nothing may be taken over", **UNAVAILABLE},
    ),
    ("GET", "/peers"): _read(
        "peers", "Every peer: how it answers, and what waits for it", "Peers", problems=UNAVAILABLE
    ),
    ("GET", "/audit"): _read(
        "audit",
        "What people did, the newest first",
        "Acts",
        parameters=(
            _query("target", TEXT, description="A saga id, or a peer by kind and name"),
            _query("before", {"type": "integer", "minimum": 1}, description="`next` of the page"),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 500}),
        ),
        problems={**MALFORMED, **UNAVAILABLE},
    ),
    ("GET", "/sagas/{saga_id}"): Operation(
        id="query",
        summary="State, outcome, steps and next action of one saga",
        parameters=(VIEW, WAIT, BUDGET, *CHAIN, *TRACE),
        answers={
            200: ("The view that was asked for", ("Saga", "Journal", "Plan", "Verbs", "Chain"))
        },
        problems={**MALFORMED, **NOT_FOUND, **NOT_ACCEPTED, **UNAVAILABLE},
    ),
    ("POST", "/sagas/{saga_id}/compensate"): COMPENSATE,
    ("POST", "/webhooks/{external}"): Operation(
        id="webhook",
        summary="For external APIs: how a call of theirs ended; verified by the author's function",
        parameters=(EXTERNAL,),
        answers={200: ("Kept, or nothing to be done", ("Document",))},
        problems={
            400: "Not readable",
            401: "Not verified",
            404: "No call has a webhook of such an API",
            408: "The body did not arrive in time",
            409: "Several sagas of its number wait for it",
            413: "Larger than the limits allow",
            **UNAVAILABLE,
        },
        anyone=True,
    ),
    ("POST", "/sagas/{saga_id}/retry"): _verb("retry", "Try what is parked again"),
    ("POST", "/sagas/{saga_id}/approve"): _verb("approve", "Say yes to a step that awaits it"),
    ("POST", "/sagas/{saga_id}/reject"): _verb(
        "reject", "Say no to a step that awaits approval: the saga turns back"
    ),
    ("POST", "/sagas/{saga_id}/settle"): _verb(
        "settle", "Say whether the effect of a step in doubt has landed"
    ),
    ("POST", "/sagas/{saga_id}/resolve"): _verb(
        "resolve", "Say that what still stands was undone by hand"
    ),
    ("POST", "/sagas/{saga_id}/abandon"): _verb(
        "abandon", "Give up undoing, and end with what stands"
    ),
    ("POST", "/sagas/{saga_id}/erase"): _verb(
        "erase", "Drop all contents of a saga that is over, also from the files"
    ),
    ("POST", "/sagas/{saga_id}/forget"): _verb(
        "forget", "Give up a saga that is parked or has ended: close it, and keep its answer"
    ),
    ("GET", "/.well-known/stage"): _read(
        "descriptor", "What this stage accepts, adds and limits", "Descriptor"
    ),
    ("GET", "/healthz"): _read("healthz", "The process serves", "Status", anyone=True),
    ("GET", "/readyz"): _read(
        "readyz",
        "New sagas are taken",
        "Status",
        anyone=True,
        problems={503: "Starting, draining, or away"},
    ),
    ("GET", "/metrics"): _read(
        "metrics", "Prometheus text or OpenMetrics", "Text", content_type="text/plain"
    ),
    ("GET", "/openapi.json"): _read("openapi", "This document", "Document"),
    ("GET", "/docs"): _read("docs", "This document as a page", "Text", content_type="text/html"),
}

ANSWER_HEADERS: Mapping[str, str] = {
    h.SAGA_ID: "The saga that the answer is about",
    h.TRACE_ID: "The trace to look it up by",
}
AT_A_LOOK = {h.CACHE_CONTROL: "no-store"}
"""Answers to GET have it."""
AGAIN = {h.RETRY_AFTER: "Seconds"}
REPLAYED = {h.IDEMPOTENCY_REPLAYED: "true where this answer was given before"}
VERBS = ("retry", "approve", "reject", "settle", "resolve", "abandon", "forget", "erase")
KEYED = (*VERBS, "pause", "resume", "begin_sweep", "stop_sweep", "resume_sweep")
"""The orders that may have an idempotency key."""
STATUS_HEADERS: Mapping[tuple[str, int], Mapping[str, str]] = {
    **{(operation, 200): REPLAYED for operation in KEYED},
    **{(operation, 409): REPLAYED for operation in VERBS},
    ("execute", 200): REPLAYED,
    ("execute", 202): {
        h.LOCATION: "Where the saga can be queried",
        h.PREFERENCE_APPLIED: "respond-async where that was asked for",
        **AGAIN,
    },
    ("execute", 409): REPLAYED,
    ("execute", 410): REPLAYED,
    ("execute", 500): {**AGAIN, **REPLAYED},
    ("compensate", 202): {h.LOCATION: "Where the saga can be queried", **AGAIN},
}
PROBLEM_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    409: {h.RETRY_AFTER: "Seconds, where the saga was lost"},
    500: AGAIN,
    503: AGAIN,
}
"""By the code of a problem of a stage."""
