"""JSON Schemas (2020-12) of what travels, for the OpenAPI document and for neighbours.

A schema and its decoder agree, but for what a schema cannot say: duplicate members, the bytes of
the body, the depth, and dates that do not exist.
"""

from __future__ import annotations

from typing import Any

from stage.wire.envelope import PROTOCOL, STAGE_NAME_RE
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
from stage.wire.problem import ProblemType

_L = DEFAULT_LIMITS

INSTANT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "format": "date-time",
    "description": "RFC 3339 with an offset",
    "pattern": (
        "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?"
        "([Zz]|[+-][0-9]{2}:[0-9]{2})$"
    ),
}
SAGA_ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^(?!\\.{{1,2}}$)[A-Za-z0-9._~:-]{{1,{_L.saga_id_chars_max}}}$",
    "description": "The saga's one name everywhere; UUIDv7 recommended",
}
STAGE_NAME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{STAGE_NAME_RE.pattern}$",
}

ENVELOPE_SCHEMA: dict[str, Any] = {
    "title": "Envelope",
    "type": "object",
    "additionalProperties": False,
    "required": ["saga_id", "data"],
    "properties": {
        "saga_id": SAGA_ID_SCHEMA,
        "protocol": {"const": PROTOCOL, "description": f"{PROTOCOL} where it is left out"},
        "deadline": {"anyOf": [INSTANT_SCHEMA, {"type": "null"}]},
        "data": {"type": "object", "description": "Grows along the chain, a member for each stage"},
        "trail": {
            "type": "array",
            "maxItems": _L.trail_entries_max,
            "description": "The stages passed, in order",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["stage", "at"],
                "properties": {"stage": STAGE_NAME_SCHEMA, "at": INSTANT_SCHEMA},
            },
        },
    },
}
EXECUTED_SCHEMA: dict[str, Any] = {
    "title": "Executed",
    "type": "object",
    "additionalProperties": False,
    "required": ["outcome"],
    "properties": {
        "saga_id": SAGA_ID_SCHEMA,
        "outcome": {"const": Outcome.EXECUTED.value},
        "data": {"type": "object", "description": "What was added, by the name of the stage"},
    },
}
OWN_WORD_SCHEMA: dict[str, Any] = {
    "title": "OwnWord",
    "description": "The least that a neighbour says of a saga; it counts where code and outcome"
    " agree. A problem document says it too.",
    "type": "object",
    "required": ["outcome"],
    "properties": {
        "saga_id": SAGA_ID_SCHEMA,
        "outcome": {"enum": [outcome.value for outcome in Outcome]},
    },
}
COMPENSATE_REQUEST_SCHEMA: dict[str, Any] = {
    "title": "CompensateRequest",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "requested_by": {
            "type": "string",
            "maxLength": _L.requested_by_chars_max,
            "description": "A stage or a person; unknown where it is left out",
        },
        "reason": {"type": "string", "maxLength": _L.reason_chars_max},
        "first_sent_at": {
            **INSTANT_SCHEMA,
            "description": "When the saga was first sent, or earlier; shows what a restore lost",
        },
        "outcome": {
            "const": Outcome.COMPENSATED.value,
            "description": "The asker's word that nothing stands at it or behind it",
        },
    },
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Problem details (RFC 9457). The outcome decides what the caller does.",
    "type": "object",
    "required": ["title", "status", "outcome", "retryable"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "default": "about:blank",
            "description": "Of a stage one of these; there may be more: "
            + ", ".join(each.value for each in ProblemType),
        },
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "detail": {"type": "string"},
        "outcome": {"enum": [outcome.value for outcome in Outcome]},
        "retryable": {"type": "boolean"},
        "saga_id": {"type": "string"},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "hint": {"type": "string"},
        "stands": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Effects that still stand after a compensation that failed",
        },
        "may_stand": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Effects of which nobody knows whether they stand",
        },
    },
}
