"""What the command line draws by name has a name for everything there is, and for nothing else."""

from __future__ import annotations

from typing import get_args

from stage.cli.draw import MARKS
from stage.cli.operate import PROSPECTS
from stage.cli.waterfall import _BEGINS, _POINTS, _WORDS
from stage.core.events import Event
from stage.core.forecast import Prospect
from stage.core.states import Phase

NOT_STARTED = "not_started"
"""The phase of a step that the saga has not reached; the view alone knows it."""
DRAWN_BY_THEMSELVES = {"request_prepared", "recovered"}


def test_every_prospect_of_a_step_has_words() -> None:
    """`stage plan` would raise KeyError in the middle of an incident."""
    assert {prospect.value for prospect in Prospect} == set(PROSPECTS)


def test_every_phase_of_a_step_has_a_mark() -> None:
    """A renamed phase would be drawn as not started."""
    assert {NOT_STARTED, *(phase.value for phase in Phase)} == set(MARKS)


def test_the_waterfall_draws_events_that_there_are() -> None:
    """A renamed event would be drawn as a point, and a step would seem never to end."""
    events = {str(kind.__struct_config__.tag) for kind in get_args(Event)}
    assert set() == {*_BEGINS, *_WORDS, *_POINTS, *DRAWN_BY_THEMSELVES} - events
