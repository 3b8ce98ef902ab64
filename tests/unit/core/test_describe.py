"""The words of an event: one form for the command line, the demo and the simulation."""

from __future__ import annotations

from typing import Any

import pytest

from stage.core.describe import event_in_words
from stage.core.event_table import NAMED


@pytest.mark.parametrize(
    "words, name, members",
    [
        ("charge: started", "step_started", {"step": "charge", "attempt": 1}),
        ("charge: started, attempt 2", "step_started", {"step": "charge", "attempt": 2}),
        ("charge: in doubt (timeout)", "step_in_doubt", {"step": "charge", "reason": "timeout"}),
        ("probe charge: not there", "probe_not_there", {"step": "charge"}),
        (
            "compensate charge: cannot, stands: charge (declined)",
            "compensation_refused",
            {"step": "charge", "stands": ["charge"], "reason": "declined"},
        ),
        ("tell upstream: again later (503)", "tell_delayed", {"reason": "503"}),
        ("recovered, as run 2", "recovered", {"epoch": 2}),
        (
            "asked to compensate, by shipping (late)",
            "compensation_requested",
            {"requested_by": "shipping", "reason": "late"},
        ),
        (
            "settle: charge, as not landed, by kim (asked the bank)",
            "settled",
            {"step": "charge", "landed": False, "actor": "kim", "why": "asked the bank"},
        ),
        ("stock_booked: shelf", "stock_booked", {"step": "shelf"}),
    ],
)
def test_an_event_is_one_line(words: str, name: str, members: dict[str, Any]) -> None:
    """The attempt and its end by the table, then the members that need a word, then the reason."""
    assert words == event_in_words(name, members)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_private_member_is_not_shown(name: str) -> None:
    """An entry of another program may have any member; the table alone says what is shown."""
    members = {"step": "charge", "request": "s3cret", "result": "s3cret", "baggage": "s3cret"}

    assert "s3cret" not in event_in_words(name, members)


def test_the_epoch_of_an_entry_is_not_the_run_of_a_recovery() -> None:
    """Each entry of the journal view has an epoch; only a recovery is about it."""
    assert "completed" == event_in_words("completed", {"epoch": 3})
