"""The event that the end of an author's function becomes: `end_event`."""

from __future__ import annotations

from stage.core import events as e
from stage.core.commands import AttemptKind, Do
from stage.core.failure import FailureKind
from stage.engine.saga.attempts import end_event
from stage.ports.stage import Failed


def test_a_probe_passes_on_for_how_long_it_was_asked_to_wait() -> None:
    """The machine heeds it before the next one."""
    failed = Failed(kind=FailureKind.TRANSIENT, reason="answered 503", retry_after=7.0)
    event = end_event(Do(kind=AttemptKind.PROBE, step="charge"), failed, 1.0)
    assert e.ProbeFailed(at=1.0, step="charge", reason="answered 503", retry_after=7.0) == event
