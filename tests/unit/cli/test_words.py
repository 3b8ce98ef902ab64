"""The command line has a word for every name that it draws, and for no other."""

from __future__ import annotations

import pytest

from stage.cli.draw import MARKS
from stage.cli.waterfall import draw_chain
from stage.core.advice import PROSPECTS
from stage.core.describe import attempt_in_words
from stage.core.event_table import NAMED
from stage.core.forecast import Prospect
from stage.core.states import Phase
from stage.wire.chain import ChainEvent, ChainView, StageStory

NOT_STARTED = "not_started"
"""The phase of a step that the saga has not reached; the view alone knows it."""
DRAWN_BY_THEMSELVES = {"request_prepared", "recovered"}


def test_every_prospect_of_a_step_has_words() -> None:
    """`stage plan` would raise KeyError in the middle of an incident."""
    assert {prospect.value for prospect in Prospect} == set(PROSPECTS)


def test_every_phase_of_a_step_has_a_mark() -> None:
    """A renamed phase would be drawn as not started."""
    assert {NOT_STARTED, *(phase.value for phase in Phase)} == set(MARKS)


def rows_of(*events: str) -> list[str]:
    """The lines that the waterfall draws for these events, all of step `charge`."""
    drawn = [
        ChainEvent(at=f"2026-01-01T00:00:0{n}Z", event=event, step="charge")
        for n, event in enumerate(events)
    ]
    view = ChainView(saga_id="s-1", stages=[StageStory(stage="payment", events=drawn)])
    return draw_chain(view).split("\n\n")[1].splitlines()


@pytest.mark.parametrize("event", sorted(NAMED.keys() - DRAWN_BY_THEMSELVES))
def test_the_waterfall_draws_every_event_in_its_words(event: str) -> None:
    """A point has the wording of the table; an attempt the name of its step or of upstream."""
    row = NAMED[event]
    attempt = row.starts or row.ends

    (line,) = rows_of(event)

    if attempt is None:
        assert row.wording in line
    elif row.starts is not None:
        assert attempt_in_words(row.starts, "charge") in line


@pytest.mark.parametrize("start", [name for name, row in NAMED.items() if row.starts])
def test_the_end_of_an_attempt_closes_the_row_of_its_start(start: str) -> None:
    """A start and any end of it are one line, and it took a second."""
    for end in (name for name, row in NAMED.items() if row.ends is NAMED[start].starts):
        (line,) = rows_of(start, end)
        assert "+1000 ms" in line, end
