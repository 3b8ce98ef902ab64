"""The table of events: complete, and private unless it says otherwise."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.event_table import (
    EVENTS,
    NAMED,
    PROGRESS,
    EventRow,
    Level,
    level_of,
    park_cause_of,
    public_members,
    reason_of,
    wording_of,
)
from stage.core.requester import Requester
from stage.core.states import ParkCause, SagaState

KINDS = get_args(e.Event)
NEVER_PUBLIC = frozenset({"baggage", "request", "result", "bound", "plan_hash", "shown", "act_key"})
"""Text of strangers and of clients, undo data and payloads, and what only rule 32 compares."""
SHOWN_OTHERWISE = frozenset({"at"})
SECRET = "s3cret"


def members_of(kind: type[Any]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def full(kind: type[Any]) -> e.Event:
    """An event of that type with a value in every member, private ones included."""
    values: dict[str, Any] = {
        "at": 1.0, "deadline": 9.0, "upstream": "order", "deferred": True, "baggage": SECRET,
        "requested_by": "order", "reason": "why", "epoch": 2, "generation": 2, "rested": True,
        "step": "charge", "attempt": 2,
        "key": "k", "span": "ab", "request": e.Request(method="POST", path=f"/{SECRET}"),
        "version": 2, "plan_hash": SECRET, "bound": e.Binding(peer=SECRET),
        "ordinal": 2, "compensation": True, "result": msgspec.Raw(f'"{SECRET}"'.encode()),
        "may_stand": True, "may_come": True, "retry_after": 1.0, "stands": ("charge",),
        "status": 202, "certain": True, "away": True,
        "cause": ParkCause.DEFECT, "actor": "ops", "why": "because", "landed": True,
        "changed": True, "anew": True, "new_key": True,
        "compensated": True, "said": True, "denied": True, "not_understood": True,
        "innocent": True, "defect": True, "final": True, "requester": Requester.UPSTREAM,
        "act_key": ActKey(key=SECRET, digest=SECRET),
        "upstream_knows": True,
        "unserved": True, "shown": msgspec.Raw(f'"{SECRET}"'.encode()),
    }  # fmt: skip
    event: e.Event = kind(**{name: values[name] for name in members_of(kind)})
    return event


def usual(kind: type[Any]) -> e.Event:
    """The same event without the member that makes it an exception from its row."""
    event = full(kind)
    match event:
        case e.Recovered():
            return msgspec.structs.replace(event, rested=False)
        case e.TellRefused():
            return msgspec.structs.replace(event, upstream_knows=False)
        case _:
            return event


def test_every_event_has_one_row() -> None:
    """To add an event without a row is an error, and so is a row for what is no event."""
    assert set(KINDS) == set(EVENTS)
    assert {kind.__struct_config__.tag for kind in KINDS} == set(NAMED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_is_public_by_name_or_private(kind: type[Any]) -> None:
    """The allowlist names members that exist, each once, and nothing that must never be shown."""
    public = EVENTS[kind].public

    assert set(public) <= members_of(kind) - SHOWN_OTHERWISE
    assert len(public) == len(set(public))
    assert not NEVER_PUBLIC & set(public)


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_public_members_come_out(kind: type[Any]) -> None:
    """Of an event with a value in every member exactly the public ones come out."""
    shown = public_members(full(kind))

    assert set(EVENTS[kind].public) == set(shown)
    assert SECRET not in repr(shown)


def test_only_payloads_undo_data_and_baggage_are_private() -> None:
    """A member that is shown nowhere is so on purpose: a new one has to be put on either list."""
    members = {(kind, name) for kind in KINDS for name in members_of(kind) - SHOWN_OTHERWISE}
    public = {(kind, name) for kind, row in EVENTS.items() for name in row.public}

    assert NEVER_PUBLIC == {name for _, name in members - public}


def test_members_at_their_default_are_left_out() -> None:
    """As in the journal, where they are not written either."""
    assert {"step": "charge"} == public_members(e.StepRefused(at=1.0, step="charge"))
    assert {"step": "a", "attempt": 1} == public_members(e.StepStarted(at=1.0, step="a", attempt=1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_starts_an_attempt_or_ends_one_or_neither(kind: type[Any]) -> None:
    """The end of an attempt has a label, is progress, and is exactly what `Outcome` lists."""
    row: EventRow = EVENTS[kind]

    assert (row.ends is not None) is (kind in get_args(e.AttemptEnd))
    assert bool(row.end) is (row.ends is not None)
    assert row.starts is None or row.ends is None
    assert row.wording == row.wording.strip() != ""
    brought_about = (*get_args(e.Verb), *get_args(e.Webhook))
    assert (kind in PROGRESS) is (row.ends is not None or kind in brought_about)


def test_every_kind_of_attempt_can_start_and_end() -> None:
    """An attempt that starts can end in at least two ways."""
    started = {row.starts for row in EVENTS.values() if row.starts is not None}
    for kind in started:
        assert len([row for row in EVENTS.values() if row.ends is kind]) >= 2
    assert started == {row.ends for row in EVENTS.values() if row.ends is not None}


def test_an_event_that_parks_has_a_cause() -> None:
    """Metrics count by it; a cause of its own stands in the event, the usual one in the rules."""
    assert ParkCause.FAILED_TO_COMPENSATE is park_cause_of(
        e.FailedToCompensate(at=1.0, stands=("charge",))
    )
    assert ParkCause.LOST_RUNS is park_cause_of(
        e.Parked(at=1.0, cause=ParkCause.LOST_RUNS, reason="why")
    )
    assert ParkCause.UPSTREAM_AWAY is park_cause_of(
        e.TellRefused(at=1.0, cause=ParkCause.UPSTREAM_AWAY)
    )
    assert park_cause_of(e.Completed(at=1.0)) is None


def test_a_no_of_an_upstream_that_knows_is_not_counted_as_a_park() -> None:
    """It had asked by itself: nothing is parked, and nobody has to look."""
    known = e.TellRefused(at=1.0, reason="answered 409", upstream_knows=True)
    assert (None, Level.INFO) == (park_cause_of(known), level_of(known))


LEVELS: dict[Level, set[type[Any]]] = {
    Level.DEBUG: {e.RequestPrepared},
    Level.WARNING: {
        *(e.Recovered, e.TurnedBack, e.StepTransient, e.StepInDoubt, e.ProbeFailed),
        *(e.CompensationDelayed, e.TellDelayed, *get_args(e.Verb)),
    },
    Level.ERROR: {e.FailedToCompensate, e.Parked, e.CompensationRefused, e.TellRefused},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_level_of_an_event(kind: type[Any]) -> None:
    """An error calls a person, a warning says that something did not go as it should."""
    expected = next((level for level, kinds in LEVELS.items() if kind in kinds), Level.INFO)
    assert expected is EVENTS[kind].level is level_of(usual(kind))


def test_a_saga_that_rested_is_taken_over_without_a_word() -> None:
    """No run was lost: a deploy would write a warning for each saga that waits."""
    assert Level.DEBUG is level_of(e.Recovered(at=1.0, epoch=2, rested=True))
    assert Level.WARNING is level_of(e.Recovered(at=1.0, epoch=2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_is_an_error_where_an_attempt_or_the_saga_went_wrong(kind: type[Any]) -> None:
    """A refusal is a business no, an answer and no error; a verb is an act of a person."""
    row = EVENTS[kind]
    wrong = row.level in (Level.WARNING, Level.ERROR)
    ends = row.ends is not None or kind in (e.FailedToCompensate, e.Parked)

    assert (wrong and ends) is row.failed


def test_the_events_that_end_a_saga_or_make_it_wait_for_a_person() -> None:
    """Behind a final event none is expected that ends an attempt: a trace can be closed."""
    outcomes = {kind: row.outcome for kind, row in EVENTS.items() if row.outcome is not None}
    assert {
        e.Completed: SagaState.COMPLETED,
        e.Compensated: SagaState.COMPENSATED,
        e.FailedToCompensate: SagaState.FAILED_TO_COMPENSATE,
    } == outcomes
    final = {kind for kind, row in EVENTS.items() if row.final}
    assert {*outcomes, e.TellDelivered, e.TellRefused} == final
    parking = {kind for kind, row in EVENTS.items() if row.parks}
    assert {e.FailedToCompensate, e.Parked, e.TellRefused} == parking
    assert {kind: row.parks for kind, row in EVENTS.items()} == {
        kind: park_cause_of(usual(kind)) is not None for kind in KINDS
    }


ENDS = {
    "execute": {"succeeded", "refused", "transient", "in_doubt", "pending"},
    "probe": {"found", "not_there", "pending", "refused", "failed"},
    "compensate": {"succeeded", "delayed", "refused"},
    "tell": {"delivered", "delayed", "refused"},
}


def test_the_end_of_an_attempt_is_a_label_of_its_kind() -> None:
    """Dashboards count by these; the name of the event is made of the two."""
    found: dict[str, set[str]] = {}
    for kind, row in EVENTS.items():
        if row.ends is not None:
            found.setdefault(row.ends.value, set()).add(row.end)
            assert str(kind.__struct_config__.tag).endswith(row.end)
    assert found == ENDS


def test_a_gateways_no_is_worded_as_a_doubt() -> None:
    """Only where the event has such a wording: nothing else is put otherwise."""
    for kind, row in EVENTS.items():
        assert row.wording == wording_of(row, may_stand=False)
        doubtful = "a no in doubt" if kind is e.StepRefused else row.wording
        assert doubtful == wording_of(row, may_stand=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reason_is_given_where_it_is_public(kind: type[Any]) -> None:
    assert ("why" if "reason" in EVENTS[kind].public else "") == reason_of(full(kind))
