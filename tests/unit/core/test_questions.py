"""Effects that stand, that may stand, and that nobody can know of."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core.questions import Standing, belongs_to, standing, standing_apart, standing_in
from stage.core.requester import Requester, opener_hash
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, SagaState
from tests.unit.core.plans import usual
from tests.unit.core.world import ONE


def saga_with(step: StepState | None) -> Saga:
    return Saga(id="s-1", steps={} if step is None else {"charge": step})


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_of_a_step_in_doubt_may_stand_but_the_compensated(phase: Phase) -> None:
    """Doubt is only ended by an answer, a person, or an undo that succeeded (rule 6)."""
    doubted = saga_with(StepState(phase=phase, order=0, doubted=True))
    expected = Standing.NOTHING if phase is Phase.COMPENSATED else Standing.MAY_STAND

    assert expected is standing(doubted, "charge")


@pytest.mark.parametrize(
    "phase, expected",
    [
        (Phase.SUCCEEDED, Standing.STANDS),
        (Phase.COMPENSATION_FAILED, Standing.STANDS),
        (Phase.COMPENSATING, Standing.MAY_STAND),
        (Phase.COMPENSATION_WAITING, Standing.MAY_STAND),
        (Phase.COMPENSATED, Standing.NOTHING),
    ],
)
def test_a_known_result_stands_until_an_undo_may_have_reached_it(
    phase: Phase, expected: Standing
) -> None:
    """An undo that was sent and not answered may have been carried out."""
    assert expected is standing(saga_with(StepState(phase=phase, order=0, result=ONE)), "charge")


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.REFUSED])
def test_an_attempt_that_certainly_did_not_happen_leaves_nothing(phase: Phase) -> None:
    """Refused and transient are certain (rule 4); so is a step that was never started."""
    assert Standing.NOTHING is standing(saga_with(StepState(phase=phase, order=0)), "charge")
    assert Standing.NOTHING is standing(saga_with(None), "charge")


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.PROBING])
def test_an_attempt_in_flight_may_stand(phase: Phase) -> None:
    """It is gone, and its answer is not here."""
    assert Standing.MAY_STAND is standing(saga_with(StepState(phase=phase, order=0)), "charge")


def test_nothing_is_known_once_the_journal_was_dropped() -> None:
    """The row alone does not tell the steps (rule 21)."""
    assert Standing.UNKNOWN is standing(saga_with(None), "charge", dropped=True)


def test_a_tombstone_may_be_asked_about_by_any_neighbour() -> None:
    """Nobody is known to have opened it, and nothing can follow."""
    gone = Saga(id="s", state=SagaState.COMPENSATED)
    for requester in (Requester.UPSTREAM, Requester.DOWNSTREAM, Requester.CLAIMED):
        assert belongs_to(usual(), gone, requester, "web")
    unread = Saga(id="s", state=SagaState.ACTIVE)
    assert not belongs_to(usual(), unread, Requester.UPSTREAM, "web")


@pytest.mark.parametrize("state", list(SagaState))
def test_a_closed_saga_belongs_to_who_opened_it_and_to_downstreams(state: SagaState) -> None:
    """Its journal is dropped, and with it to whom it was handed; a hash tells its upstream."""
    gone = Saga(id="s", state=state, opener=opener_hash("s", "order"), forgotten=True)
    assert belongs_to(usual(), gone, Requester.UPSTREAM, "order")
    assert not belongs_to(usual(), gone, Requester.UPSTREAM, "web")
    assert belongs_to(usual(), gone, Requester.DOWNSTREAM, "shipping")
    for name, may in {"order": True, "shipping": True, "operator kim": True, "web": False}.items():
        assert may is belongs_to(usual(), gone, Requester.CLAIMED, name), name


@pytest.mark.parametrize(
    "state, expected",
    [
        (SagaState.COMPENSATED, Standing.NOTHING),
        (SagaState.FAILED_TO_COMPENSATE, Standing.NOTHING),
        (SagaState.COMPLETED, Standing.STANDS),
        (SagaState.COMPENSATING, Standing.STANDS),
    ],
)
def test_a_step_without_an_undo_stands_where_its_saga_says_so(
    state: SagaState, expected: Standing
) -> None:
    """`record` wrote rows that stay: of a saga that was undone neither row nor list shows them."""
    plan = usual()
    saga = replace(saga_with(None), state=state, steps={"record": done()})

    assert expected is standing_in(plan, saga, "record")
    assert (state is SagaState.COMPENSATING) is ("record" in standing_apart(plan, saga)[0])


def done() -> StepState:
    """A step that succeeded."""
    return StepState(phase=Phase.SUCCEEDED, order=1, result=ONE)
