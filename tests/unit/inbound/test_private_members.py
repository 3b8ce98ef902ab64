"""No view of a saga shows what the table of events does not list as public."""

from __future__ import annotations

import msgspec

from stage.core import events as e
from stage.inbound.views import journal_view
from stage.ports.store import Entry
from stage.wire.chain import event_of
from stage.wire.views import encode_view

SECRET = "s3cret"
REQUEST = e.Request(method="POST", path=f"/{SECRET}", body=SECRET.encode())
RESULT = msgspec.Raw(f'{{"card":"{SECRET}"}}'.encode())
HISTORY: tuple[e.Event, ...] = (
    e.Accepted(at=1.0, upstream="order", baggage=f"user={SECRET}"),
    e.StepStarted(at=1.0, step="charge", attempt=1, key="k", request=REQUEST),
    e.RequestPrepared(at=1.5, step="charge", ordinal=2, request=REQUEST),
    e.StepSucceeded(at=2.0, step="charge", result=RESULT),
    e.CompensationStarted(at=3.0, step="charge", attempt=1, request=REQUEST),
    e.ProbeFound(at=3.0, step="charge", result=RESULT),
    e.Settled(at=4.0, step="charge", actor="ops", why="asked", landed=True, result=RESULT),
)


def test_the_journal_view_shows_no_baggage_no_request_and_no_result() -> None:
    """Each entry keeps its place, its instant and its public members."""
    entries = [Entry(number=n, epoch=1, event=event) for n, event in enumerate(HISTORY, 1)]

    shown = journal_view("s-1", entries)

    assert SECRET not in encode_view(shown).decode()
    assert list(range(1, len(HISTORY) + 1)) == [entry["seq"] for entry in shown.entries]
    assert {"upstream"} == shown.entries[0].keys() - {"seq", "at", "event", "epoch"}
    assert not {"baggage", "request", "result"} & {
        name for entry in shown.entries for name in entry
    }


def test_the_event_that_a_neighbour_sees_has_no_payload_even_of_private_members() -> None:
    """`ChainEvent` is closed: of members that it does not have nothing is passed on."""
    members = msgspec.json.decode(e.encode_event(HISTORY[1]))

    assert SECRET not in repr(event_of("1970-01-01T00:00:01Z", "step_started", members))
