"""The words for an operator: nothing that can be seen or pressed is without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage.core.advice import FITS_AGAIN, MEANINGS, WAYS_OUT, phase_in_words, way_out
from stage.core.questions import Standing
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.sweep_verbs import SweepVerb

ROOT = Path(__file__).parents[3]


def test_each_cause_of_a_park_has_a_way_out() -> None:
    """A person who is woken is told what to do, and one of another release nothing wrong."""
    assert set(ParkCause) == set(WAYS_OUT)
    assert "ask the API, then settle" == way_out("in_doubt")
    assert "" == way_out("of a later release") == way_out(None)


def test_a_misfit_that_fits_again_is_to_be_tried_again() -> None:
    """The reason of its park is that of an earlier release: nothing is left to deploy."""
    assert FITS_AGAIN == way_out("misfit", Standing.STANDS) == way_out("misfit", Standing.NOTHING)
    assert WAYS_OUT[ParkCause.MISFIT] == way_out("misfit", Standing.UNKNOWN) == way_out("misfit")


def test_the_page_of_the_operator_has_the_same_ways_out() -> None:
    """Its table is read beside `stage show`: two answers would be none."""
    page = (ROOT / "docs" / "operator.md").read_text()
    table = page.partition("### Parked sagas")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    said = {row[0].strip("| `"): row[2].replace("`", "").strip("| ") for row in rows}
    assert said == {cause.value: words for cause, words in WAYS_OUT.items()}


def test_each_verb_has_its_meaning() -> None:
    """`purge` is for many alone, and no saga shows it."""
    ours = {"approve", "reject", "settle"} | {each.value for each in SweepVerb}
    assert ours - {"purge"} == set(MEANINGS)


@pytest.mark.parametrize(
    "state, phase, standing, words",
    [
        (SagaState.COMPENSATED, Phase.WAITING, Standing.NOTHING, "did not happen"),
        (SagaState.COMPENSATING, Phase.WAITING, Standing.NOTHING, "did not happen"),
        (SagaState.ACTIVE, Phase.WAITING, Standing.NOTHING, "waiting"),
        (SagaState.COMPENSATING, Phase.WAITING, Standing.MAY_STAND, "waiting"),
        (SagaState.COMPENSATED, Phase.COMPENSATED, Standing.NOTHING, "compensated"),
    ],
)
def test_a_step_waits_only_for_an_attempt_that_may_come(
    state: SagaState, phase: Phase, standing: Standing, words: str
) -> None:
    """A saga that turned back makes no further attempt forward."""
    assert words == phase_in_words(state.value, phase.value, standing.value)
