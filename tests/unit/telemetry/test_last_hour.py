"""The ends of the last hour are counted by the minute, and forgotten in time."""

from __future__ import annotations

from stage.core import events as e
from stage.core.states import SagaState
from stage.ports.figures import Refusal
from stage.ports.observer import TraceContext
from stage.telemetry.last_hour import ASKED, REASONS_MAX, REST, LastHour

AT = 1_790_000_000.0 // 60 * 60


def heard(hour: LastHour, *events: e.Event) -> LastHour:
    """Tell it of these events, as it wants them."""
    for event in events:
        if hour.wants(type(event)):
            hour.happened("s-1", "payment", event, TraceContext())
    return hour


def test_ends_and_reasons_are_counted() -> None:
    """A reason with its step; a request to compensate without the words of who asked."""
    hour = heard(
        LastHour(),
        e.Completed(at=AT),
        e.StepRefused(at=AT, step="charge", reason="no money"),
        e.TurnedBack(at=AT, step="charge", reason="no money"),
        e.Compensated(at=AT + 60),
        e.TurnedBack(at=AT + 61, reason="customer 77 called"),
    )
    lately = hour.read(AT + 90)
    assert {SagaState.COMPLETED: 1, SagaState.COMPENSATED: 1} == lately.ended
    assert {Refusal("charge", "no money"): 1, ASKED: 1} == lately.refused


def test_an_end_of_an_hour_ago_is_not_counted() -> None:
    """At the minute; and older minutes take no room."""
    hour = heard(LastHour(), *(e.Completed(at=AT + 60 * minute) for minute in range(200)))
    assert {SagaState.COMPLETED: 60} == hour.read(AT + 60 * 199).ended
    assert {SagaState.COMPLETED: 10} == hour.read(AT + 60 * 249).ended
    assert {} == hour.read(AT + 60 * 1_000).ended
    assert {} == heard(LastHour(), e.Completed(at=AT)).read(AT + 3_600).ended


def test_reasons_have_a_limit() -> None:
    """An id within each reason does not fill the memory: beyond the limit they are one."""
    many = REASONS_MAX + 50
    hour = heard(
        LastHour(), *(e.TurnedBack(at=AT, step="charge", reason=f"no {n}") for n in range(many))
    )
    refused = hour.read(AT).refused
    assert (REASONS_MAX + 1, 50) == (len(refused), refused[REST])
