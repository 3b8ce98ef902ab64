"""The machine, checked against a model of the world that keeps its own books."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.machine import RECOVERIES_MAX, decide, evolve
from stage.core.questions import Standing, standing
from stage.core.retry import NEIGHBOUR_SETTLEMENT
from stage.core.states import Phase, SagaState, Tell
from stage.core.steps import Plan
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE, Driver

SEEDS = 1_500


@pytest.mark.parametrize("plan_of", [plans.usual, plans.unprobed, plans.grouped, plans.pivoted])
def test_under_faults_the_world_agrees_with_the_saga(plan_of: Callable[[], Plan]) -> None:
    """Under any loss, completed means everything once, compensated nothing (I2, I5, I7)."""
    states: set[SagaState] = set()
    for seed in range(SEEDS):
        driver = Driver(plan_of(), seed)
        driver.run()
        assert driver.ended_well, (seed, driver.saga, driver.world.order)
        assert all(count == 1 for count in driver.world.made.values()), seed
        states.add(driver.saga.state)
    assert {SagaState.COMPLETED, SagaState.COMPENSATED} <= states  # the faults did strike


def test_effects_are_undone_in_reverse_order_of_their_start() -> None:
    """Downstream first, then our last step, then the one before (rule 7, I7)."""
    checked = 0
    for seed in range(SEEDS):
        driver = Driver(plans.usual(), seed)
        driver.run()
        undone = [name for what, name in driver.world.order if what == "undo"]
        rank = {"forward:shipping": 0, "charge": 1, "reserve": 2}
        assert undone == sorted(undone, key=rank.__getitem__), seed
        checked += len(undone) >= 3
    assert checked > 20


def test_nothing_starts_after_the_deadline_and_compensation_is_not_cut() -> None:
    """After the deadline no step starts, and what stood is still undone (rule 19, I11)."""
    turned = 0
    for seed in range(SEEDS):
        driver = Driver(plans.usual(), seed, deadline=1_001.0)
        driver.run()
        assert driver.started_after_deadline == [], seed
        assert driver.ended_well, seed
        turned += driver.saga.reason.startswith("the deadline passed")
    assert turned > 20


def test_compensation_never_runs_beside_execution() -> None:
    """Asked to compensate while a call is in flight, it waits for the call's end (rule 10)."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.CompensationRequested(at=2.0, requested_by="order"),
    )
    assert (Rest(),) == decide(plan, saga, 3.0)
    saga = evolve(plan, saga, e.StepSucceeded(at=3.0, step="charge", result=ONE))
    assert (Do(kind=AttemptKind.COMPENSATE, step="charge"),) == decide(plan, saga, 3.0)


def test_a_step_that_failed_in_doubt_is_compensated_too() -> None:
    """The failed step's effect may stand, so it is undone without a result (rule 6)."""
    plan = plans.unprobed()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepInDoubt(at=1.0, step="charge"),
        e.StepStarted(at=2.0, step="charge", attempt=2),
        e.StepRefused(at=2.0, step="charge", reason="no"),
    )
    (turn,) = decide(plan, saga, 3.0)
    assert isinstance(turn, Record)
    saga = evolve(plan, saga, turn.event)
    assert (Do(kind=AttemptKind.COMPENSATE, step="charge"),) == decide(plan, saga, 3.0)


def test_not_there_is_believed_only_when_said_twice() -> None:
    """One "not there" may be a look-up that was too early (rule 5)."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepInDoubt(at=1.0, step="charge"),
        e.ProbeStarted(at=2.0, step="charge"),
        e.ProbeNotThere(at=2.0, step="charge"),
    )
    assert (Do(kind=AttemptKind.PROBE, step="charge"),) == decide(plan, saga, 9.0)
    saga = evolve(plan, saga, e.ProbeStarted(at=9.0, step="charge"))
    saga = evolve(plan, saga, e.ProbeNotThere(at=9.0, step="charge"))
    assert (Do(kind=AttemptKind.EXECUTE, step="charge", attempt=2),) == decide(plan, saga, 19.0)


def test_a_probe_that_an_operator_hurried_counts_alone() -> None:
    """Ordered to retry it looks again at once: two answers close together are one (rule 5)."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepInDoubt(at=1.0, step="charge"),
        e.ProbeStarted(at=2.0, step="charge"),
        e.ProbeNotThere(at=2.0, step="charge"),
        e.Retried(at=2.01, actor="kim", why="hurry"),
        e.ProbeStarted(at=2.01, step="charge"),
        e.ProbeNotThere(at=2.02, step="charge"),
    )
    assert (Do(kind=AttemptKind.PROBE, step="charge"),) == decide(plan, saga, 9.0)


