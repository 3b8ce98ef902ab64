"""The drawings of a saga: tables and trees for an operator."""

from __future__ import annotations

from msgspec.structs import replace

from stage.cli.draw import draw_acts, draw_groups, draw_page, draw_saga
from stage.cli.waterfall import draw_chain
from stage.cli.where import query_of
from stage.core.states import ParkCause
from stage.wire.chain import ChainView, StageStory
from stage.wire.outcome import Outcome
from stage.wire.views import ActPage, ActView, GroupsView, GroupView, SagaPage, SagaView

PARKED = SagaView(
    saga_id="s-1",
    stage="payment",
    state="active",
    outcome=Outcome.UNKNOWN,
    parked=True,
    parked_reason="charge is in doubt",
    parked_cause=ParkCause.IN_DOUBT,
    accepted_at="2026-11-23T02:30:00Z",
    updated_at="2026-11-23T02:30:01Z",
)


def test_a_parked_saga_shows_its_cause_and_its_reason() -> None:
    """The cause leads to the row of the page for operators, the reason is for people."""
    assert "active, parked (in_doubt)" in draw_page(SagaPage(sagas=[PARKED]))
    shown = draw_saga(PARKED, [], now=0.0)
    assert "active (unknown), parked (in_doubt): charge is in doubt" in shown


def test_a_parked_saga_of_another_program_may_have_no_cause() -> None:
    """The member is newer than the protocol's first stages."""
    shown = draw_saga(replace(PARKED, parked_cause=None), [], now=0.0)

    assert "active (unknown), parked: charge is in doubt" in shown


def test_the_chain_shows_the_cause_of_each_stage() -> None:
    """A cause comes from a neighbour, so it is made harmless like its other words."""
    story = StageStory(
        stage="payment", state="active", parked_reason="look", parked_cause="in_doubt\x1b[2J"
    )

    drawn = draw_chain(ChainView(saga_id="s-1", stages=[story]))

    assert "payment: active, parked (in_doubt [2J): look" in drawn


def test_groups_are_drawn_with_those_that_wait_for_a_person_first() -> None:
    """One line each, with the age of the oldest in the unit in which it is counted."""
    waits = GroupView(
        step="charge", peer="externals.psp", state="active", direction="forward", sagas=5_000,
        oldest_at="2026-11-23T02:29:58.120Z", oldest_seconds=7_300.0,
    )  # fmt: skip
    parked = replace(waits, parked_cause="in_doubt", sagas=2, oldest_seconds=3.4)
    drawn = draw_groups(GroupsView(groups=[waits, parked])).splitlines()
    assert ["in_doubt", "charge", "externals.psp", "forward", "2", "3", "s"] == drawn[1].split()
    assert ["waits", "charge", "externals.psp", "forward", "5000", "2", "h"] == drawn[2].split()


def test_acts_are_drawn_with_what_they_changed() -> None:
    """And with the number behind which the next page begins."""
    act = ActView(
        number=7, at="2026-11-23T02:29:58.120Z", actor="kim", act="retried", target="s-1",
        reason="psp\x1b[31m is back", before="active, parked: in_doubt", after="active",
    )  # fmt: skip
    drawn = draw_acts(ActPage(acts=[act], next=7))
    assert "active, parked: in_doubt → active" in drawn
    assert "\x1b" not in drawn
    assert drawn.endswith("more: --before 7")


def test_options_that_name_many_sagas_become_parameters() -> None:
    """Those that were given, and a flag only where it is set."""
    given = {"state": ("active",), "parked": False, "cause": None, "older_than": 60.0, "step": "a"}
    assert [("state", "active"), ("older_than", "60.0"), ("step", "a")] == query_of(given)
