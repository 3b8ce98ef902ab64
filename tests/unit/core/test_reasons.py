"""The reason that people read, where a saga turns back, waits for a person, or gives an undo up."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.machine import NOT_UNDERSTOOD_SECONDS_MAX, decide, evolve
from stage.core.retry import RetryPolicy
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.core.steps import Plan, Step, StepKind, plan_of
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

FEW = RetryPolicy(attempts_max=2, backoff_seconds_min=0.1)
CALL = Step(
    name="charge", kind=StepKind.CALL, peer="psp", compensatable=True, execution=FEW,
    compensation=FEW, key_lifetime_seconds=3_600.0,
)  # fmt: skip
PLAN = plan_of("payment", (CALL,))
BLUNT = plan_of("payment", (replace(CALL, idempotent=False),))
PIVOTED = plans.pivoted()
DAY = 86_400.0

OPEN = e.Accepted(at=1.0, deadline=50.0, upstream="order")
CALLED = (OPEN, e.StepStarted(at=1.0, step="charge", attempt=1))
BUSY = e.StepTransient(at=2.0, step="charge", reason="503")
DOUBT = e.StepInDoubt(at=2.0, step="charge", reason="no answer")
TWICE = (
    *(*CALLED, DOUBT, e.StepStarted(at=3.0, step="charge", attempt=2)),
    e.StepInDoubt(at=4.0, step="charge", reason="cut off"),
)
HELD = (
    e.Accepted(at=1.0),
    *(e.StepStarted(at=1.0, step="hold", attempt=1), e.StepSucceeded(at=1.0, step="hold")),
)
PAID = (e.StepStarted(at=1.0, step="pay", attempt=1), e.StepSucceeded(at=1.0, step="pay"))
UNSURE = (
    e.StepStarted(at=1.0, step="pay", attempt=1),
    e.StepRefused(at=1.0, step="pay", reason="409", may_stand=True),
)


@pytest.mark.parametrize(
    "plan, events, now, step, reason",
    [
        (PLAN, (OPEN,), 50.0, "charge", "the deadline passed"),
        (PLAN, (*CALLED, BUSY), 50.0, "charge", "the deadline passed: 503"),
        (PLAN, (*CALLED, replace(BUSY, final=True)), 3.0, "charge", "1 attempts: 503"),
        (PLAN, TWICE, 9.0, "charge", "2 attempts: cut off"),
        (
            PLAN,
            (*CALLED, e.StepRefused(at=2.0, step="charge", reason="declined")),
            3.0,
            "charge",
            "declined",
        ),
        (
            PLAN,
            (replace(OPEN, deadline=None), *CALLED[1:], DOUBT),
            3_700.0,
            "charge",
            "1 attempts: no answer",
        ),
    ],
)
def test_why_a_saga_turns_back(
    plan: Plan, events: tuple[e.Event, ...], now: float, step: str, reason: str
) -> None:
    """The step, how often it was tried, and its last end; the saga keeps the reason."""
    saga = fold(plan, *events)
    turned = e.TurnedBack(at=now, step=step, reason=reason)
    assert (Record(event=turned),) == decide(plan, saga, now)
    after = evolve(plan, saga, turned)
    assert (SagaState.COMPENSATING, reason) == (after.state, after.reason)


def test_neighbours_read_less_than_people_here() -> None:
    """The word of the author or of downstream, or the step alone: no text of an error (rule 38)."""
    plain = fold(PLAN, *TWICE, e.TurnedBack(at=9.0, step="charge", reason="2 attempts: secret"))
    assert "step charge did not succeed" == plain.detail
    no = e.StepRefused(at=2.0, step="charge", reason="card declined", said=True)
    turned = e.TurnedBack(at=9.0, step="charge", reason="card declined")
    assert "card declined" == fold(PLAN, *CALLED, no, turned).detail
    unsaid = fold(PLAN, *CALLED, replace(no, said=False), turned)
    assert "step charge did not succeed" == unsaid.detail
    assert "" == fold(PLAN, OPEN, e.TurnedBack(at=9.0, reason="asked")).detail


@pytest.mark.parametrize(
    "plan, events, cause, reason",
    [
        (
            BLUNT,
            (*CALLED, DOUBT),
            ParkCause.IN_DOUBT,
            "charge is in doubt and psp can neither repeat it safely nor be asked: no answer",
        ),
        (
            PLAN,
            (*CALLED, replace(DOUBT, changed=True, reason="another body")),
            ParkCause.REQUEST_CHANGED,
            "another body",
        ),
        (
            PIVOTED,
            (*HELD, *UNSURE),
            ParkCause.PIVOT_IN_DOUBT,
            "the pivot is in doubt: pay: 409",
        ),
        (
            PIVOTED,
            (*HELD, *PAID, e.StepRefused(at=2.0, step="note", reason="no such row")),
            ParkCause.BEHIND_PIVOT,
            "behind the pivot: note: no such row",
        ),
        (replace(PLAN, misfit="no version fits"), CALLED[:1], ParkCause.MISFIT, "no version fits"),
    ],
)
def test_why_a_saga_waits_for_a_person(
    plan: Plan, events: tuple[e.Event, ...], cause: ParkCause, reason: str
) -> None:
    """The step, the doubt, and what was said last."""
    parked = e.Parked(at=9.0, cause=cause, reason=reason)
    assert (Record(event=parked),) == decide(plan, fold(plan, *events), 9.0)


def test_a_crash_loop_says_how_many_runs_were_lost() -> None:
    parked = e.Parked(
        at=9.0, cause=ParkCause.LOST_RUNS, reason="11 runs in a row were lost without progress"
    )
    assert (Record(event=parked),) == decide(PLAN, Saga(id="s", recoveries=11), 9.0)
    assert Record(event=parked) not in decide(PLAN, Saga(id="s", recoveries=10), 9.0)


UNDOING = StepState(
    phase=Phase.COMPENSATION_WAITING, order=0, result=ONE, compensation_attempts=2, error="503",
    compensation_since=5.0, compensation_started_at=5.0,
)  # fmt: skip


FORGOTTEN = (
    "not repeated, for psp has forgotten its key: resolve it if it has landed, otherwise retry it"
    " with --anew --new-key: 503"
)


def going_back(step: StepState, age: float = 10.0) -> Saga:
    """A saga on its way back, of that age at the instant 100."""
    return Saga(
        id="s", state=SagaState.COMPENSATING, length=9, updated_at=100.0, age=age,
        steps={"charge": step},
    )  # fmt: skip


@pytest.mark.parametrize(
    "step, age, certain, reason",
    [
        (UNDOING, 10.0, True, "gave up after 2 attempts: 503"),
        (
            replace(UNDOING, compensation_doubted=True),
            10.0,
            False,
            "gave up after 2 attempts: 503",
        ),
        (
            replace(UNDOING, compensation_attempts=1),
            5.0 + 3 * DAY,
            True,
            "gave up after 1 attempts: 503",
        ),
        (
            replace(UNDOING, compensation_attempts=1, compensation_doubted=True),
            5.0 + 3_600.0,
            False,
            FORGOTTEN,
        ),
        (
            replace(UNDOING, phase=Phase.IN_DOUBT, looked_for=True),
            5.0 + 3 * DAY,
            False,
            "undone, and psp did not say whether anything stands: 503",
        ),
    ],
)
def test_why_an_undo_is_given_up(step: StepState, age: float, certain: bool, reason: str) -> None:
    """How often it was tried; and whether no attempt can have had an effect."""
    refused = e.CompensationRefused(at=100.0, step="charge", reason=reason, certain=certain)
    assert (Record(event=refused),) == decide(PLAN, going_back(step, age), 100.0)
    younger = decide(PLAN, going_back(replace(step, compensation_attempts=1), 20.0), 100.0)
    assert Record(event=refused) not in younger


@pytest.mark.parametrize(
    "lasted, parks", [(NOT_UNDERSTOOD_SECONDS_MAX - 1.0, False), (3_600.0, True)]
)
def test_a_neighbour_that_never_answers_in_its_own_word_is_looked_at(
    lasted: float, parks: bool
) -> None:
    """After an hour; downstream parks the saga, upstream ends the messages to it."""
    plan = plan_of("payment", (), ("shipping",))
    step = replace(UNDOING, not_understood_since=5.0, compensation_attempts=1, due=100.0)
    saga = replace(going_back(step, 5.0 + lasted), steps={"forward:shipping": step})
    parked = e.Parked(
        at=100.0,
        cause=ParkCause.NOT_UNDERSTOOD,
        reason="shipping does not answer compensate in its own word: 503",
    )
    assert parks is ((Record(event=parked),) == decide(plan, saga, 100.0))

    late = Saga(
        id="s", state=SagaState.COMPENSATED, upstream="order", tell=Tell.DUE, tell_due=100.0,
        tell_error="503", tell_since=5.0, tell_not_understood_since=5.0, tell_attempts=3,
        length=9, updated_at=100.0, age=5.0 + lasted,
    )  # fmt: skip
    refused = e.TellRefused(at=100.0, reason="503", cause=ParkCause.NOT_UNDERSTOOD)
    assert parks is ((Record(event=refused),) == decide(plan, late, 100.0))
    away = e.TellRefused(
        at=100.0, reason="not reached in 3 attempts: 503", cause=ParkCause.UPSTREAM_AWAY
    )
    assert (Record(event=away),) == decide(plan, replace(late, age=5.0 + 3 * DAY), 100.0)


@pytest.mark.parametrize("lasted, parks", [(3 * DAY - 1.0, False), (3 * DAY, True)])
def test_a_call_that_may_not_be_repeated_is_looked_for_as_long_as_patience_lasts(
    lasted: float, parks: bool
) -> None:
    """To the last second of it; then a person has to look."""
    plan = plan_of("payment", (replace(CALL, idempotent=False, probed=True),))
    step = StepState(
        phase=Phase.IN_DOUBT, order=0, doubted=True, probes=6, since=5.0, error="cut off"
    )
    saga = replace(going_back(step, 5.0 + lasted), state=SagaState.ACTIVE)
    (command,) = decide(plan, saga, 100.0)
    assert parks is isinstance(command, Record)
    probe = Do(kind=AttemptKind.PROBE, step="charge")
    assert command == (in_doubt("cut off") if parks else probe)


def in_doubt(error: str) -> Record:
    """The park of that call."""
    reason = f"charge is in doubt and psp can neither repeat it safely nor be asked: {error}"
    return Record(event=e.Parked(at=100.0, cause=ParkCause.IN_DOUBT, reason=reason))