def test_a_late_failure_is_told_upstream() -> None:
    """Completed, then asked by downstream: we undo, and upstream hears of it (rule 22)."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0, upstream="order"),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepSucceeded(at=1.0, step="charge", result=ONE),
        e.StepSucceeded(at=1.0, step="record", result=ONE),
        e.StepSucceeded(at=1.0, step="forward:shipping", result=ONE),
        e.Completed(at=1.0),
        e.CompensationRequested(at=2.0, requested_by="shipping"),
        e.CompensationSucceeded(at=2.0, step="charge"),
        e.CompensationSucceeded(at=2.0, step="reserve"),
        e.Compensated(at=2.0),
    )
    assert Tell.DUE is saga.tell
    assert (Do(kind=AttemptKind.TELL),) == decide(plan, saga, 2.0)


def test_upstream_that_waits_for_the_answer_is_not_asked_beside_it() -> None:
    """A refusal in the first run comes back as the answer; nobody is called."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0, upstream="order"),
        e.StepRefused(at=1.0, step="reserve"),
        e.TurnedBack(at=1.0),
        e.Compensated(at=1.0),
    )
    assert Tell.NO is saga.tell


def test_a_failed_compensation_does_not_stop_the_others() -> None:
    """The charge cannot be refunded; the reservation is released all the same (rule 12)."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepSucceeded(at=1.0, step="charge", result=ONE),
        e.StepRefused(at=1.0, step="record"),
        e.TurnedBack(at=1.0),
        e.CompensationStarted(at=1.0, step="charge", attempt=1),
        e.CompensationRefused(at=1.0, step="charge", reason="no refunds"),
    )
    assert (Do(kind=AttemptKind.COMPENSATE, step="reserve"),) == decide(plan, saga, 1.0)
    saga = evolve(plan, saga, e.CompensationSucceeded(at=1.0, step="reserve"))
    (end,) = decide(plan, saga, 1.0)
    assert Record(event=e.FailedToCompensate(at=1.0, stands=("charge",))) == end


def test_behind_the_pivot_nothing_is_undone() -> None:
    """Asked to compensate behind the pivot, the saga goes on forward (rule 20)."""
    plan = plans.pivoted()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="hold", result=ONE),
        e.StepSucceeded(at=1.0, step="pay", result=ONE),
        e.CompensationRequested(at=1.0, requested_by="order"),
    )
    assert SagaState.ACTIVE is saga.state
    assert (Do(kind=AttemptKind.EXECUTE, step="note"),) == decide(plan, saga, 1.0)


def test_a_crash_loop_is_parked() -> None:
    """Runs that are lost one after the other without progress end with a person (rule 15)."""
    plan = plans.usual()
    lost = [e.Recovered(at=1.0, epoch=number) for number in range(2, RECOVERIES_MAX + 3)]
    saga = fold(plan, e.Accepted(at=1.0), *lost)
    (park,) = decide(plan, saga, 1.0)
    assert isinstance(park, Record)
    assert isinstance(park.event, e.Parked)
    assert (Rest(),) == decide(plan, evolve(plan, saga, park.event), 2.0)


def test_restarts_during_a_long_wait_are_no_crash_loop() -> None:
    """A saga that only waits was not what took the process down (rule 15)."""
    plan = plans.usual()
    restarts = [e.Recovered(at=2.0 + number, epoch=1 + number) for number in range(1, 21)]
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepTransient(at=2.0, step="charge", reason="busy", retry_after=60.0),
        *restarts,
    )
    assert (Rest(until=62.0),) == decide(plan, saga, 22.0)


FORWARD = "forward:shipping"
LOOK = Do(kind=AttemptKind.PROBE, step=FORWARD)
HANDED_ON: tuple[e.Event, ...] = (
    e.Accepted(at=1.0, deadline=10.0),
    e.StepSucceeded(at=1.0, step="reserve", result=ONE),
    e.StepStarted(at=1.0, step="charge", attempt=1),
    e.StepSucceeded(at=1.0, step="charge", result=ONE),
    e.StepSucceeded(at=1.0, step="record", result=ONE),
    e.StepStarted(at=1.0, step=FORWARD, attempt=1),
)


def test_a_forward_that_was_lost_is_looked_for_after_the_deadline() -> None:
    """Its yes may have been told upstream (decision 0011): found, the saga completes."""
    plan = plans.usual()
    saga = fold(plan, *HANDED_ON, e.Recovered(at=20.0, epoch=2))
    assert (LOOK,) == decide(plan, saga, 20.0)
    saga = evolve(plan, saga, e.ProbeStarted(at=20.0, step=FORWARD))
    assert (Rest(),) == decide(plan, saga, 20.0)
    saga = evolve(plan, saga, e.ProbeFound(at=21.0, step=FORWARD, result=ONE))
    assert (Record(event=e.Completed(at=21.0)),) == decide(plan, saga, 21.0)


def test_a_forward_that_was_lost_is_looked_for_when_its_attempts_are_used_up() -> None:
    """Without a deadline just the same. A forward that a person settled is looked for no more."""
    plan = plans.usual()
    saga = fold(plan, *HANDED_ON, e.Recovered(at=5.0, epoch=2))
    most = plan.step(FORWARD).execution.attempts_max
    assert most is not None
    for attempt in range(2, most + 1):
        saga = evolve(plan, saga, e.StepStarted(at=5.0, step=FORWARD, attempt=attempt))
        saga = evolve(plan, saga, e.StepInDoubt(at=5.0, step=FORWARD, reason="no answer"))
    saga = replace(saga, deadline=None)
    assert (LOOK,) == decide(plan, saga, saga.steps[FORWARD].due)
    no = e.Settled(at=6.0, step=FORWARD, actor="ops", why="asked them", landed=False)
    settled = evolve(plan, replace(saga, deadline=9.0), no)
    (turned,) = decide(plan, settled, 11.0)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)


def test_a_probe_that_was_asked_for_patience_waits() -> None:
    """Retry-After of a look, or of an author's probe, is heeded up to its cap."""
    plan = plans.usual()
    saga = fold(plan, *HANDED_ON, e.Recovered(at=20.0, epoch=2))
    saga = evolve(plan, saga, e.ProbeStarted(at=20.0, step=FORWARD))
    for asked, due in ((30.0, 50.0), (3600.0, 80.0)):
        failed = e.ProbeFailed(at=20.0, step=FORWARD, reason="busy", retry_after=asked)
        assert (Rest(until=due),) == decide(plan, evolve(plan, saga, failed), 21.0)


