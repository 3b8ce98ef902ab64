"""The names that telemetry gives fit the events of the core."""

from __future__ import annotations

import typing

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.event_table import EVENTS as EVENT_ROWS
from stage.telemetry import names, visible

EVENTS = typing.get_args(e.Event)


def test_every_event_has_a_level() -> None:
    """A new event is logged at a level that somebody chose."""
    assert {event.__struct_config__.tag for event in EVENTS} == set(visible.LOG_EVENTS)


@pytest.mark.parametrize("kind", EVENTS)
def test_a_line_holds_public_members_only(kind: type[e.Event]) -> None:
    """All of them but the span, which every line has as `span_id`; no payload, no baggage."""
    public = set(EVENT_ROWS[kind].public)

    assert public - {"span"} == set(visible.log_members(kind))
    assert not {"at", "span", "request", "result", "baggage"} & set(visible.log_members(kind))


def test_span_names_have_few_values() -> None:
    """Spans are named by route, stage and step; a method from outside never becomes a name."""
    assert names.request_span("POST", "/sagas") == "POST /sagas"
    assert names.request_span("BREW", "/sagas") == "HTTP /sagas"
    assert names.request_span("GET", names.UNMATCHED_ROUTE) == "GET"
    assert names.attempt_span(AttemptKind.EXECUTE, "charge", "psp") == "step charge"
    assert names.attempt_span(AttemptKind.PROBE, "charge", "psp") == "probe charge"
    assert names.attempt_span(AttemptKind.COMPENSATE, "charge", "psp") == "compensate charge"
    assert names.attempt_span(AttemptKind.TELL, "tell_upstream", "order") == "tell order"


def test_every_failed_outcome_is_something_that_ends_a_span() -> None:
    """Outcomes are names of events, or ends of a run or an attempt that no event has."""
    assert names.FAILED_OUTCOMES - names.RUN_OUTCOMES - {names.CUT_OFF} <= set(visible.LOG_EVENTS)
