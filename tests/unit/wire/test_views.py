"""Views and descriptor: what is shown is read back, and a neighbour's view is checked."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given

from stage.wire import views
from stage.wire.descriptor import Descriptor
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.views import (
    JournalView,
    SagaPage,
    SagaView,
    StepView,
    decode_view,
    encode_view,
)
from tests.unit.wire.strategies import bodies

AT = "2026-11-23T02:29:58.120Z"
VIEW = SagaView(
    saga_id="s-1",
    stage="payment",
    state="compensating",
    outcome=Outcome.IN_PROGRESS,
    parked=True,
    parked_reason="probe found nothing twice",
    epoch=2,
    accepted_at=AT,
    updated_at=AT,
    deadline=AT,
    trace_id="0" * 32,
    next_action="retry refund",
    next_action_at=AT,
    stands=["charge"],
    steps=[StepView(name="charge", kind="call", phase="in_doubt", attempts=3, key="s-1:x")],
    told_upstream="due",
)


@pytest.mark.parametrize(
    "view",
    [
        VIEW,
        SagaView(
            saga_id="s-2",
            stage="payment",
            state="active",
            outcome=Outcome.IN_PROGRESS,
            accepted_at=AT,
            updated_at=AT,
        ),
        JournalView(saga_id="s-1", entries=[{"seq": 1, "at": AT, "event": "accepted", "epoch": 1}]),
        SagaPage(sagas=[VIEW], next="s-1"),
    ],
)
def test_a_view_comes_back_as_it_was(view: msgspec.Struct) -> None:
    """A neighbour reads the view that an endpoint shows."""
    assert view == decode_view(encode_view(view), type(view))


def test_a_view_shows_every_member() -> None:
    """Null where there is nothing: an operator sees that it was looked for."""
    assert set(SagaView.__struct_fields__) == set(json.loads(encode_view(VIEW)))
    assert json.loads(encode_view(SagaPage(sagas=[])))["next"] is None


SAID_UNLESS_DENIED = {("MissingView", "may_stand"), ("ReconcileView", "counts_for_release")}
"""A missing saga may stand, and answers count, unless it is said that they do not."""


def test_a_flag_of_a_view_is_down_where_nothing_is_said() -> None:
    """A view of an older release lacks it: the reader must not take it for a yes."""
    kinds = [
        each
        for each in vars(views).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    ]
    up = {
        (kind.__name__, field.name)
        for kind in kinds
        for field in msgspec.structs.fields(kind)
        if field.default is True
    }
    assert SAID_UNLESS_DENIED == up


def test_a_newer_neighbour_may_show_more() -> None:
    """Members that are not known here are left alone: a view is looked at, not acted on."""
    body = json.dumps(json.loads(encode_view(VIEW)) | {"mood": "calm"}).encode()

    assert VIEW == decode_view(body, SagaView)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"saga_id":1}', b"[]", b"<html>", b"{" * 9_999])
def test_a_body_that_is_no_view_is_unknown(body: bytes) -> None:
    """The neighbour's state stays unknown."""
    with pytest.raises(WireError) as caught:
        decode_view(body, SagaView)

    assert (502, Outcome.UNKNOWN) == (caught.value.status, caught.value.outcome)


@given(bodies)
def test_any_bytes_are_a_view_or_a_wire_error(body: bytes) -> None:
    """Nothing but WireError is raised."""
    with pytest.raises(WireError):
        decode_view(body, SagaView)


def test_the_descriptor_names_all_limits() -> None:
    """The same descriptor, the same bytes, and every limit by name."""
    descriptor = Descriptor(
        name="payment",
        accepts={"type": "object", "a": 1},
        adds={"type": "object"},
        compensation_window_seconds=604_800.0,
    )
    members = json.loads(descriptor.encode())

    assert ("payment", 1, None) == (members["name"], members["protocol"], members["pivot"])
    assert msgspec.structs.asdict(DEFAULT_LIMITS) == members["limits"]
    assert (
        descriptor.encode()
        == msgspec.structs.replace(descriptor, accepts={"a": 1, "type": "object"}).encode()
    )


def test_the_limits_are_those_of_the_protocol() -> None:
    """A default is a promise."""
    assert (
        Limits(
            body_bytes_max=1_048_576,
            values_max=20_000,
            adds_values_max=2_000,
            depth_max=32,
            string_chars_max=65_536,
            trail_entries_max=64,
            reason_chars_max=1_000,
            requested_by_chars_max=128,
            stage_name_chars_max=48,
            saga_id_chars_max=128,
        )
        == DEFAULT_LIMITS
    )
