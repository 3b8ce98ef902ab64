"""The names that telemetry gives fit the events of the core."""

from __future__ import annotations

import typing

from stage.core import events as e
from stage.core.commands import Activity
from stage.telemetry import names, visible

EVENTS = typing.get_args(e.Event)


def test_every_event_has_a_level() -> None:
    """A new event is logged at a level that somebody chose."""
    assert {event.__struct_config__.tag for event in EVENTS} == set(visible.LOG_EVENTS)


def test_every_member_of_an_event_is_judged() -> None:
    """A new member is either allowed into log lines or kept out of them on purpose."""
    members = {member for event in EVENTS for member in event.__struct_fields__}
    assert visible.LOG_FIELDS | visible.NEVER_LOGGED == members
    assert not visible.LOG_FIELDS & visible.NEVER_LOGGED


def test_span_names_have_few_values() -> None:
    """Spans are named by route, stage and step; a method from outside never becomes a name."""
    assert names.request_span("POST", "/sagas") == "POST /sagas"
    assert names.request_span("BREW", "/sagas") == "HTTP /sagas"
    assert names.request_span("GET", names.UNMATCHED_ROUTE) == "GET"
    assert names.attempt_span(Activity.EXECUTE, "charge", "psp") == "step charge"
    assert names.attempt_span(Activity.PROBE, "charge", "psp") == "probe charge"
    assert names.attempt_span(Activity.COMPENSATE, "charge", "psp") == "compensate charge"
    assert names.attempt_span(Activity.TELL, "tell_upstream", "order") == "tell order"


def test_every_failed_outcome_is_something_that_ends_a_span() -> None:
    """Outcomes are names of events, or ends of a run or an attempt that no event has."""
    assert names.FAILED_OUTCOMES - names.RUN_OUTCOMES - {names.CUT_OFF} <= set(visible.LOG_EVENTS)
