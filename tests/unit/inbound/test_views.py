"""Views show the members of events that are named public, and no others."""

from __future__ import annotations

import msgspec

from stage.core import events as e
from stage.core.event_table import EVENTS, public_members
from stage.inbound.views import JOURNAL_BYTES_MAX, journal_view
from stage.ports.store import Entry
from stage.wire.views import encode_view

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


def test_a_page_of_the_journal_is_bounded_in_bytes() -> None:
    """It ends behind the entry that makes it too large, and says where the next one begins."""
    event = e.StepRefused(at=1.0, step="charge", reason="x" * 60_000)
    entries = [Entry(number=n, epoch=1, event=event) for n in range(1, 101)]
    seen: list[int] = []
    while True:
        page = journal_view("s-1", entries[len(seen) :], 1_000)
        assert JOURNAL_BYTES_MAX + 70_000 > len(encode_view(page))
        seen += [entry["seq"] for entry in page.entries]
        if page.next is None:
            break
        assert seen[-1] == page.next
    assert list(range(1, 101)) == seen
