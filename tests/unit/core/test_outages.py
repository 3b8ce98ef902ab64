"""Rule 28: an outage costs time and no attempts; patience ends what has no deadline."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.age import lasted
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.machine import decide, evolve
from stage.core.retry import EXECUTION, OUTAGE_BACKOFF_SECONDS_MAX, PATIENCE_SECONDS
from stage.core.saga import Saga
from stage.core.states import ParkCause, Tell
from stage.core.steps import FORWARD_PREFIX, Plan, Step, StepKind, plan_of
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

FORWARD = FORWARD_PREFIX + "shipping"
DEADLINE = 3_600.0
MOST = EXECUTION.attempts_max or 0
ACCEPTED = e.Accepted(at=1.0, upstream="order", deadline=DEADLINE)
RESERVED = e.StepSucceeded(at=1.0, step="reserve", result=ONE)
CHARGED: list[e.Event] = [
    e.StepStarted(at=1.0, step="charge", attempt=1),
    e.StepSucceeded(at=1.0, step="charge", result=ONE),
    e.StepSucceeded(at=1.0, step="record", result=ONE),
]


def outage(plan: Plan, saga: Saga, step: str, *, until: float) -> tuple[Saga, float, int]:
    """Every attempt finds no connection; the saga, the time and the attempts at its end."""
    now, attempts = saga.updated_at, 0
    while now < until:
        match decide(plan, saga, now):
            case (Rest(until=float() as due),):
                now = due
            case (Do(kind=AttemptKind.EXECUTE, attempt=attempt),):
                attempts += 1
                started = e.StepStarted(at=now, step=step, attempt=attempt)
                refused = e.StepTransient(at=now, step=step, reason="no connection")
                saga = evolve(plan, evolve(plan, saga, started), refused)
            case _:
                break
    return saga, now, attempts


@pytest.mark.parametrize("step, before", [("charge", []), (FORWARD, CHARGED)])
def test_an_outage_is_outlasted_until_the_deadline(step: str, before: list[e.Event]) -> None:
    """Far more attempts than `attempts_max`, none of which could have had an effect."""
    plan = plans.usual()
    saga = fold(plan, ACCEPTED, RESERVED, *before)

    saga, now, attempts = outage(plan, saga, step, until=DEADLINE + 60.0)

    (turned,) = decide(plan, saga, now)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)
    assert DEADLINE == now
    most = plan.step(step).execution.attempts_max
    assert most is not None and 5 * most < attempts < 200


def test_attempts_count_where_an_effect_may_stand() -> None:
    """Any number of refused connections between them changes nothing."""
    plan = plans.unprobed()
    saga = fold(plan, ACCEPTED, RESERVED)
    for attempt in range(1, MOST + 1):
        saga, _, tried = outage(plan, saga, "charge", until=saga.updated_at + 20.0)
        assert tried
        known = saga.steps["charge"]
        (again,) = decide(plan, saga, known.due)
        assert isinstance(again, Do), f"given up after {attempt - 1} doubts"
        at = known.due
        started = e.StepStarted(at=at, step="charge", attempt=known.attempts + 1)
        saga = fold(plan, started, e.StepInDoubt(at=at, step="charge", reason="500"), saga=saga)

    (turned,) = decide(plan, saga, saga.steps["charge"].due)

    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)


def test_an_effect_before_the_lost_request_makes_the_attempt_count() -> None:
    """The last request of an attempt did not happen, an earlier one was answered (rule 6)."""
    plan = plans.usual()
    transient = e.StepTransient(at=1.0, step="charge", reason="no connection", may_stand=True)
    started = e.StepStarted(at=1.0, step="charge", attempt=1)

    saga = fold(plan, ACCEPTED, RESERVED, started, transient)

    assert 0 == saga.steps["charge"].forgiven


def test_a_transaction_keeps_its_attempts() -> None:
    """It depends on nobody: to repeat it for an hour would only hide a defect."""
    plan = plans.usual()
    failed: e.Event = e.StepTransient(at=1.0, step="reserve", reason="bug")

    saga = fold(plan, ACCEPTED, *[failed] * MOST)

    (turned,) = decide(plan, saga, 60.0)
    assert isinstance(turned, Record) and isinstance(turned.event, e.TurnedBack)


def undoing(plan: Plan, saga: Saga, delayed: e.CompensationDelayed) -> tuple[Saga, float, int]:
    """Every attempt to undo the charge ends so, until the machine does something else."""
    now, attempts = saga.updated_at, 0
    while True:
        match decide(plan, saga, now):
            case (Rest(until=float() as due),):
                now = due
            case (Do(kind=AttemptKind.COMPENSATE, attempt=attempt),):
                attempts += 1
                started = e.CompensationStarted(at=now, step="charge", attempt=attempt)
                ended = e.CompensationDelayed(
                    at=now, step="charge", reason=delayed.reason, certain=delayed.certain
                )
                saga = fold(plan, started, ended, saga=saga)
            case _:
                return saga, now, attempts


@pytest.mark.parametrize("certain", [True, False])
def test_an_undo_is_tried_until_patience_ends(certain: bool) -> None:
    """No number of attempts ends it, and its pauses keep the journal small."""
    plan = plans.usual()
    back = e.TurnedBack(at=1.0, reason="no")
    saga = fold(plan, ACCEPTED, RESERVED, *CHARGED, back)
    delayed = e.CompensationDelayed(at=1.0, step="charge", reason="503", certain=certain)

    saga, now, attempts = undoing(plan, saga, delayed)

    (given_up,) = decide(plan, saga, now)
    assert isinstance(given_up, Record) and isinstance(given_up.event, e.CompensationRefused)
    assert "503" in given_up.event.reason
    since = saga.steps["charge"].compensation_since
    assert (
        PATIENCE_SECONDS
        <= lasted(saga, since, now)
        <= PATIENCE_SECONDS + OUTAGE_BACKOFF_SECONDS_MAX
    )
    assert 800 < attempts < 2_500

    retried = evolve(plan, saga, e.Retried(at=now, actor="ops", why="it is back"))
    assert (Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=attempts + 1),) == decide(
        plan, retried, now
    )


def test_attempts_of_an_undo_that_an_author_bounds_count_only_doubts() -> None:
    """Refused connections leave the bound as it is."""
    charge = Step(
        name="charge",
        kind=StepKind.CALL,
        peer="psp",
        compensatable=True,
        compensation=EXECUTION,
    )
    plan = plan_of("payment", (charge,))
    started = e.StepStarted(at=1.0, step="charge", attempt=1)
    succeeded = e.StepSucceeded(at=1.0, step="charge", result=ONE)
    saga = fold(plan, ACCEPTED, started, succeeded, e.TurnedBack(at=1.0))

    doubt = e.CompensationDelayed(at=1.0, step="charge", reason="500")
    _, _, bounded = undoing(plan, saga, doubt)
    certain = e.CompensationDelayed(at=1.0, step="charge", reason="no connection", certain=True)
    _, _, free = undoing(plan, saga, certain)

    assert MOST == bounded
    assert free > 100


def test_a_late_failure_is_sent_up_until_patience_ends() -> None:
    """Then the saga waits for a person, with a cause of its own, until that person retries."""
    plan = plans.usual()
    saga = fold(
        plan,
        ACCEPTED,
        e.AnswerDeferred(at=1.0),
        e.TurnedBack(at=1.0, reason="no"),
        e.Compensated(at=1.0),
    )
    assert Tell.DUE is saga.tell
    now = 1.0
    while now - 1.0 < PATIENCE_SECONDS:
        match decide(plan, saga, now):
            case (Rest(until=float() as due),):
                now = due
            case (Do(attempt=attempt),):
                away = e.TellDelayed(at=now, reason="no connection")
                saga = fold(plan, e.TellStarted(at=now, attempt=attempt), away, saga=saga)

    (gave_up,) = decide(plan, saga, now)

    assert isinstance(gave_up, Record)
    saga = evolve(plan, saga, gave_up.event)
    assert ParkCause.UPSTREAM_AWAY is saga.parked_cause
    assert (Rest(),) == decide(plan, saga, now)
    saga = evolve(plan, saga, e.Retried(at=now, actor="ops", why="it is back"))
    (tell,) = decide(plan, saga, now)
    assert isinstance(tell, Do) and AttemptKind.TELL is tell.kind


BEHIND = plan_of(
    "payout",
    (
        Step(name="pay", kind=StepKind.CALL, peer="bank", pivot=True),
        Step(name="book", kind=StepKind.CALL, peer="ledger"),
    ),
)
PAID: list[e.Event] = [
    e.StepStarted(at=1.0, step="pay", attempt=1),
    e.StepSucceeded(at=1.0, step="pay", result=ONE),
]


def test_behind_the_pivot_neither_the_deadline_nor_attempts_end_the_way_forward() -> None:
    """There is no way back: it is tried until patience ends, then a person has to look."""
    saga = fold(BEHIND, ACCEPTED, *PAID)

    saga, now, _ = outage(BEHIND, saga, "book", until=10 * PATIENCE_SECONDS)

    (parked,) = decide(BEHIND, saga, now)
    assert isinstance(parked, Record) and isinstance(parked.event, e.Parked)
    assert ParkCause.BEHIND_PIVOT is parked.event.cause
    assert now - 1.0 >= PATIENCE_SECONDS


def test_behind_the_pivot_a_doubt_is_repeated_until_patience_ends() -> None:
    """Under the same key: the sixth answer 500 is no reason to stop."""
    saga = fold(BEHIND, ACCEPTED, *PAID)
    for attempt in range(1, 7):
        saga = fold(
            BEHIND,
            e.StepStarted(at=10.0 * attempt, step="book", attempt=attempt),
            e.StepInDoubt(at=10.0 * attempt, step="book", reason="500"),
            saga=saga,
        )

    again = Do(kind=AttemptKind.EXECUTE, step="book", attempt=7)
    assert (again,) == decide(BEHIND, saga, 2 * DEADLINE)


def test_a_call_that_may_not_be_repeated_is_looked_for_until_patience_ends() -> None:
    """A probe has no effect: that the API is away for a while is no reason to park."""
    charge = Step(name="charge", kind=StepKind.CALL, peer="psp", probed=True, idempotent=False)
    plan = plan_of("payment", (charge,))
    started = e.StepStarted(at=1.0, step="charge", attempt=1)
    saga = fold(plan, ACCEPTED, started, e.StepInDoubt(at=1.0, step="charge", reason="no answer"))
    now, probes = 1.0, 0
    while now - 1.0 < PATIENCE_SECONDS:
        match decide(plan, saga, now):
            case (Rest(until=float() as due),):
                now = due
            case (Do(kind=AttemptKind.PROBE),):
                probes += 1
                failed = e.ProbeFailed(at=now, step="charge", reason="no connection")
                saga = fold(plan, e.ProbeStarted(at=now, step="charge"), failed, saga=saga)
            case other:
                raise AssertionError(other)

    (parked,) = decide(plan, saga, now)

    assert isinstance(parked, Record) and isinstance(parked.event, e.Parked)
    assert ParkCause.IN_DOUBT is parked.event.cause
    assert probes > 800
