"""Every park has a verb that is accepted, and a refusal there names such a verb and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.lost import journal_of
from stage.core.machine import decide, evolve
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import ParkCause, SagaState
from stage.core.steps import Plan, Step, StepKind, plan_of
from stage.core.verbs import refuse_verb
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.test_policies import DOUBT, HOUR, LOOKS, STARTED, UNDONE, plan_with
from tests.unit.core.test_verbs import (
    CHARGED,
    COMPLETED,
    DOUBTED,
    FAILED,
    LATE,
    NOT_NOTIFIED,
    OPEN,
    UNDO_FAILED,
    UNDO_WAITS,
    WHO,
)
from tests.unit.core.world import ONE

USUAL, PIVOTED = plans.usual(), plans.pivoted()
KEYLESS = plan_of(
    "payment",
    (
        Step(name="reserve", kind=StepKind.TRANSACTION, compensatable=True),
        Step(
            name="charge",
            kind=StepKind.CALL,
            peer="psp",
            compensatable=True,
            idempotent=False,
        ),
    ),
    ("shipping",),
)
MISFIT = replace(USUAL, misfit="step 'charge' had a compensation, and has none now")
BACK = e.CompensationRequested(at=3.0, requested_by="order")
HELD = (e.Accepted(at=1.0), e.StepSucceeded(at=1.0, step="hold", result=ONE))
PAYING = (*HELD, e.StepStarted(at=1.0, step="pay", attempt=1))
PAY_DOUBTED = (*PAYING, e.StepInDoubt(at=2.0, step="pay", reason="no answer"))
PAID = (*PAYING, e.StepSucceeded(at=2.0, step="pay", result=ONE))
NOTE_REFUSED = (*PAID, e.StepRefused(at=3.0, step="note", reason="no"))
NOTE_DOUBTED = (*PAID, e.StepRefused(at=3.0, step="note", reason="no", may_stand=True))
HANDED_ON = (
    *COMPLETED,
    replace(BACK, requested_by="operator kim"),
    e.CompensationStarted(at=3.0, step="forward:shipping", attempt=1),
    e.CompensationDelayed(at=4.0, step="forward:shipping", reason="a page", not_understood=True),
)
GIVEN_UP = (
    *DOUBTED,
    e.Parked(at=3.0, cause=ParkCause.IN_DOUBT, reason="nobody knows"),
    e.Abandoned(**WHO),
    e.FailedToCompensate(at=9.0, stands=("reserve", "charge")),
)
STANDS_AND_NOT_NOTIFIED = (
    *COMPLETED,
    e.CompensationRequested(at=3.0, requested_by="shipping", compensated=True),
    e.CompensationStarted(at=3.0, step="charge", attempt=1),
    e.CompensationRefused(at=4.0, step="charge", reason="no refunds"),
    e.CompensationSucceeded(at=5.0, step="reserve"),
    e.FailedToCompensate(at=5.0, stands=("charge",)),
    e.TellStarted(at=6.0, attempt=1),
)
LOST = {"upstream": "order", "asked": None, "at": 1.0, "generation": 2}

C = ParkCause
PARKS: list[tuple[ParkCause, Plan, tuple[e.Event, ...]]] = [
    (C.IN_DOUBT, KEYLESS, DOUBTED),
    (C.IN_DOUBT, KEYLESS, (*DOUBTED, BACK)),
    (C.PIVOT_IN_DOUBT, PIVOTED, PAY_DOUBTED),
    (C.PIVOT_IN_DOUBT, PIVOTED, (*PAY_DOUBTED, BACK)),
    (C.BEHIND_PIVOT, PIVOTED, NOTE_REFUSED),
    (C.BEHIND_PIVOT, PIVOTED, NOTE_DOUBTED),
    (C.OUTPUT_FAILED, PIVOTED, (*PAID, e.StepSucceeded(at=3.0, step="note", result=ONE))),
    (C.LOST_RUNS, USUAL, CHARGED),
    (C.LOST_RUNS, USUAL, UNDO_WAITS),
    (C.KILLS_PROCESS, USUAL, OPEN[:1]),
    (C.KILLS_PROCESS, USUAL, UNDO_WAITS),
    (C.KILLS_PROCESS, PIVOTED, PAY_DOUBTED),
    (C.FAILED_TO_COMPENSATE, USUAL, FAILED),
    (C.FAILED_TO_COMPENSATE, USUAL, GIVEN_UP),
    (C.FAILED_TO_COMPENSATE, MISFIT, FAILED),
    (C.UPSTREAM_CANNOT, USUAL, NOT_NOTIFIED),
    (C.UPSTREAM_CANNOT, MISFIT, NOT_NOTIFIED),
    (
        C.UPSTREAM_AWAY,
        USUAL,
        (*STANDS_AND_NOT_NOTIFIED, e.TellRefused(at=7.0, reason="no", cause=C.UPSTREAM_AWAY)),
    ),
    (C.NOT_UNDERSTOOD, USUAL, HANDED_ON),
    (C.NOT_UNDERSTOOD, USUAL, NOT_NOTIFIED),
    (C.REQUEST_CHANGED, USUAL, DOUBTED),
    (C.MISFIT, MISFIT, OPEN[:1]),
    (C.MISFIT, MISFIT, DOUBTED),
    (C.MISFIT, MISFIT, CHARGED),
    (C.MISFIT, MISFIT, UNDO_WAITS),
    (C.LOST, USUAL, tuple(journal_of(USUAL, (), **LOST))),  # type: ignore[arg-type]
    (C.LOST, PIVOTED, tuple(journal_of(PIVOTED, (), **LOST))),  # type: ignore[arg-type]
    (C.DEFECT, USUAL, OPEN[:1]),
    (C.DEFECT, USUAL, DOUBTED),
    (C.DEFECT, PIVOTED, PAID),
    (C.DEFECT, USUAL, UNDO_WAITS),
]
"""Each cause as the saga may stand then."""
BY_ROW = {C.LANDED_LATE, C.JOURNAL_MISMATCH}
"""Of one the row alone is left, and of the other no journal can be read: each can be forgotten."""
GOING_ON: list[tuple[Plan, tuple[e.Event, ...]]] = [
    (USUAL, OPEN),
    (USUAL, DOUBTED),
    (USUAL, (*DOUBTED, BACK)),
    (KEYLESS, DOUBTED),
    (PIVOTED, PAY_DOUBTED),
    (PIVOTED, (*PAY_DOUBTED, BACK)),
    (PIVOTED, PAID),
    (PIVOTED, (*PAID, e.StepTransient(at=3.0, step="note"))),
    (USUAL, UNDO_WAITS),
    (USUAL, UNDO_FAILED),
    (USUAL, COMPLETED),
    (USUAL, LATE),
    (MISFIT, DOUBTED),
    (plan_with(**LOOKS), (*STARTED, DOUBT, *UNDONE)),
]
"""Sagas that no person is waited for, the most of them with a doubt or a wait."""
NAMED = re.compile(r"\b(retry|approve|reject|settle|compensate|resolve|abandon|forget|erase)\b")
NO_VERB = re.compile(r"nothing (is left )?to \w+|failed to compensate")
"""Words of which one is that of a verb, and which order none."""


def parked(cause: ParkCause, plan: Plan, events: tuple[e.Event, ...]) -> Saga:
    """The saga as it waits for a person."""
    saga = fold(plan, *events)
    if saga.parked_cause is not cause:
        saga = evolve(plan, saga, e.Parked(at=8.0, cause=cause, reason="it was found so"))
    return saga


def orders(plan: Plan) -> Iterator[tuple[str, e.Verb]]:
    """Every verb in every form."""
    yield "retry", e.Retried(**WHO)
    yield "forget", e.Forgotten(**WHO)
    yield "resolve", e.Resolved(**WHO)
    yield "abandon", e.Abandoned(**WHO)
    for step in (*plan.by_name, "gone"):
        yield "retry anew", e.Retried(**WHO, anew=True, step=step)
        yield "retry anew", e.Retried(**WHO, anew=True, new_key=True, step=step)
        yield "settle", e.Settled(**WHO, step=step, landed=False)
        yield "resolve", e.Resolved(**WHO, step=step)
        yield "abandon", e.Abandoned(**WHO, step=step)
        yield "approve", e.Approved(**WHO, step=step)
        yield "reject", e.Rejected(**WHO, step=step)


def judged(plan: Plan, saga: Saga) -> tuple[set[str], list[tuple[str, str]]]:
    """The verbs that are accepted in some form, and the forms that are refused, with the reason."""
    found = [(name, refuse_verb(plan, saga, verb)) for name, verb in orders(plan)]
    accepted = {name for name, why in found if why is None}
    if turns_back(plan, saga) and not plan.misfit:
        accepted.add("compensate")
    return accepted, [(name, why) for name, why in found if why is not None]


def named(why: str) -> set[str]:
    """The verbs that a refusal names."""
    return set(NAMED.findall(NO_VERB.sub("", why)))


def turns_back(plan: Plan, saga: Saga) -> bool:
    """Whether a request to compensate of an operator makes it go back, which it did not before."""
    asked = e.CompensationRequested(
        at=9.0, requested_by="operator kim", requester=Requester.OPERATOR
    )
    after = evolve(plan, saga, asked)
    return saga.state is SagaState.ACTIVE and after.state is SagaState.COMPENSATING


@pytest.mark.parametrize("cause, plan, events", PARKS, ids=lambda each: getattr(each, "value", ""))
def test_a_refusal_of_a_parked_saga_names_a_verb_that_works(
    cause: ParkCause, plan: Plan, events: tuple[e.Event, ...]
) -> None:
    """And none that is refused as well; a retry alone parks some again at once."""
    saga = parked(cause, plan, events)
    accepted, refused = judged(plan, saga)
    assert "forget" in accepted and len(accepted) > 1 and refused
    for name, why in refused:
        assert named(why) and named(why) <= accepted, (name, why)


@pytest.mark.parametrize("plan, events", GOING_ON)
def test_a_refusal_names_no_verb_that_is_refused_too(
    plan: Plan, events: tuple[e.Event, ...]
) -> None:
    """Nor one that would do nothing: a saga behind its pivot is not compensated."""
    accepted, refused = judged(plan, fold(plan, *events))
    for name, why in refused:
        assert named(why) <= accepted, (name, why)


def test_the_table_has_every_cause() -> None:
    assert set(ParkCause) - BY_ROW == {cause for cause, _, _ in PARKS}


# --- an undo that was answered and is looked for -------------------------------------------------


ANEW = e.Retried(**WHO, anew=True)


def looked_for() -> tuple[Plan, Saga]:
    """A charge in doubt was undone, and its probe is asked whether anything stands."""
    plan = plan_with(**LOOKS)
    return plan, fold(plan, *STARTED, DOUBT, *UNDONE)


@pytest.mark.parametrize("step", ["", "charge"])
def test_an_undo_that_is_looked_for_is_made_anew(step: str) -> None:
    """By today's code and under its key, where it cannot be another one; then it is looked for."""
    plan, saga = looked_for()
    order = replace(ANEW, step=step)
    assert refuse_verb(plan, saga, order) is None
    saga = fold(plan, order, saga=saga)
    assert (Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2),) == decide(plan, saga, 9.0)
    known = saga.steps["charge"]
    assert (1, (), False) == (
        known.compensation_keys, known.compensation_requests, known.looked_for,
    )  # fmt: skip
    again = e.CompensationStarted(at=9.0, step="charge", attempt=2)
    saga = fold(plan, again, e.CompensationSucceeded(at=10.0, step="charge"), saga=saga)
    assert (Do(kind=AttemptKind.PROBE, step="charge"),) == decide(plan, saga, 10.0)