def test_before_the_deadline_a_forward_that_was_lost_is_repeated() -> None:
    """The same bytes get the same answer, and no look is needed; nor is one forgotten later."""
    plan = plans.usual()
    saga = fold(plan, *HANDED_ON, e.Recovered(at=5.0, epoch=2))
    assert (Do(kind=AttemptKind.EXECUTE, step=FORWARD, attempt=2),) == decide(plan, saga, 5.0)
    again = e.StepStarted(at=5.0, step=FORWARD, attempt=2)
    saga = evolve(plan, saga, again)
    for lost in (
        e.StepInDoubt(at=9.0, step=FORWARD, reason="no answer"),
        e.StepTransient(at=9.0, step=FORWARD, reason="busy"),
    ):
        assert (LOOK,) == decide(plan, evolve(plan, saga, lost), 11.0)


NOT_NOW = e.StepTransient(at=2.0, step=FORWARD, reason="answered 503", may_come=True)
UNDO_THERE = Do(kind=AttemptKind.COMPENSATE, step=FORWARD)
NOT_SENT = e.StepTransient(at=2.0, step=FORWARD, reason="no connection")
REFUSED = e.StepRefused(at=3.0, step=FORWARD, reason="answered 409", said=True)
STARTED_AGAIN = e.StepStarted(at=2.5, step=FORWARD, attempt=2)
TURNED = e.TurnedBack(at=11.0, step=FORWARD, reason="late")


