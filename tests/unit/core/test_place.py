"""Where a saga waits, as operators count it: the rule of core/place.py, case by case."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core.place import NOWHERE, Place, former_peers, peer_of_today, place_of
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, SagaState, Tell
from stage.core.steps import Step, StepKind, plan_of

PLAN = plan_of(
    "payment",
    (
        Step(name="reserve", kind=StepKind.TRANSACTION, compensatable=True),
        Step(name="charge", kind=StepKind.CALL, peer="psp", compensatable=True),
    ),
    ("shipping",),
)
CHARGE = Place("charge", "externals.psp")
FORWARD = Place("forward:shipping", "downstreams.shipping")


def saga(state: SagaState = SagaState.ACTIVE, **steps: StepState) -> Saga:
    """A saga with these steps; a name with two underscores is that of the forward."""
    named = {name.replace("__", ":"): step for name, step in steps.items()}
    return Saga(id="s", state=state, upstream="order", steps=named)


@pytest.mark.parametrize(
    "phase, changes, place",
    [
        (Phase.STARTED, {}, NOWHERE),
        (Phase.STARTED, {"attempts": 2}, CHARGE),
        (Phase.WAITING, {}, CHARGE),
        (Phase.IN_DOUBT, {}, CHARGE),
        (Phase.PROBING, {}, CHARGE),
        (Phase.SUCCEEDED, {}, NOWHERE),
        (Phase.REFUSED, {}, NOWHERE),
        (Phase.COMPENSATING, {"compensation_attempts": 1}, NOWHERE),
        (Phase.COMPENSATING, {"compensation_attempts": 2}, CHARGE),
        (Phase.COMPENSATION_WAITING, {}, CHARGE),
        (Phase.COMPENSATED, {}, NOWHERE),
    ],
)
def test_a_saga_waits_at_the_step_that_is_tried_again(
    phase: Phase, changes: dict[str, int], place: Place
) -> None:
    """A first attempt that is in flight is no wait; a repeat in flight is."""
    step = StepState(phase=phase, order=2, **changes)  # type: ignore[arg-type]
    assert place == place_of(PLAN, saga(charge=step))


def test_the_step_that_could_not_be_undone_is_the_place() -> None:
    """A saga that has failed to compensate names the peer that a person has to ask."""
    failed = StepState(phase=Phase.COMPENSATION_FAILED, order=2)
    assert CHARGE == place_of(PLAN, saga(SagaState.FAILED_TO_COMPENSATE, charge=failed))


def test_a_forward_waits_for_its_downstream() -> None:
    """The step is that of the plan, the peer the stage behind this one."""
    step = StepState(phase=Phase.WAITING, order=3)
    assert FORWARD == place_of(PLAN, saga(forward__shipping=step))


def test_a_late_failure_waits_for_upstream() -> None:
    """Once the first message was not answered; before, nothing waits."""
    late = Saga(id="s", state=SagaState.COMPENSATED, upstream="order", tell=Tell.DUE)
    assert NOWHERE == place_of(PLAN, late)
    waits = Saga(
        id="s", state=SagaState.COMPENSATED, upstream="order", tell=Tell.DUE, tell_error="503"
    )
    assert Place("tell_upstream", "upstreams.order") == place_of(PLAN, waits)


def test_a_transaction_has_no_peer() -> None:
    """It waits for the database of the stage."""
    step = StepState(phase=Phase.WAITING, order=1)
    assert Place("reserve") == place_of(PLAN, saga(reserve=step))


def test_a_forgotten_saga_waits_nowhere() -> None:
    """Nothing more is done for it."""
    step = StepState(phase=Phase.COMPENSATION_WAITING, order=2)
    given = Saga(id="s", state=SagaState.COMPENSATING, steps={"charge": step}, forgotten=True)
    assert NOWHERE == place_of(PLAN, given)


def test_a_former_name_of_a_peer_is_one_that_no_version_uses() -> None:
    """Sagas of an older version wait for the API that it asks, whatever the newest calls it."""
    call = Step(name="charge", kind=StepKind.CALL, peer="psp2")
    newest = replace(
        plan_of("pay", (call,), ("parcels",)),
        peers_renamed={"psp": "psp2", "shipping": "parcels", "bank": "psp2"},
    )
    former = former_peers([newest])
    assert {
        "externals.psp": "externals.psp2",
        "externals.bank": "externals.psp2",
        "downstreams.shipping": "downstreams.parcels",
    } == former
    older = plan_of("pay", (replace(call, peer="psp"),), ())
    assert {"externals.psp"} == set(former) - set(former_peers([newest, older]))
    names = {"order": "shop"}
    for peer, today in (
        ("externals.psp", "externals.psp2"),
        ("upstreams.order", "upstreams.shop"),
        ("externals.order", "externals.order"),
        ("upstreams.psp", "upstreams.psp"),
    ):
        assert today == peer_of_today(peer, lambda name: names.get(name, name), former)