@pytest.mark.parametrize("step", ["", "charge"])
def test_an_undo_that_is_looked_for_gets_no_new_key_by_a_guess(step: str) -> None:
    """The first may have undone it. A person who knows that it stands settles that."""
    plan, saga = looked_for()
    why = refuse_verb(plan, saga, replace(ANEW, new_key=True, step=step))
    assert why is not None and "settle" in why
    settled = e.Settled(**WHO, step="charge", landed=True, result=ONE)
    assert refuse_verb(plan, saga, settled) is None
    known = fold(plan, settled, saga=saga).steps["charge"]
    assert (2, ONE) == (known.compensation_keys, known.result)


def test_an_undo_that_was_answered_is_not_made_anew_under_a_key_that_was_forgotten() -> None:
    """It would be a second refund. A person who knows that it stands orders it under a new key."""
    plan = plan_with(**LOOKS, key_lifetime_seconds=HOUR)
    saga = fold(plan, replace(ANEW, at=2 * HOUR), saga=looked_for()[1])
    (kept,) = decide(plan, saga, 2 * HOUR)
    assert isinstance(kept, Record) and isinstance(kept.event, e.CompensationRefused)
    assert "has forgotten its key" in kept.event.reason and not kept.event.certain

    ended = e.FailedToCompensate(at=2 * HOUR, stands=("charge",))
    saga = fold(plan, kept.event, ended, saga=saga)
    order = replace(ANEW, at=2 * HOUR, new_key=True)
    assert refuse_verb(plan, saga, order) is None
    assert 2 == fold(plan, order, saga=saga).steps["charge"].compensation_keys


@pytest.mark.parametrize("step", ["", "charge"])
def test_an_undo_that_was_ordered_anew_gets_no_new_key_by_a_guess_either(step: str) -> None:
    """Its answer is still to come, and the look behind that: two undos would be made."""
    plan, saga = looked_for()
    saga = fold(plan, ANEW, saga=saga)
    new_key = replace(ANEW, new_key=True, step=step)
    why = refuse_verb(plan, saga, new_key)
    assert why is not None and "esolve" in why and "retry" in why
    resolved = e.Resolved(**WHO, step="charge")
    for named in (resolved, e.Retried(**WHO), ANEW):
        assert refuse_verb(plan, saga, named) is None
    again = e.CompensationStarted(at=9.0, step="charge", attempt=2)
    late = e.CompensationDelayed(at=9.0, step="charge", reason="a time-out")
    waits = fold(plan, again, late, saga=saga)
    assert refuse_verb(plan, waits, new_key) is not None
    no = e.CompensationRefused(at=9.0, step="charge", reason="answered 404")
    retried = fold(plan, again, no, e.Retried(**WHO), saga=saga)
    assert refuse_verb(plan, retried, new_key) is None
