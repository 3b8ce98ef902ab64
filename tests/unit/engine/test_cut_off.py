"""The attempts in flight when a process was lost, read from the journal alone."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.engine.saga.cut_off import cut_off
from stage.ports.store import Entry

AT = 1_795_400_000.0
ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16


def open_after(*events: e.Event) -> list[tuple[str, AttemptKind, int, str]]:
    entries = [Entry(number=number, epoch=1, event=event) for number, event in enumerate(events, 1)]
    return [(each.step, each.kind, each.attempt, each.span) for each in cut_off(entries)]


def started(step: str, span: str, attempt: int = 1) -> e.Event:
    return e.StepStarted(at=AT, step=step, attempt=attempt, span=span)


def test_an_attempt_that_began_and_did_not_end_was_cut_off() -> None:
    """Every sort of attempt, several at the same time."""
    assert [
        ("charge", AttemptKind.EXECUTE, 2, ONE),
        ("quote", AttemptKind.COMPENSATE, 3, TWO),
        ("", AttemptKind.TELL, 1, THREE),
    ] == open_after(
        started("charge", ONE, 2),
        e.CompensationStarted(at=AT, step="quote", attempt=3, span=TWO),
        e.TellStarted(at=AT, attempt=1, span=THREE),
    )


@pytest.mark.parametrize(
    "end",
    [
        e.StepSucceeded(at=AT, step="charge"),
        e.StepInDoubt(at=AT, step="charge"),
        e.StepPending(at=AT, step="charge"),
        e.ProbeFound(at=AT, step="charge"),
        e.Recovered(at=AT, epoch=2),
    ],
    ids=lambda event: type(event).__name__,
)
def test_attempts_that_ended_or_were_reported_before_are_not_reported(end: e.Event) -> None:
    """An outcome ends an attempt; a takeover has reported what was open before it."""
    assert [] == open_after(started("charge", ONE), end)


def test_a_probe_takes_the_place_of_the_attempt_it_looks_for() -> None:
    """That one had ended in doubt before."""
    assert [("charge", AttemptKind.PROBE, 1, TWO)] == open_after(
        started("charge", ONE),
        e.StepInDoubt(at=AT, step="charge"),
        e.ProbeStarted(at=AT, step="charge", span=TWO),
    )


def test_it_has_the_links_that_it_had() -> None:
    """To what it repeated, looked for or compensated, as the attempt would have had."""

    def links(*events: e.Event) -> tuple[str, ...]:
        entries = [Entry(number=n, epoch=1, event=event) for n, event in enumerate(events, 1)]
        (each,) = cut_off(entries)
        return each.links

    first = started("charge", ONE)
    doubt = e.StepInDoubt(at=AT, step="charge")
    probe = e.ProbeStarted(at=AT, step="charge", span=TWO)
    failed = e.ProbeFailed(at=AT, step="charge")
    assert () == links(first)
    assert (ONE,) == links(first, doubt, started("charge", TWO, 2))
    assert (ONE,) == links(first, doubt, probe)
    assert (ONE, TWO) == links(
        first, doubt, probe, failed, e.ProbeStarted(at=AT, step="charge", span=THREE)
    )
    done = e.StepSucceeded(at=AT, step="reserve", span=ONE)
    undo = e.CompensationStarted(at=AT, step="reserve", attempt=1, span=TWO)
    assert (ONE,) == links(done, undo)
    notified = e.TellStarted(at=AT, attempt=1, span=ONE)
    again = e.TellStarted(at=AT, attempt=2, span=TWO)
    assert (ONE,) == links(notified, e.TellDelayed(at=AT), again)


def test_an_attempt_without_a_span_is_not_reported() -> None:
    """There is no id to report it under."""
    assert [] == open_after(started("charge", ""))
