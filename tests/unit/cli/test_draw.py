"""The drawings of a saga: tables and trees for an operator."""

from __future__ import annotations

from msgspec.structs import replace

from stage.cli.draw import draw_page, draw_saga
from stage.cli.waterfall import draw_chain
from stage.core.states import ParkCause
from stage.wire.chain import ChainView, StageStory
from stage.wire.outcome import Outcome
from stage.wire.views import SagaPage, SagaView

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