@pytest.mark.parametrize(
    "answers, undone_there",
    [
        ((NOT_NOW,), True),
        ((NOT_NOW, STARTED_AGAIN, replace(NOT_SENT, at=3.0)), True),
        ((NOT_SENT,), False),
        ((NOT_NOW, STARTED_AGAIN, REFUSED), False),
    ],
    ids=["not now", "not now, then not sent", "not sent", "not now, then never"],
)
def test_a_no_for_now_is_made_a_no_for_good_on_the_way_back(
    answers: tuple[e.Event, ...], undone_there: bool
) -> None:
    """A copy of the request may still be on its way, and would be accepted (decision 0083)."""
    plan = plans.usual()
    saga = fold(plan, *HANDED_ON, *answers, TURNED)
    assert undone_there == ((UNDO_THERE,) == decide(plan, saga, 11.0))
    assert undone_there == (standing(saga, FORWARD) is Standing.MAY_STAND)


def test_the_body_of_a_request_that_may_come_is_kept() -> None:
    """Another one under the same id would be refused once the copy has come."""
    plan, body = plans.usual(), e.Request(method="POST", path="/sagas", body=b"{}")
    sent = e.StepStarted(at=1.0, step=FORWARD, attempt=1, request=body)
    saga = fold(plan, *HANDED_ON[:-1], sent, NOT_NOW)
    assert (body,) == saga.steps[FORWARD].requests
    assert () == fold(plan, *HANDED_ON[:-1], sent, NOT_SENT).steps[FORWARD].requests


def test_a_forward_that_downstream_does_not_show_is_turned_back() -> None:
    """One "no" is enough: downstream knows what it did. Then it is compensated there as well."""
    plan = plans.usual()
    saga = fold(
        plan,
        *HANDED_ON,
        e.Recovered(at=20.0, epoch=2),
        e.ProbeStarted(at=20.0, step=FORWARD),
        e.ProbeNotThere(at=20.0, step=FORWARD),
    )
    (turned,) = decide(plan, saga, 20.0)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)
    saga = evolve(plan, saga, turned.event)
    assert (Do(kind=AttemptKind.COMPENSATE, step=FORWARD),) == decide(plan, saga, 20.0)


def test_looking_at_a_downstream_that_shows_no_sagas_comes_to_an_end() -> None:
    """It need not serve that, and such a downstream does not hold the saga for days."""
    plan = plans.usual()
    saga, now = fold(plan, *HANDED_ON, e.Recovered(at=20.0, epoch=2)), 20.0
    most = NEIGHBOUR_SETTLEMENT.attempts_max
    assert most is not None
    for _ in range(most):
        assert (LOOK,) == decide(plan, saga, now)
        saga = evolve(plan, saga, e.ProbeStarted(at=now, step=FORWARD))
        unserved = e.ProbeFailed(at=now, step=FORWARD, reason="answered 404", unserved=True)
        saga = evolve(plan, saga, unserved)
        now = saga.steps[FORWARD].due
    (turned,) = decide(plan, saga, now)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)


def test_a_downstream_that_is_away_is_looked_at_until_patience_ends() -> None:
    """Upstream may have been told yes, so an outage costs time and no saga (decision 0011)."""
    plan = plans.usual()
    saga, now = fold(plan, *HANDED_ON, e.Recovered(at=20.0, epoch=2)), 20.0
    looks = 0
    while (LOOK,) == decide(plan, saga, now):
        looks += 1
        saga = evolve(plan, saga, e.ProbeStarted(at=now, step=FORWARD))
        saga = evolve(plan, saga, e.ProbeFailed(at=now, step=FORWARD, reason="connection refused"))
        now = saga.steps[FORWARD].due
    (turned,) = decide(plan, saga, now)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)
    assert now - 1.0 >= plan.patience_seconds
    assert looks > 10 * (NEIGHBOUR_SETTLEMENT.attempts_max or 0)


def test_an_answer_that_never_came_is_not_looked_for_after_the_deadline() -> None:
    """The run is still there and told nobody: what may stand downstream is compensated."""
    plan = plans.usual()
    saga = fold(plan, *HANDED_ON, e.StepInDoubt(at=9.0, step=FORWARD, reason="no answer"))
    (turned,) = decide(plan, saga, 11.0)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)


def test_a_crash_puts_what_was_in_flight_in_doubt() -> None:
    """The intent is durable, the answer is not: in doubt (rule 1)."""
    plan = plans.usual()
    saga = fold(
        plan,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE),
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.Recovered(at=5.0, epoch=2),
    )
    assert Phase.IN_DOUBT is saga.steps["charge"].phase
    assert (Do(kind=AttemptKind.PROBE, step="charge"),) == decide(plan, saga, 5.0)
