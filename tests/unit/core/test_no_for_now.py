"""A no for now for which nobody vouches: believed on the way forward, and undone on the way back.

Decision 0087. The same of a downstream is in test_machine.py.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.machine import asked_before, decide
from stage.core.questions import pivot_undecided
from stage.core.retry import RetryPolicy
from stage.core.saga import Saga
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.steps import Plan
from stage.core.verbs import refuse_verb
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.test_policies import HOUR, only, plan_with, turned_back
from tests.unit.core.world import ONE

SENT = e.Request(method="POST", path="/charges", body=b"1")
STARTED = (
    e.Accepted(at=0.0, upstream="order", deadline=10.0),
    e.StepStarted(at=0.0, step="charge", attempt=1, request=SENT),
)
NOT_NOW = e.StepTransient(at=1.0, step="charge", reason="answered 429", may_come=True)
CERTAIN = replace(NOT_NOW, may_come=False)
UNDO = Do(kind=AttemptKind.COMPENSATE, step="charge")
PROBE = Do(kind=AttemptKind.PROBE, step="charge")
ASKED = e.CompensationRequested(at=2.0, requested_by="order")


def not_there(at: float) -> tuple[e.Event, ...]:
    return e.ProbeStarted(at=at, step="charge"), e.ProbeNotThere(at=at, step="charge")


def looked_for_twice(plan: Plan, saga: Saga, at: float) -> Saga:
    """The saga after its call was twice not there."""
    for later in (at, at + 5.0):
        assert PROBE == only(plan, saga, later)
        saga = fold(plan, *not_there(later), saga=saga)
    return saga


@pytest.mark.parametrize("event", [NOT_NOW, CERTAIN], ids=["429", "no connection"])
@pytest.mark.parametrize("asked", [False, True], ids=["deadline", "asked"])
def test_a_call_that_may_have_acted_is_undone_though_it_said_no(
    event: e.StepTransient, asked: bool
) -> None:
    """An attempt that certainly did not happen leaves nothing to undo, as ever."""
    plan = plan_with()
    saga = fold(plan, *STARTED, event)
    saga = fold(plan, ASKED, saga=saga) if asked else turned_back(plan, saga, 11.0)
    over = Record(event=e.Compensated(at=11.0))
    assert (UNDO if event.may_come else over) == only(plan, saga, 11.0)


def test_it_is_repeated_with_the_same_bytes_and_counts_as_no_attempt() -> None:
    """A copy may act first: another body under the same key would be refused."""
    plan = plan_with(execution=RetryPolicy(attempts_max=2))
    saga = fold(plan, *STARTED, NOT_NOW)
    for attempt in range(2, 8):
        again = e.StepStarted(at=1.0, step="charge", attempt=attempt)
        assert replace(UNDO, kind=AttemptKind.EXECUTE, attempt=attempt) == only(plan, saga, 9.0)
        saga = fold(plan, again, NOT_NOW, saga=saga)
    assert (SENT,) == saga.steps["charge"].requests
    assert not saga.steps["charge"].doubted


def test_a_no_of_the_api_to_a_later_request_bars_no_copy_of_the_first() -> None:
    """It need not know the key of a request that it has refused."""
    plan = plan_with()
    refused = e.StepRefused(at=3.0, step="charge", reason="declined", said=True)
    again = e.StepStarted(at=2.0, step="charge", attempt=2)
    saga = turned_back(plan, fold(plan, *STARTED, NOT_NOW, again, refused), 4.0)
    assert UNDO == only(plan, saga, 4.0)


@pytest.mark.parametrize("asked", [False, True], ids=["deadline", "asked"])
def test_on_the_way_back_it_is_looked_for_first(asked: bool) -> None:
    """An effect that is found is undone with its result; one that is not there, all the same."""
    plan = plan_with(probed=True)
    saga = fold(plan, *STARTED, NOT_NOW)
    saga = fold(plan, ASKED, saga=saga) if asked else turned_back(plan, saga, 11.0)
    assert PROBE == only(plan, saga, 11.0)
    assert asked_before(plan, saga, replace(ASKED, at=12.0)) == asked
    found = e.ProbeFound(at=12.0, step="charge", result=ONE)
    known = fold(plan, e.ProbeStarted(at=11.0, step="charge"), found, saga=saga)
    assert UNDO == only(plan, known, 12.0) and ONE == known.steps["charge"].result
    assert UNDO == only(plan, looked_for_twice(plan, saga, 11.0), 20.0)


AGAIN = e.StepStarted(at=1.5, step="charge", attempt=2)
NO = e.StepRefused(at=3.0, step="charge", reason="declined", said=True)


@pytest.mark.parametrize(
    "ends",
    [(ASKED, replace(NOT_NOW, at=3.0)), (NOT_NOW, AGAIN, ASKED, NO)],
    ids=["a no for now", "a no behind one"],
)
def test_an_attempt_that_ends_behind_the_turn_is_looked_for_as_well(
    ends: tuple[e.Event, ...],
) -> None:
    """It was in flight when the saga turned round: its undo is to know the result all the same."""
    plan = plan_with(probed=True)
    saga = fold(plan, *STARTED, *ends)
    assert PROBE == only(plan, saga, 3.0)
    found = e.ProbeFound(at=4.0, step="charge", result=ONE)
    saga = fold(plan, e.ProbeStarted(at=3.0, step="charge"), found, saga=saga)
    assert UNDO == only(plan, saga, 4.0) and ONE == saga.steps["charge"].result


def test_the_api_s_no_to_its_probe_leaves_nothing_to_undo() -> None:
    """It knows the key, and asking to compensate again looks for nothing any more."""
    plan = plan_with(probed=True)
    saga = fold(plan, *STARTED, NOT_NOW, ASKED)
    no = e.ProbeRefused(at=4.0, step="charge", reason="declined")
    saga = fold(plan, e.ProbeStarted(at=3.0, step="charge"), no, saga=saga)
    assert Record(event=e.Compensated(at=5.0)) == only(plan, saga, 5.0)
    assert asked_before(plan, saga, replace(ASKED, at=5.0))


@pytest.mark.parametrize("probed", [False, True])
def test_an_api_that_ignores_keys_is_not_asked_again_before_it_is_settled(probed: bool) -> None:
    """It would act twice. The `Retry-After` of the no holds for the look as well."""
    plan = plan_with(probed=probed, idempotent=False)
    saga = fold(plan, *STARTED, replace(NOT_NOW, retry_after=3.0))
    assert Phase.IN_DOUBT is saga.steps["charge"].phase
    if not probed:
        parked = only(plan, saga, 2.0)
        assert isinstance(parked, Record) and isinstance(parked.event, e.Parked)
        assert ParkCause.IN_DOUBT is parked.event.cause
        return
    assert PROBE != only(plan, saga, 3.9)
    saga = looked_for_twice(plan, saga, 4.0)
    again = replace(UNDO, kind=AttemptKind.EXECUTE, attempt=2)
    assert again == only(plan, saga, 9.9)
    saga = fold(plan, e.StepStarted(at=9.9, step="charge", attempt=2), NOT_NOW, saga=saga)
    assert 0 == saga.steps["charge"].not_there  # of the attempt before


def test_an_answered_part_of_a_call_without_keys_is_settled_before_it_is_repeated() -> None:
    """Its first request was answered, and the second never left: the first would act twice."""
    part = replace(CERTAIN, may_stand=True)
    unprobed = fold(plan_with(idempotent=False), *STARTED, part)
    parked = only(plan_with(idempotent=False), unprobed, 2.0)
    assert isinstance(parked, Record) and isinstance(parked.event, e.Parked)
    assert ParkCause.IN_DOUBT is parked.event.cause

    plan = plan_with(probed=True, idempotent=False)
    saga = looked_for_twice(plan, fold(plan, *STARTED, part), 4.0)
    assert replace(UNDO, kind=AttemptKind.EXECUTE, attempt=2) == only(plan, saga, 9.9)
    saga = fold(plan, e.StepStarted(at=9.9, step="charge", attempt=2), part, saga=saga)
    assert 0 == saga.steps["charge"].not_there  # of the attempt before
    keyed = plan_with()
    assert Phase.WAITING is fold(keyed, *STARTED, part).steps["charge"].phase


def test_under_a_forgotten_key_it_is_not_repeated() -> None:
    """The first request may have acted, and the API would take the next for a new one."""
    plan = plan_with(key_lifetime_seconds=HOUR)
    accepted = replace(STARTED[0], deadline=None)
    saga = fold(plan, accepted, STARTED[1], NOT_NOW)
    turned_back(plan, saga, HOUR + 1.0)
    sent = e.StepStarted(at=0.0, step="charge", attempt=1)
    certain = fold(plan, accepted, sent, CERTAIN)
    assert replace(UNDO, kind=AttemptKind.EXECUTE, attempt=2) == only(plan, certain, HOUR + 1.0)


@pytest.mark.parametrize("may_come", [False, True])
def test_an_undo_of_which_something_said_not_now_is_not_made_twice(may_come: bool) -> None:
    """It may have refunded: the same bytes go again, and none once its key is forgotten."""
    plan = plan_with(key_lifetime_seconds=HOUR)
    charged = e.StepSucceeded(at=1.0, step="charge", result=ONE)
    begun = e.CompensationStarted(at=3.0, step="charge", attempt=1, request=SENT)
    delayed = e.CompensationDelayed(at=4.0, step="charge", certain=True, may_come=may_come)
    saga = fold(plan, *STARTED, charged, ASKED, begun, delayed)
    step = saga.steps["charge"]
    assert may_come == (step.compensation_requests == (SENT,))
    assert 1 == step.compensation_forgiven  # an outage counts as no attempt, whoever tells of it
    later = only(plan, saga, HOUR + 4.0)
    if may_come:
        assert isinstance(later, Record) and isinstance(later.event, e.CompensationRefused)
    else:
        assert replace(UNDO, attempt=2) == later


# --- a pivot has no undo ---

PAID = (
    e.Accepted(at=0.0, upstream="order", deadline=10.0),
    e.StepStarted(at=0.0, step="hold", attempt=1),
    e.StepSucceeded(at=0.0, step="hold", result=ONE),
    e.StepStarted(at=0.0, step="pay", attempt=1, request=SENT),
    replace(NOT_NOW, step="pay"),
)
LOOK = replace(PROBE, step="pay")


def unprobed_pivot() -> Plan:
    plan = plans.pivoted()
    return replace(
        plan,
        steps=tuple(replace(step, probed=False) for step in plan.steps),
        waves=tuple(tuple(replace(step, probed=False) for step in wave) for wave in plan.waves),
        by_name={name: replace(step, probed=False) for name, step in plan.by_name.items()},
    )


def pay_not_there(at: float) -> tuple[e.Event, ...]:
    return e.ProbeStarted(at=at, step="pay"), e.ProbeNotThere(at=at, step="pay")


@pytest.mark.parametrize("asked", [False, True], ids=["deadline", "asked"])
def test_a_pivot_is_looked_for_before_anything_is_undone_around_it(asked: bool) -> None:
    """Twice "not there" lets the saga turn back; found, it goes only forward."""
    plan = plans.pivoted()
    saga = fold(plan, *PAID, *((ASKED,) if asked else ()))
    assert SagaState.ACTIVE is saga.state and pivot_undecided(plan, saga)
    now = 5.0 if asked else 11.0
    assert LOOK == only(plan, saga, now)
    found = e.ProbeFound(at=now, step="pay", result=ONE)
    paid = fold(plan, e.ProbeStarted(at=now, step="pay"), found, saga=saga)
    assert Do(kind=AttemptKind.EXECUTE, step="note") == only(plan, paid, now)
    for _ in range(2):
        assert LOOK == only(plan, saga, now)
        saga = fold(plan, *pay_not_there(now), saga=saga)
        now += 5.0
    saga = turned_back(plan, saga, now)
    assert replace(UNDO, step="hold") == only(plan, saga, now)


def test_a_pivot_that_cannot_be_looked_for_waits_for_a_person() -> None:
    """Both ways cost money where nobody knows; the person settles it."""
    plan = unprobed_pivot()
    saga = fold(plan, *PAID)
    again = Do(kind=AttemptKind.EXECUTE, step="pay", attempt=2)
    assert again == only(plan, saga, 9.0)
    parked = only(plan, saga, 11.0)
    assert isinstance(parked, Record) and isinstance(parked.event, e.Parked)
    assert ParkCause.PIVOT_IN_DOUBT is parked.event.cause
    saga = fold(plan, parked.event, saga=saga)
    settled = e.Settled(at=12.0, actor="kim", why="asked the bank", step="pay", landed=False)
    assert refuse_verb(plan, saga, settled) is None
    saga = turned_back(plan, fold(plan, settled, saga=saga), 12.0)
    assert (replace(UNDO, step="hold"),) == decide(plan, saga, 12.0)


@pytest.mark.parametrize("probed", [False, True], ids=["no probe", "no answer of the probe"])
def test_a_pivot_that_may_come_is_not_asked_for_again_once_the_saga_is_to_be_undone(
    probed: bool,
) -> None:
    """It would act for the first time, behind the request to undo it all: a person settles it."""
    plan = plans.pivoted() if probed else unprobed_pivot()
    saga, now = fold(plan, replace(PAID[0], deadline=None), *PAID[1:], ASKED), 3.0
    while LOOK == (move := only(plan, saga, now)):
        nothing = e.ProbeFailed(at=now, step="pay", reason="no answer")
        saga = fold(plan, e.ProbeStarted(at=now, step="pay"), nothing, saga=saga)
        now = saga.steps["pay"].due
    assert isinstance(move, Record) and isinstance(move.event, e.Parked)
    assert ParkCause.PIVOT_IN_DOUBT is move.event.cause
    assert probed == (now > 3.0)

    retried = fold(plan, move.event, e.Retried(at=now, actor="kim", why="up"), saga=saga)
    assert (LOOK if probed else move) == only(plan, retried, now)  # the same act would follow


def test_a_pivot_in_doubt_is_asked_for_again_though_the_saga_is_to_be_undone() -> None:
    """Its key is known there if it has happened, and its answer is all that shows the way."""
    plan = unprobed_pivot()
    doubt = e.StepInDoubt(at=1.0, step="pay", reason="timeout")
    saga = fold(plan, *PAID[:-1], doubt, ASKED)
    again = Do(kind=AttemptKind.EXECUTE, step="pay", attempt=2)
    assert again == only(plan, saga, 9.0)


REFUSED = {
    "behind a time-out": (
        e.StepInDoubt(at=1.0, step="pay", reason="timeout"),
        e.StepStarted(at=2.0, step="pay", attempt=2),
        e.StepRefused(at=3.0, step="pay", reason="declined", said=True),
    ),
    "of a part": (e.StepRefused(at=3.0, step="pay", reason="declined", may_stand=True),),
}


@pytest.mark.parametrize("landed", [False, True], ids=["did not land", "landed"])
@pytest.mark.parametrize("no", list(REFUSED))
def test_nobody_compensates_around_a_pivot_whose_no_is_in_doubt(no: str, landed: bool) -> None:
    """A request of upstream waits for the person: it is not answered as if nothing stood."""
    plan = unprobed_pivot()
    saga = fold(plan, *PAID[:-1], *REFUSED[no])
    parked = only(plan, saga, 4.0)
    assert isinstance(parked, Record) and isinstance(parked.event, e.Parked)
    assert ParkCause.PIVOT_IN_DOUBT is parked.event.cause
    saga = fold(plan, parked.event, ASKED, saga=saga)
    assert SagaState.ACTIVE is saga.state and saga.parked and pivot_undecided(plan, saga)
    assert refuse_verb(plan, saga, e.Resolved(at=5.0, actor="kim", why="x")) is not None

    settled = e.Settled(at=6.0, actor="kim", why="asked the bank", step="pay", landed=landed)
    assert refuse_verb(plan, saga, settled) is None
    saga = fold(plan, settled, saga=saga)
    if landed:
        assert Do(kind=AttemptKind.EXECUTE, step="note") == only(plan, saga, 7.0)
    else:
        saga = turned_back(plan, saga, 7.0)
        assert (replace(UNDO, step="hold"),) == decide(plan, saga, 7.0)


def test_a_no_of_the_api_to_a_pivot_ends_the_doubt() -> None:
    """Nothing else could: no undo would close its key."""
    plan = unprobed_pivot()
    refused = e.StepRefused(at=3.0, step="pay", reason="no cover", said=True)
    saga = fold(plan, *PAID, e.StepStarted(at=2.0, step="pay", attempt=2), refused)
    saga = turned_back(plan, saga, 4.0)
    assert replace(UNDO, step="hold") == only(plan, saga, 4.0)
