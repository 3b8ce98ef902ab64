"""Schemas: what they accept is what the decoders accept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from stage.wire.envelope import Envelope, decode_envelope, encode_envelope
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, WireError
from stage.wire.replies import decode_compensate, decode_executed
from stage.wire.schema import (
    COMPENSATE_REQUEST_SCHEMA,
    ENVELOPE_SCHEMA,
    EXECUTED_SCHEMA,
    PROBLEM_SCHEMA,
)
from tests.unit.wire.strategies import envelopes
from tests.unit.wire.test_envelope import AT, GOOD, WRONG

SCHEMAS: dict[str, dict[str, Any]] = {
    schema["title"]: schema
    for schema in (ENVELOPE_SCHEMA, EXECUTED_SCHEMA, COMPENSATE_REQUEST_SCHEMA, PROBLEM_SCHEMA)
}
# Dates that do not exist, which a schema cannot know; and a line break at the end, which `$` of
# Python lets through and `$` of JSON Schema (ECMA 262) does not.
BEYOND_SCHEMA = ("2026-02-30", "T24:", ":60Z", "+24:00", "0000-", "\\n")

EXAMPLES: list[tuple[str, Any]] = [
    *(("Envelope", GOOD | change) for change, _ in WRONG),
    ("Envelope", GOOD),
    ("Envelope", {"saga_id": "s", "data": {}}),
    ("Envelope", {"saga_id": "s"}),
    ("Envelope", {"data": {}}),
    ("Envelope", GOOD | {"deadline": None, "trail": []}),
    ("Envelope", GOOD | {"deadline": "2026-11-23t02:30:00.123456789+09:00"}),
    ("Envelope", GOOD | {"trail": [{"stage": "o" * 48, "at": AT}] * 64}),
    ("Envelope", GOOD | {"saga_id": "a" * 128}),
    ("Envelope", GOOD | {"saga_id": "..."}),
    ("Envelope", {}),
    ("Envelope", []),
    ("Executed", {}),
    ("Executed", {"data": {"a": 1}}),
    ("Executed", {"data": []}),
    ("Executed", {"saga_id": "s"}),
    ("Executed", {"saga_id": "s", "outcome": "executed", "data": {}}),
    ("Executed", {"outcome": "unknown", "data": {}}),
    ("Executed", {"data": {}, "x": 1}),
    ("Executed", []),
    ("CompensateRequest", {}),
    ("CompensateRequest", {"requested_by": "a", "reason": "b"}),
    ("CompensateRequest", {"reason": "x" * 1_000}),
    ("CompensateRequest", {"reason": "x" * 1_001}),
    ("CompensateRequest", {"requested_by": "x" * 129}),
    ("CompensateRequest", {"reason": None}),
    ("CompensateRequest", {"why": "b"}),
    ("CompensateRequest", []),
]
DECODERS: dict[str, Callable[[bytes], object]] = {
    "Envelope": decode_envelope,
    "Executed": lambda body: decode_executed(body, "s"),
    "CompensateRequest": decode_compensate,
}


def _decodes(name: str, value: Any) -> bool:
    try:
        DECODERS[name](msgspec.json.encode(value))
    except WireError:
        return False
    return True


@pytest.mark.parametrize(
    "name, value",
    [(name, value) for name, value in EXAMPLES if not any(x in str(value) for x in BEYOND_SCHEMA)],
)
def test_schema_and_decoder_agree(name: str, value: Any) -> None:
    """Both take it, or both refuse it."""
    assert _decodes(name, value) == Draft202012Validator(SCHEMAS[name]).is_valid(value)


def test_the_examples_hold_both() -> None:
    """Agreement means something only when some are taken and some refused."""
    for name in DECODERS:
        assert {True, False} == {_decodes(kind, value) for kind, value in EXAMPLES if kind == name}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_a_schema(name: str) -> None:
    """Each is valid itself, and refuses what is not an object."""
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert not Draft202012Validator(SCHEMAS[name]).is_valid([])


@given(envelopes)
def test_a_written_body_fits_the_schema(envelope: Envelope) -> None:
    """Every envelope that is sent."""
    assert Draft202012Validator(ENVELOPE_SCHEMA).is_valid(json.loads(encode_envelope(envelope)))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_problem_fits_the_schema(outcome: Outcome) -> None:
    """The least one and the fullest one."""
    validator = Draft202012Validator(PROBLEM_SCHEMA)
    least = Problem(title="x", status=409, outcome=outcome)
    fullest = Problem(
        type="/problems/x",
        title="x",
        status=500,
        detail="y",
        outcome=outcome,
        retryable=True,
        saga_id="s",
        trace_id="0" * 32,
        hint="z",
        stands=("charge",),
        may_stand=("notify",),
    )

    assert validator.is_valid(json.loads(least.encode()))
    assert validator.is_valid(json.loads(fullest.encode()))
    assert set(PROBLEM_SCHEMA["properties"]) == set(json.loads(fullest.encode()))


def test_the_schemas_name_the_members_of_the_structs() -> None:
    """A new member cannot be forgotten."""
    assert set(Envelope.__struct_fields__) == set(ENVELOPE_SCHEMA["properties"])
    assert {"saga_id", "outcome", "data"} == set(EXECUTED_SCHEMA["properties"])
    assert {"requested_by", "reason", "outcome", "first_sent_at"} == set(
        COMPENSATE_REQUEST_SCHEMA["properties"]
    )
