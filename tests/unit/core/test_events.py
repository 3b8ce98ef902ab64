"""The events of the journal: an old entry says no where it says nothing, a newer one is left."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from stage.core import events as e
from stage.core.errors import NewerJournal
from stage.core.events import Binding, decode_event, encode_event, name_of

KINDS = get_args(e.Event)


@pytest.mark.parametrize("kind", [*KINDS, Binding])
def test_an_event_claims_nothing_that_it_was_not_given(kind: type[Any]) -> None:
    """A journal of an earlier release lacks the members that came later: they say no."""
    fields = msgspec.structs.fields(kind)
    assert not [field.name for field in fields if field.default is True]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_has_the_name_of_its_tag(kind: type[Any]) -> None:
    assert kind.__struct_config__.tag == e.NAMES[kind]


def test_an_entry_comes_back_as_it_was() -> None:
    """By its name; members at their default are not written."""
    event = e.StepStarted(at=1.0, step="charge", attempt=2)
    body = encode_event(event)
    assert event == decode_event(body)
    assert {"event": "step_started", "at": 1.0, "step": "charge", "attempt": 2} == (
        msgspec.json.decode(body)
    )
    assert "step_started" == name_of(event)


@pytest.mark.parametrize(
    "body", [b'{"event":"step_melted","at":1.0}', b'{"event":"step_started","at":1.0}']
)
def test_an_entry_of_a_newer_release_is_left_to_it(body: bytes) -> None:
    """An event that is not known here, or not in this form: the error names it."""
    with pytest.raises(NewerJournal, match=r"'step_.*the release that wrote it goes on"):
        decode_event(body)


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"at":1.0}', b"[]"])
def test_bytes_that_are_no_event_are_no_newer_release(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_event(body)
