"""A lost run leaves its attempts in flight in doubt, and all else as it was."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.machine import at_rest, evolve
from stage.core.questions import OVER
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState, Tell
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

PLAN = plans.usual()
LOST = "the run was lost while it was in flight"
USED = StepState(
    phase=Phase.SUCCEEDED, order=1, attempts=3, probes=2, not_there=1, forgiven=1,
    compensation_forgiven=1, compensation_attempts=2, error="before", due=50.0,
)  # fmt: skip
DOUBT = {
    "phase": Phase.IN_DOUBT,
    "doubted": True,
    "cut_off": True,
    "not_there": 0,
    "error": LOST,
    "due": 9.0,
}
DEAD = e.Recovered(at=9.0, epoch=2)
INNOCENT = replace(DEAD, innocent=True)


def after(event: e.Recovered, step: StepState = USED, **saga: Any) -> StepState:
    """The step `charge` behind the loss of a run."""
    lost = Saga(id="s", length=3, updated_at=8.0, steps={"charge": step}, **saga)
    return evolve(PLAN, lost, event).steps["charge"]


@pytest.mark.parametrize("phase", list(Phase))
def test_an_attempt_that_was_in_flight_is_in_doubt(phase: Phase) -> None:
    """It left, and its answer may have been passed on. All else is as it was."""
    step = replace(USED, phase=phase)
    doubt: dict[Phase, dict[str, Any]] = {
        Phase.STARTED: DOUBT,
        Phase.PROBING: DOUBT,
        Phase.COMPENSATING: {
            "phase": Phase.COMPENSATION_WAITING,
            "compensation_doubted": True,
            "due": 9.0,
        },
    }
    assert replace(step, **doubt.get(phase, {})) == after(DEAD, step)


@pytest.mark.parametrize(
    "phase, uncounted",
    [
        (Phase.STARTED, {"forgiven": 2}),
        (Phase.PROBING, {"probes": 1}),
        (Phase.COMPENSATING, {"compensation_forgiven": 2}),
        (Phase.IN_DOUBT, {}),
        (Phase.COMPENSATION_WAITING, {}),
    ],
)
def test_an_attempt_that_another_saga_took_down_does_not_count(
    phase: Phase, uncounted: dict[str, int]
) -> None:
    """It is in doubt all the same (rule 35)."""
    step = replace(USED, phase=phase)
    assert replace(after(DEAD, step), **uncounted) == after(INNOCENT, step)


@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize("state", list(SagaState))
def test_a_probe_of_a_pending_call_leaves_it_pending(pending: bool, state: SagaState) -> None:
    """On the way forward, while the saga waits for it: its API is to end it, and has not."""
    step = replace(USED, phase=Phase.PROBING, pending_since=1.0)
    found = after(DEAD, step, pending=pending, state=state)
    waits = pending and state is SagaState.ACTIVE
    assert (Phase.PENDING if waits else Phase.IN_DOUBT, not waits) == (found.phase, found.cut_off)
    cut = replace(step, cut_off=True)
    assert after(DEAD, cut, pending=pending, state=state).cut_off


@pytest.mark.parametrize("tell", list(Tell))
def test_the_message_to_upstream_is_due_again(tell: Tell) -> None:
    saga = Saga(id="s", tell=tell)
    expected = Tell.DUE if tell is Tell.IN_FLIGHT else tell
    assert expected is evolve(PLAN, saga, DEAD).tell


OPEN = (e.Accepted(at=1.0), e.StepSucceeded(at=1.0, step="reserve", result=ONE))
CALLED = (*OPEN, e.StepStarted(at=1.0, step="charge", attempt=1))
WAITS = (*CALLED, e.StepTransient(at=2.0, step="charge", retry_after=60.0))


@pytest.mark.parametrize(
    "events, event, lost",
    [
        (OPEN, DEAD, 1),
        (CALLED, DEAD, 1),
        (WAITS, DEAD, 0),
        (WAITS, replace(DEAD, at=70.0), 1),
        (CALLED, replace(DEAD, rested=True), 0),
        (CALLED, INNOCENT, 0),
    ],
)
def test_a_run_counts_as_lost_where_it_had_something_to_do(
    events: tuple[e.Event, ...], event: e.Recovered, lost: int
) -> None:
    """A saga that only waits took no process down, nor did one that was at rest (rule 15)."""
    saga = fold(PLAN, *events, event)
    assert lost == saga.recoveries
    assert 2 * lost == evolve(PLAN, saga, replace(event, epoch=3)).recoveries
    assert (2, event.at) == (saga.epoch, saga.updated_at)


@pytest.mark.parametrize(
    "event, kept",
    [
        (e.StepSucceeded(at=10.0, step="charge", result=ONE), 0),
        (e.StepInDoubt(at=10.0, step="charge"), 0),
        (e.Retried(at=10.0, actor="kim", why="mended"), 0),
        (e.StepStarted(at=10.0, step="charge", attempt=2), 1),
        (e.CompensationRequested(at=10.0, requested_by="order"), 1),
    ],
)
def test_lost_runs_are_counted_since_the_last_progress(event: e.Event, kept: int) -> None:
    """An attempt that came to its end, or a person; not what keeps being asked (rule 15)."""
    assert kept == fold(PLAN, *CALLED, DEAD, event).recoveries


@pytest.mark.parametrize("state", list(SagaState))
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_a_saga_of_an_older_database_does_not_go_forward(state: SagaState, generation: int) -> None:
    """Its neighbours may know it compensated; one that is on its way back goes on (rule 33)."""
    saga = Saga(id="s", generation=2, state=state, deadline=77.0)
    found = evolve(PLAN, saga, replace(DEAD, generation=generation))
    older = generation == 3 and state is SagaState.ACTIVE
    assert (OVER if older else 77.0, generation) == (found.deadline, found.generation)


@pytest.mark.parametrize(
    "events, rests",
    [
        (OPEN, False),
        (CALLED, False),
        (WAITS, True),
        ((*CALLED, e.Parked(at=2.0, cause=ParkCause.IN_DOUBT, reason="x")), False),
        ((*WAITS, e.Parked(at=2.0, cause=ParkCause.IN_DOUBT, reason="x")), True),
        ((*OPEN, e.Completed(at=2.0)), True),
    ],
)
def test_a_saga_is_at_rest_with_nothing_in_flight_or_to_be_done(
    events: tuple[e.Event, ...], rests: bool
) -> None:
    assert rests is at_rest(PLAN, fold(PLAN, *events))
