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
    park_cause_of,
    public_members,
)
from stage.core.requester import Requester
from stage.core.states import ParkCause

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
        "unserved": True, "shown": msgspec.Raw(f'"{SECRET}"'.encode()),
    }  # fmt: skip
    event: e.Event = kind(**{name: values[name] for name in members_of(kind)})
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
