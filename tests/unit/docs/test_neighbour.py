"""The page for neighbours: what its recipes say of an answer is what the tables say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stage.core.retry import NEIGHBOUR_COMPENSATION, OUTAGE_BACKOFF_SECONDS_MAX
from stage.wire.headers import BUDGET_SECONDS_MAX
from stage.wire.outcome import Outcome
from stage.wire.replies import REPLIES, ReplyKind

PAGE = (Path(__file__).parents[3] / "docs" / "neighbour.md").read_text(encoding="utf-8")
UPSTREAM = PAGE.partition("## 3.7 ")[2].partition("```\n")[2].partition("```")[0]
"""The recipe of an upstream."""
IN_DOUBT = {ReplyKind.ACCEPTED, ReplyKind.NOT_NOW, ReplyKind.NOT_ALLOWED}
"""Something may run there, or may still be accepted (decisions 0083 and 0093)."""


def lines_of_own_words() -> dict[int, str]:
    """The line of the recipe for each code in the stage's own word."""
    own = UPSTREAM.partition("in the stage's own word")[2].partition("connection refused")[0]
    found: dict[int, str] = {}
    for line in re.findall(r"^ {8}(\d{3}[\d ]*: .*)$", own, re.MULTILINE):
        codes, _, then = line.partition(": ")
        found |= dict.fromkeys(map(int, codes.split()), then)
    for codes in re.findall(r"^ {8}(\d{3}[\d ]*):$", own, re.MULTILINE):
        found |= dict.fromkeys(map(int, codes.split()), "")
    return found


def line_of(start: str) -> str:
    """The row of a table that begins so."""
    return next(line for line in PAGE.splitlines() if line.startswith(start))


def test_a_budget_and_a_pause_are_as_long_as_the_page_says() -> None:
    """A budget was cut in silence, and a pause was five times as long."""
    milliseconds = f"{int(BUDGET_SECONDS_MAX * 1000):,}".replace(",", " ")
    assert milliseconds in line_of("| `Saga-Budget-Ms` |")
    away = line_of("| 5xx, 401 403")
    longest = NEIGHBOUR_COMPENSATION.backoff_seconds_max
    assert f"up to {longest:.0f} s" in away
    assert "up to five minutes" in away and OUTAGE_BACKOFF_SECONDS_MAX == 5 * 60.0


@pytest.mark.parametrize("code, outcome", sorted(REPLIES))
def test_an_upstream_by_the_recipe_forgets_nothing_that_may_run(
    code: int, outcome: Outcome
) -> None:
    """Behind a budget that ends, a stage that said 202 or 503 has to be asked to compensate."""
    kind = REPLIES[code, outcome]

    assert (kind in IN_DOUBT) == ("in doubt from here on" in lines_of_own_words()[code])


def test_every_path_out_of_the_recipe_undoes_what_may_stand() -> None:
    """Only where nothing was in doubt is the stage not asked."""
    last = UPSTREAM.splitlines()[-4:]

    assert last[0].startswith("if nothing was in doubt")
    assert last[1].startswith("repeat POST /sagas/{id}/compensate until 200, 409 or 410")
    assert "first_sent_at" in last[2]
    assert "a person has to look" in last[3]
