"""How long a step took: from its first entry to its last, or to now while it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from stage.core.states import Phase
from stage.wire.elapsed import elapsed
from stage.wire.envelope import format_instant
from stage.wire.views import StepView

NOW = 100.0
GOES_ON = {
    *(Phase.STARTED, Phase.WAITING, Phase.IN_DOUBT, Phase.PENDING, Phase.PROBING),
    *(Phase.COMPENSATING, Phase.COMPENSATION_WAITING),
}


def entry(at: Any, step: str = "charge") -> dict[str, Any]:
    """An entry of the journal view."""
    return {"at": format_instant(at) if isinstance(at, float) else at, "step": step}


def of(phase: str, *entries: dict[str, Any]) -> float | None:
    """The time of the step `charge` in that phase."""
    return elapsed(StepView(name="charge", kind="call", phase=phase), entries, NOW)


@pytest.mark.parametrize("phase", list(Phase))
def test_time_goes_on_for_a_step_until_it_has_come_to_an_end(phase: Phase) -> None:
    """A person's approval and a failed undo are no time of the step."""
    assert (90.0 if phase in GOES_ON else 30.0) == of(phase, entry(10.0), entry(40.0))


def test_the_entries_of_other_steps_do_not_count() -> None:
    assert 30.0 == of(
        "succeeded", entry(1.0, "reserve"), entry(10.0), {"at": format_instant(11.0)}, entry(40.0),
        entry(50.0, "record"),
    )  # fmt: skip
    assert of("succeeded", entry(1.0, "reserve")) is None
    assert of("succeeded") is None


@pytest.mark.parametrize("at", [None, 7, "yesterday", "2026-11-23"])
def test_an_instant_of_another_release_is_left_out(at: Any) -> None:
    assert 30.0 == of("succeeded", entry(at), entry(10.0), entry(40.0), entry(at))
    assert of("succeeded", entry(at)) is None


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    assert 0.0 == of("succeeded", entry(40.0), entry(10.0))
    assert 0.0 == of("started", entry(NOW + 5.0))
