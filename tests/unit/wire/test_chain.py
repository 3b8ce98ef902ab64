"""The question for a chain, and the stories that answer it: what is believed and shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stage.wire.chain import (
    ASKED_CHARS_MAX,
    EVENTS_MAX,
    HOPS_MAX,
    STAGES_MAX,
    TEXT_CHARS_MAX,
    ChainEvent,
    ChainView,
    StageStory,
    decode_chain,
    event_of,
    parse_asked,
    parse_hops,
    unknown,
)
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError

AT = "2026-11-23T02:29:58.120Z"


def body_of(stages: int = 1, events: int = 0, name: str = "order", at: str = AT) -> bytes:
    """The answer of a neighbour: so many stages, each with so many events."""
    happened = [ChainEvent(at=at, event="accepted")] * events
    story = StageStory(stage=name, events=happened)
    return msgspec.json.encode(ChainView(saga_id="s-1", stages=[story] * stages))


@pytest.mark.parametrize("stages, events", [(0, 0), (1, 2), (STAGES_MAX, 0), (1, EVENTS_MAX)])
def test_a_chain_within_its_limits_is_read(stages: int, events: int) -> None:
    """As many stages and events as the limits say, and no fewer."""
    view = decode_chain(body_of(stages, events), "s-1")

    assert ("s-1", stages) == (view.saga_id, len(view.stages))
    assert all(len(story.events) == events for story in view.stages)


@pytest.mark.parametrize(
    "body, saga_id, said",
    [
        (body_of(), "s-2", "another saga than s-2"),
        (body_of(STAGES_MAX + 1), "s-1", f"{STAGES_MAX + 1} stages"),
        (body_of(1, EVENTS_MAX + 1), "s-1", f"{EVENTS_MAX + 1} events"),
        (body_of(name="Order"), "s-1", "no name"),
        (body_of(name=""), "s-1", "no name"),
        (body_of(1, 1, at="yesterday"), "s-1", "order has an event without an instant"),
        (body_of(1, 1, at="0001-01-01T00:00:00+14:00"), "s-1", "without an instant"),
        (b"<html>", "s-1", ""),
    ],
)
def test_another_answer_is_not_trusted(body: bytes, saga_id: str, said: str) -> None:
    """The view of another saga, a longer one than a chain can be, and no view at all."""
    with pytest.raises(WireError) as caught:
        decode_chain(body, saga_id)

    assert (502, Outcome.UNKNOWN, True) == (
        caught.value.status, caught.value.outcome, caught.value.retryable,
    )  # fmt: skip
    assert said in caught.value.detail


@pytest.mark.parametrize(
    "values, names",
    [
        ([], ()),
        ([""], ()),
        (["order"], ("order",)),
        (["order, payment"], ("order", "payment")),
        (["order", "payment,shipping"], ("order", "payment", "shipping")),
        ([" order ,, payment ,"], ("order", "payment")),
        (["a" + " " * (ASKED_CHARS_MAX - 1)], ("a",)),
    ],
)
def test_the_stages_that_were_asked_are_a_list_of_names(
    values: list[str], names: tuple[str, ...]
) -> None:
    """Several headers are one list, and blanks and empty elements count for nothing (RFC 9110)."""
    assert names == parse_asked(values)


@pytest.mark.parametrize("values", [["Order"], ["order payment"], ["a" + " " * ASKED_CHARS_MAX]])
def test_another_text_than_a_list_of_names_is_400(values: list[str]) -> None:
    with pytest.raises(WireError, match="Chain-Asked") as caught:
        parse_asked(values)

    assert (400, Outcome.NOT_EXECUTED) == (caught.value.status, caught.value.outcome)


@pytest.mark.parametrize(
    "values, hops",
    [
        ([], HOPS_MAX),
        (["0"], 0),
        (["3"], 3),
        (["007"], 7),
        ([str(HOPS_MAX)], HOPS_MAX),
        ([str(HOPS_MAX + 1)], HOPS_MAX),
        (["9" * 5_000], HOPS_MAX),
    ],
)
def test_a_question_goes_at_most_so_far(values: list[str], hops: int) -> None:
    """Without the header as far as may be, and never further, however long the number is."""
    assert hops == parse_hops(values)


@pytest.mark.parametrize("values", [[""], ["-1"], ["+1"], ["1.0"], ["x"], ["²"], ["٣"], ["1", "1"]])
def test_another_text_than_a_number_of_hops_is_400(values: list[str]) -> None:
    with pytest.raises(WireError, match="Chain-Hops") as caught:
        parse_hops(values)

    assert (400, Outcome.NOT_EXECUTED) == (caught.value.status, caught.value.outcome)


@pytest.mark.parametrize(
    "members, shown",
    [
        ({}, {}),
        (
            {"step": "charge", "attempt": 2, "reason": "cut", "span": "ab", "may_stand": True},
            {"step": "charge", "attempt": 2, "reason": "cut", "span": "ab", "may_stand": True},
        ),
        ({"requested_by": "order", "actor": "kim"}, {"by": "order"}),
        ({"requested_by": "", "actor": "kim"}, {"by": "kim"}),
        ({"epoch": 2, "may_stand": "yes", "key": "k"}, {"epoch": 2}),
        (
            {"reason": "r" * 400, "actor": "a" * 400},
            {"reason": "r" * TEXT_CHARS_MAX, "by": "a" * TEXT_CHARS_MAX},
        ),
    ],
)
def test_an_event_as_a_neighbour_sees_it(members: dict[str, Any], shown: dict[str, Any]) -> None:
    """Exactly these members, texts cut; a member at its default is not written."""
    event = event_of(AT, "step_started", members)

    assert {"at": AT, "event": "step_started", **shown} == msgspec.to_builtins(event)


def test_a_stage_that_did_not_answer_is_unknown() -> None:
    """Its story says so, and why."""
    story = unknown("shipping", "x" * 400)

    assert StageStory(stage="shipping", known=False, why_unknown="x" * TEXT_CHARS_MAX) == story
    assert StageStory(stage="order").known
