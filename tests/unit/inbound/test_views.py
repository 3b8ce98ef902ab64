"""Views show the members of events that are named public, and no others."""

from __future__ import annotations

import msgspec

from stage.core import events as e
from stage.core.event_table import EVENTS, public_members

PRIVATE = {"baggage", "request", "result"}
"""Never shown: the caller's baggage, requests with headers and bodies, payloads."""


def test_baggage_payloads_and_requests_are_not_shown() -> None:
    accepted = e.Accepted(at=1.0, upstream="order", baggage="user=alice")
    assert {"upstream": "order"} == public_members(accepted)
    request = e.Request(method="POST", path="/charges", headers=(("Authorization", "secret"),))
    started = e.StepStarted(at=1.0, step="charge", attempt=1, request=request)
    assert {"step": "charge", "attempt": 1} == public_members(started)
    done = e.StepSucceeded(at=1.0, step="charge", result=msgspec.Raw(b'{"card":"4111"}'))
    assert {"step": "charge"} == public_members(done)


def test_no_event_makes_a_private_member_public() -> None:
    """The table of events is the one allowlist; these members are in no row of it."""
    shown = {member for row in EVENTS.values() for member in row.public}
    assert {"step", "reason", "upstream"} <= shown
    assert set() == shown & PRIVATE
