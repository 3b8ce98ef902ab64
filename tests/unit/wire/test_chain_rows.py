"""The rows of a chain's story: one for what took time, from its begin to its end."""

from __future__ import annotations

from typing import Any

import pytest

from stage.wire.chain import ChainEvent, ChainView, StageStory
from stage.wire.chain_rows import REASON_CHARS, Row, plain, rows_of
from stage.wire.envelope import format_instant


def event(at: float, name: str, step: str = "", **members: Any) -> ChainEvent:
    """An event of a journal, at that second."""
    return ChainEvent(at=format_instant(at), event=name, step=step, **members)


def rows(*events: ChainEvent) -> list[Row]:
    """The rows of one stage."""
    return rows_of(ChainView(saga_id="s-1", stages=[StageStory(stage="payment", events=[*events])]))


def row(at: float, label: str, **members: Any) -> Row:
    """A row of that stage."""
    return Row(stage="payment", depth=0, at=at, label=label, **members)


@pytest.mark.parametrize(
    "events, expected",
    [
        # A begin and its end are one row; a success needs no word.
        (
            [event(1, "step_started", "charge", attempt=1), event(3, "step_succeeded", "charge")],
            [row(1, "charge", end=3)],
        ),
        # The number of a repeat, and the way in which it ended.
        (
            [
                event(1, "step_started", "charge", attempt=2),
                event(2, "step_in_doubt", "charge", reason="no answer"),
            ],
            [row(1, "charge #2", end=2, note="in doubt: no answer")],
        ),
        # A gateway's no is no refusal.
        (
            [
                event(1, "step_started", "charge"),
                event(2, "step_refused", "charge", reason="409", may_stand=True),
            ],
            [row(1, "charge", end=2, note="a no in doubt: 409")],
        ),
        # A transaction has an end alone, which is an instant.
        (
            [event(1, "step_succeeded", "reserve"), event(2, "compensation_succeeded", "reserve")],
            [
                row(1, "reserve", end=1),
                row(2, "compensate reserve", end=2, backward=True),
            ],
        ),
        # The way back, and the message to upstream behind it.
        (
            [
                event(1, "compensation_started", "charge", attempt=1),
                event(2, "compensation_succeeded", "charge"),
                event(3, "tell_started", attempt=3),
                event(4, "tell_delivered"),
            ],
            [
                row(1, "compensate charge", end=2, backward=True),
                row(3, "tell upstream #3", end=4, backward=True),
            ],
        ),
        # No end of it is known.
        ([event(1, "probe_started", "charge")], [row(1, "probe charge", open=True)]),
        # A process that died ends all that was open, and not what had ended before.
        (
            [
                event(1, "step_started", "north", attempt=1),
                event(1.5, "step_started", "south", attempt=1),
                event(2, "step_succeeded", "south"),
                event(3, "recovered", epoch=2),
                event(4, "step_started", "north", attempt=2),
            ],
            [
                row(1, "north", end=3, note="cut off: the process died"),
                row(1.5, "south", end=2),
                row(3, "recovered, as run 2"),
                row(4, "north #2", open=True),
            ],
        ),
        # An instant, with who asked and why; an entry for the machine alone has no row.
        (
            [
                event(1, "accepted"),
                event(1, "request_prepared", "charge"),
                event(2, "compensation_requested", by="shipping", reason="late"),
            ],
            [row(1, "accepted"), row(2, "asked to compensate", note="by shipping: late")],
        ),
        # A neighbour's own word is shown as it is.
        ([event(1, "stock_booked", "shelf")], [row(1, "stock_booked")]),
    ],
)
def test_a_begin_and_its_end_are_one_row(events: list[ChainEvent], expected: list[Row]) -> None:
    assert expected == rows(*events)


def test_the_rows_of_all_stages_stand_by_time() -> None:
    """Down the chain and up again, each with the place of its stage."""
    head = StageStory(stage="order", events=[event(1, "accepted"), event(4, "completed")])
    tail = StageStory(stage="shipping", events=[event(2, "accepted"), event(3, "completed")])
    found = rows_of(ChainView(saga_id="s-1", stages=[head, tail]))

    assert [("order", 0, 1), ("shipping", 1, 2), ("shipping", 1, 3), ("order", 0, 4)] == [
        (each.stage, each.depth, each.at) for each in found
    ]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("no answer", "no answer"),
        ("two\nlines\t\x1b[0m", "two lines  [0m"),
        ("x" * REASON_CHARS, "x" * REASON_CHARS),
        ("x" * (REASON_CHARS + 1), "x" * (REASON_CHARS - 3) + "..."),
    ],
)
def test_a_foreign_text_is_one_short_line(text: str, shown: str) -> None:
    """It can neither break the table nor steer the terminal."""
    assert shown == plain(text)
    assert len(plain(text)) <= REASON_CHARS
