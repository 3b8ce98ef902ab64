"""The verbs of an operator: the table of when each is allowed, and what each leaves (rule 14)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.machine import decide, evolve
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.core.steps import FORWARD_PREFIX, Plan
from stage.core.verbs import doubting_on_the_way_back, left_standing, made_anew, refuse_verb
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

PLAN, PIVOTED = plans.usual(), plans.pivoted()
WHO: dict[str, Any] = {"at": 9.0, "actor": "kim", "why": "by hand"}
RETRY, FORGET = e.Retried(**WHO), e.Forgotten(**WHO)
LANDED = e.Settled(**WHO, step="charge", landed=True, result=ONE)
NOT_LANDED = e.Settled(**WHO, step="charge", landed=False)
RESOLVE, ABANDON = e.Resolved(**WHO), e.Abandoned(**WHO)
APPROVE = e.Approved(**WHO, step="charge")
VERBS: dict[str, e.Verb] = {
    "retry": RETRY,
    "settle": LANDED,
    "resolve": RESOLVE,
    "abandon": ABANDON,
    "forget": FORGET,
    "approve": APPROVE,
}

OPEN = (
    e.Accepted(at=1.0, upstream="order"),
    e.StepSucceeded(at=1.0, step="reserve", result=ONE),
)
CALLED = (*OPEN, e.StepStarted(at=1.0, step="charge", attempt=1))
DOUBTED = (*CALLED, e.StepInDoubt(at=2.0, step="charge", reason="no answer"))
PARKED = e.Parked(at=3.0, cause=ParkCause.IN_DOUBT, reason="nobody knows")
CHARGED = (*CALLED, e.StepSucceeded(at=2.0, step="charge", result=ONE))
UNDOING = (
    *CHARGED,
    e.CompensationRequested(at=3.0, requested_by="operator kim"),
    e.CompensationStarted(at=3.0, step="charge", attempt=1),
)
UNDO_WAITS = (*UNDOING, e.CompensationDelayed(at=4.0, step="charge", reason="503"))
UNDO_FAILED = (*UNDOING, e.CompensationRefused(at=4.0, step="charge", reason="no refunds"))
FAILED = (
    *UNDO_FAILED,
    e.CompensationSucceeded(at=5.0, step="reserve"),
    e.FailedToCompensate(at=5.0, stands=("charge",)),
)
COMPLETED = (
    *CHARGED,
    e.StepSucceeded(at=2.0, step="record", result=ONE),
    e.StepSucceeded(at=2.0, step="forward:shipping", result=ONE),
    e.Completed(at=2.0),
)
LATE = (
    *COMPLETED,
    e.CompensationRequested(at=3.0, requested_by="shipping", compensated=True),
    e.CompensationSucceeded(at=3.0, step="charge"),
    e.CompensationSucceeded(at=3.0, step="reserve"),
    e.Compensated(at=3.0),
)
NOTIFYING = (*LATE, e.TellStarted(at=3.0, attempt=1))
NOT_NOTIFIED = (*NOTIFYING, e.TellRefused(at=4.0, reason="no", cause=ParkCause.UPSTREAM_CANNOT))

FLIES, WAITS = "an attempt is in flight", "nothing of it waits"
ON_ITS_WAY, ENDED = "still on its way forward", "it has ended"
NO_DOUBT, NO_UNDO = "no step of it is in doubt", "nothing of it failed to be undone"
WORKED_ON, NO_APPROVAL = "still being worked on", "does not await approval"
NOT_ACTIVE = "no approval is asked for"
GONE = "the saga is forgotten"


@pytest.mark.parametrize(
    "events, refusals",
    [
        (OPEN, (WAITS, NO_DOUBT, NO_UNDO, ON_ITS_WAY, WORKED_ON, NO_APPROVAL)),
        (CALLED, (FLIES,) * 6),
        (
            (*CALLED, e.StepTransient(at=2.0, step="charge")),
            (None, NO_DOUBT, NO_UNDO, ON_ITS_WAY, WORKED_ON, NO_APPROVAL),
        ),
        (DOUBTED, (None, None, NO_UNDO, ON_ITS_WAY, WORKED_ON, NO_APPROVAL)),
        ((*DOUBTED, PARKED), (None, None, NO_UNDO, None, None, "it is parked, and decided when")),
        (
            CHARGED,
            (WAITS, NO_DOUBT, NO_UNDO, ON_ITS_WAY, WORKED_ON, "has been decided, or has run"),
        ),
        (UNDOING, (FLIES,) * 6),
        (UNDO_WAITS, (None, NO_DOUBT, None, None, WORKED_ON, NOT_ACTIVE)),
        (UNDO_FAILED, (WAITS, NO_DOUBT, None, None, WORKED_ON, NOT_ACTIVE)),
        (FAILED, (None, NO_DOUBT, None, ENDED, None, NOT_ACTIVE)),
        (COMPLETED, (WAITS, NO_DOUBT, NO_UNDO, ENDED, None, NOT_ACTIVE)),
        (LATE, (None, NO_DOUBT, NO_UNDO, ENDED, None, NOT_ACTIVE)),
        (NOTIFYING, (FLIES,) * 6),
        (NOT_NOTIFIED, (None, NO_DOUBT, NO_UNDO, ENDED, None, NOT_ACTIVE)),
        ((*LATE, FORGET), (GONE,) * 6),
        ((*DOUBTED, PARKED, FORGET), (GONE,) * 6),
    ],
    ids=[
        *("goes on", "in flight", "tried again later", "in doubt", "parked in doubt", "charged"),
        *("undo in flight", "undo waits", "undo failed", "failed to compensate", "completed"),
        *("upstream to be notified", "notifying upstream", "upstream cannot", "forgotten"),
        "forgotten in doubt",
    ],
)
def test_when_each_verb_is_allowed(
    events: tuple[e.Event, ...], refusals: tuple[str | None, ...]
) -> None:
    """The refusal says why, and the way out; None where the verb is allowed."""
    saga = fold(PLAN, *events)
    for (name, verb), refusal in zip(VERBS.items(), refusals, strict=True):
        found = refuse_verb(PLAN, saga, verb)
        assert (refusal is None) is (found is None), (name, found)
        assert (refusal or "") in (found or ""), name


def test_a_refusal_names_what_is_in_flight() -> None:
    assert "in flight (charge)" in (refuse_verb(PLAN, fold(PLAN, *CALLED), RETRY) or "")
    assert "in flight (telling upstream)" in (
        refuse_verb(PLAN, fold(PLAN, *NOTIFYING), RETRY) or ""
    )


def test_a_saga_of_a_newer_release_is_left_to_it() -> None:
    """This release cannot know the effect of any verb on it."""
    newer = replace(PLAN, misfit="version 3 accepted it", newer=True)
    for verb in VERBS.values():
        found = refuse_verb(newer, fold(PLAN, *DOUBTED, PARKED), verb)
        assert "version 3 accepted it: it goes on when that release" in (found or "")


def test_a_saga_that_fits_no_version_can_only_be_ended() -> None:
    """A retry would run code that may not be its own; all else is a person's word (rule 32)."""
    misfit = replace(PLAN, misfit="no version fits")
    parked = fold(PLAN, *CHARGED, replace(PARKED, cause=ParkCause.MISFIT))
    assert "no version fits; until then" in (refuse_verb(misfit, parked, RETRY) or "")
    for verb in (RESOLVE, replace(RESOLVE, step="charge"), ABANDON, FORGET):
        assert refuse_verb(misfit, parked, verb) is None
    assert "no version fits" in (refuse_verb(misfit, parked, APPROVE) or "")
    assert refuse_verb(misfit, fold(PLAN, *NOT_NOTIFIED), RETRY) is None


@pytest.mark.parametrize(
    "events, verb, said",
    [
        (DOUBTED, replace(LANDED, step="gone"), "there is no step 'gone': the steps are reserve"),
        (DOUBTED, replace(LANDED, step="reserve"), "'reserve' is not in doubt; in doubt: charge"),
        (UNDO_WAITS, replace(RESOLVE, step="reserve"), "those that do: charge"),
        ((*DOUBTED, PARKED), replace(ABANDON, step="record"), "of these: reserve, charge"),
        (UNDO_WAITS, replace(RETRY, anew=True, step="reserve"), "those that do: charge"),
        (DOUBTED, replace(RETRY, anew=True), "only that can be made anew"),
    ],
)
def test_a_refusal_lists_the_steps_that_the_verb_is_for(
    events: tuple[e.Event, ...], verb: e.Verb, said: str
) -> None:
    assert said in (refuse_verb(PLAN, fold(PLAN, *events), verb) or "")


def test_one_new_key_is_ordered_for_one_undo() -> None:
    """Of several undos that wait, the order names one; only those of calls can be made anew."""
    plan = plans.grouped()
    failed = [e.CompensationRefused(at=4.0, step=name, reason="no") for name in ("north", "south")]
    both = fold(
        plan,
        e.Accepted(at=1.0),
        *(e.StepStarted(at=1.0, step=name, attempt=1) for name in ("north", "south")),
        *(e.StepSucceeded(at=1.0, step=name, result=ONE) for name in ("north", "south")),
        e.TurnedBack(at=2.0),
        *(e.CompensationStarted(at=2.0, step=name, attempt=1) for name in ("north", "south")),
        *failed,
        e.FailedToCompensate(at=4.0, stands=("north", "south")),
    )
    assert ["north", "south"] == made_anew(plan, both)
    anew = replace(RETRY, anew=True)
    assert refuse_verb(plan, both, anew) is None
    assert "name a step of north, south" in (
        refuse_verb(plan, both, replace(anew, new_key=True)) or ""
    )
    assert refuse_verb(plan, both, replace(anew, new_key=True, step="south")) is None


# --- what each leaves ---


USED = StepState(
    phase=Phase.IN_DOUBT,
    order=1,
    attempts=5,
    doubted=True,
    final=True,
    changed=True,
    probes=6,
    not_there=1,
    pendings=9,
    pending_since=3.0,
    not_understood_since=2.0,
    since=1.0,
    compensation_since=1.0,
    compensation_attempts=4,
    due=500.0,
)
"""A step of which all is used up that an attempt can use."""
LIVED = Saga(id="s", length=3, age=5.0, updated_at=7.0, parked="x", parked_cause=ParkCause.IN_DOUBT)
AGE = 7.0
"""Of that saga at the instant of the verb."""


def after(verb: e.Verb, step: StepState = USED, *, plan: Plan = PLAN, **saga: Any) -> StepState:
    """The step `charge` behind the verb."""
    return evolve(plan, replace(LIVED, steps={"charge": step}, **saga), verb).steps["charge"]


def test_a_retry_begins_all_anew_and_now() -> None:
    """No attempt, no time and no flag of before counts; what happened stays known."""
    expected = replace(
        USED, due=9.0, forgiven=5, compensation_forgiven=4, final=False, changed=False, probes=0,
        not_there=0, pendings=0, pending_since=AGE, not_understood_since=None, since=AGE,
        compensation_since=None,
    )  # fmt: skip
    assert expected == after(RETRY)
    assert after(RETRY, replace(USED, pending_since=None)).pending_since is None


@pytest.mark.parametrize("times, kept", [(0, 0), (1, 0), (2, 2), (3, 3)])
def test_a_retry_keeps_what_was_found_not_there_twice(times: int, kept: int) -> None:
    """The next probe comes at once, and two that are to count have to be apart (rule 5)."""
    assert kept == after(RETRY, replace(USED, not_there=times)).not_there


@pytest.mark.parametrize(
    "phase, state, then",
    [
        (Phase.REFUSED, SagaState.ACTIVE, Phase.REFUSED),
        (Phase.REFUSED, SagaState.COMPENSATING, Phase.REFUSED),
        (Phase.SUCCEEDED, SagaState.ACTIVE, Phase.SUCCEEDED),
        (Phase.PENDING, SagaState.ACTIVE, Phase.PENDING),
        (Phase.COMPENSATION_FAILED, SagaState.COMPENSATING, Phase.COMPENSATION_WAITING),
        (Phase.COMPENSATED, SagaState.COMPENSATING, Phase.COMPENSATED),
    ],
)
def test_a_retry_takes_up_what_was_given_up(phase: Phase, state: SagaState, then: Phase) -> None:
    """On the way back an undo that failed. For refusals see test_given_up.py."""
    step = replace(USED, phase=phase, stands=("there",))
    found = after(RETRY, step, state=state)
    assert then is found.phase
    assert (() if then is Phase.COMPENSATION_WAITING else ("there",)) == found.stands
    assert (
        9.0 if then in (Phase.WAITING, Phase.PENDING, Phase.COMPENSATION_WAITING) else 500.0
    ) == (found.due)


def test_a_retry_takes_up_the_whole_saga() -> None:
    """It is parked no more, goes back where an undo had failed, and upstream is notified now."""
    saga = fold(PLAN, *FAILED, RETRY)
    assert (SagaState.COMPENSATING, (), "", None) == (
        saga.state, saga.stands, saga.parked, saga.parked_cause,
    )  # fmt: skip
    assert (Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2),) == decide(PLAN, saga, 9.0)

    busy = e.TellDelayed(at=4.0, reason="login page", not_understood=True, retry_after=60.0)
    for before in (NOT_NOTIFIED, (*NOTIFYING, busy)):
        again = fold(PLAN, *before, RETRY)
        assert (Tell.DUE, 9.0, None, None) == (
            again.tell, again.tell_due, again.tell_since, again.tell_not_understood_since,
        )  # fmt: skip
        assert ("", None, SagaState.COMPENSATED) == (
            again.parked, again.parked_cause, again.state,
        )  # fmt: skip
        assert (Do(kind=AttemptKind.TELL, attempt=2),) == decide(PLAN, again, 9.0)
    assert Tell.NO is fold(PLAN, *DOUBTED, RETRY).tell


def test_an_undo_ordered_anew_has_its_request_made_again() -> None:
    """Under the same key its time runs on; under a new one the API has heard nothing of it yet."""
    request = e.Request(method="POST", path="/refunds")
    step = replace(
        USED, phase=Phase.COMPENSATION_WAITING, compensation_requests=(request,),
        compensation_started_at=4.0,
    )  # fmt: skip
    back: dict[str, Any] = {"state": SagaState.COMPENSATING}
    plain, same, other = (
        after(replace(RETRY, anew=anew, new_key=new_key), step, **back)
        for anew, new_key in ((False, False), (True, False), (True, True))
    )
    assert ((request,), 1, 4.0) == _undo(plain)
    assert ((), 1, 4.0) == _undo(same)
    assert ((), 2, None) == _undo(other)
    elsewhere = after(replace(RETRY, anew=True, step="reserve"), step, **back)
    assert ((request,), 1, 4.0) == _undo(elsewhere)


def _undo(step: StepState) -> tuple[tuple[e.Request, ...], int, float | None]:
    return (step.compensation_requests, step.compensation_keys, step.compensation_started_at)


def test_a_person_says_that_it_landed() -> None:
    """The doubt is over, and the result is the person's."""
    step = replace(USED, may_come=True, error="no answer")
    expected = replace(
        step, phase=Phase.SUCCEEDED, doubted=False, may_come=False, result=ONE, error="", due=9.0
    )
    assert expected == after(LANDED, step)


@pytest.mark.parametrize(
    "phase, state, then",
    [
        (Phase.IN_DOUBT, SagaState.ACTIVE, Phase.WAITING),
        (Phase.IN_DOUBT, SagaState.COMPENSATING, Phase.REFUSED),
        (Phase.REFUSED, SagaState.ACTIVE, Phase.REFUSED),
    ],
)
def test_a_person_says_that_it_did_not_land(phase: Phase, state: SagaState, then: Phase) -> None:
    """It is made again by today's code, its attempts forgiven; one that was refused stays so."""
    request = e.Request(method="POST", path="/charges")
    step = replace(USED, phase=phase, may_come=True, requests=(request,))
    expected = replace(
        step, phase=then, doubted=False, may_come=False, requests=(), due=9.0, forgiven=5,
        changed=False, not_there=0, pendings=0, pending_since=None,
    )  # fmt: skip
    assert expected == after(NOT_LANDED, step, state=state)


def test_a_settled_saga_goes_on() -> None:
    for verb, following in (
        (LANDED, Do(kind=AttemptKind.EXECUTE, step="record")),
        (NOT_LANDED, Do(kind=AttemptKind.EXECUTE, step="charge", attempt=2)),
    ):
        saga = fold(PLAN, *DOUBTED, PARKED, verb)
        assert ("", None) == (saga.parked, saga.parked_cause)
        assert (following,) == decide(PLAN, saga, 9.0)


def test_a_step_that_a_person_undid_counts_as_undone() -> None:
    """One step, or all that wait or failed; the saga goes back and ends."""
    for verb in (RESOLVE, replace(RESOLVE, step="charge")):
        saga = fold(PLAN, *FAILED, verb)
        step = saga.steps["charge"]
        assert (Phase.COMPENSATED, "", ()) == (step.phase, step.error, step.stands)
        assert (SagaState.COMPENSATING, (), "", None) == (
            saga.state, saga.stands, saga.parked, saga.parked_cause,
        )  # fmt: skip
        assert (Record(event=e.Compensated(at=9.0)),) == decide(PLAN, saga, 9.0)


def test_a_saga_that_is_resolved_notifies_the_upstream_that_could_not_be_notified() -> None:
    """The park was all that said that upstream still believes the yes (rule 22)."""
    stands = (*COMPLETED, LATE[len(COMPLETED)], *UNDO_FAILED[-2:], *FAILED[-2:])
    for cause in (ParkCause.UPSTREAM_CANNOT, ParkCause.UPSTREAM_AWAY):
        refused = e.TellRefused(at=7.0, reason="answered 422", cause=cause)
        saga = fold(PLAN, *stands, e.TellStarted(at=6.0, attempt=1), refused, RESOLVE)
        assert ("", Tell.DUE, 9.0, None) == (
            saga.parked, saga.tell, saga.tell_due, saga.tell_since,
        )  # fmt: skip
        over = fold(PLAN, e.Compensated(at=9.0), saga=saga)
        assert (Do(kind=AttemptKind.TELL, attempt=2),) == decide(PLAN, over, 9.0)
    delivered = fold(PLAN, *stands, e.TellStarted(at=6.0, attempt=1), e.TellDelivered(at=7.0))
    assert Tell.DELIVERED is fold(PLAN, RESOLVE, saga=delivered).tell


def test_a_step_that_a_person_gave_up_is_reported() -> None:
    """All that may stand; the reason of before stays, and neighbours do not read the person's."""
    saga = fold(PLAN, *DOUBTED, PARKED, ABANDON)
    assert {"reserve", "charge"} == {
        name for name, step in saga.steps.items() if step.phase is Phase.COMPENSATION_FAILED
    }
    assert ("abandoned: by hand", "an operator has abandoned it") == (saga.reason, saga.detail)
    assert (SagaState.COMPENSATING, "", None) == (saga.state, saga.parked, saga.parked_cause)
    assert {"abandoned"} == {step.error for step in saga.steps.values()}
    assert (Record(event=e.FailedToCompensate(at=9.0, stands=("reserve", "charge"))),) == decide(
        PLAN, saga, 9.0
    )
    one = fold(PLAN, *UNDO_WAITS, replace(ABANDON, step="charge"))
    assert Phase.COMPENSATION_FAILED is one.steps["charge"].phase
    assert "operator kim asked to compensate" == one.reason == one.detail
    assert (Do(kind=AttemptKind.COMPENSATE, step="reserve"),) == decide(PLAN, one, 9.0)


def test_a_saga_that_was_forgotten_is_left_alone() -> None:
    """Nobody is notified any more, and it waits for nobody."""
    saga = fold(PLAN, *NOT_NOTIFIED, FORGET)
    assert (True, "", None, Tell.NO) == (
        saga.forgotten, saga.parked, saga.parked_cause, saga.tell,
    )  # fmt: skip


@pytest.mark.parametrize(
    "step, stands",
    [
        (replace(USED, doubted=False), False),
        (USED, True),
        (replace(USED, doubted=False, may_come=True), True),
        (replace(USED, doubted=False, result=ONE), True),
        (replace(USED, phase=Phase.COMPENSATED), False),
    ],
)
def test_the_effects_that_are_left_to_be_undone(step: StepState, stands: bool) -> None:
    """Effects that may stand, of steps that have an undo, or a doubt that nobody has settled."""
    saga = replace(LIVED, steps={"charge": step})
    assert (["charge"] if stands else []) == left_standing(PLAN, saga)


def test_the_effect_of_a_step_without_an_undo_counts_behind_the_pivot_alone() -> None:
    """Before it, such a step leaves nothing that should not stay; a doubt about it does."""
    done = replace(USED, phase=Phase.SUCCEEDED, doubted=False, result=ONE)
    noted = replace(LIVED, steps={"note": done})
    assert [] == left_standing(PIVOTED, noted)
    assert ["note"] == left_standing(PIVOTED, replace(LIVED, steps={"note": USED}))
    paid = replace(LIVED, steps={"pay": done, "note": done})
    assert ["pay", "note"] == left_standing(PIVOTED, paid)
    assert "behind its pivot" in (refuse_verb(PIVOTED, paid, replace(ABANDON, step="note")) or "")
    assert refuse_verb(PIVOTED, paid, ABANDON) is None


@pytest.mark.parametrize(
    "phase, members, changes",
    [
        (Phase.PENDING, {}, {"phase": Phase.IN_DOUBT, "due": 9.0}),
        (
            Phase.WAITING,
            {"may_come": True},
            {"phase": Phase.IN_DOUBT, "probes": 0, "not_there": 0, "due": 9.0},
        ),
        (
            Phase.REFUSED,
            {"may_come": True},
            {"phase": Phase.IN_DOUBT, "probes": 0, "not_there": 0, "due": 9.0},
        ),
        (Phase.SUCCEEDED, {"may_come": True}, {}),
        (Phase.WAITING, {}, {}),
        (
            Phase.AWAITING_APPROVAL,
            {"shown": ONE},
            {
                "phase": Phase.REFUSED,
                "error": "the saga was to be undone before it was approved",
                "said": "the saga was to be undone before it was approved",
                "shown": None,
            },
        ),
    ],
)
def test_on_the_way_back_nobody_is_waited_for(
    phase: Phase, members: dict[str, Any], changes: dict[str, Any]
) -> None:
    """A call that pends, or may come, is looked for at once; nobody is asked any more."""
    step = replace(USED, phase=phase, **members)
    after = doubting_on_the_way_back(PLAN, {"charge": step}, 9.0)
    assert {"charge": replace(step, **changes)} == after
    if members.get("may_come"):
        unprobed = doubting_on_the_way_back(plans.unprobed(), {"charge": step}, 9.0)
        assert {"charge": step} == unprobed
        assert {"gone": step} == doubting_on_the_way_back(PLAN, {"gone": step}, 9.0)


def test_a_forward_is_no_call_whose_undo_is_made_anew() -> None:
    """Its request to compensate has one form, and downstream knows the saga by its id."""
    name = f"{FORWARD_PREFIX}shipping"
    waits = replace(USED, phase=Phase.COMPENSATION_WAITING)
    assert [] == made_anew(PLAN, replace(LIVED, steps={name: waits}))
    assert ["charge"] == made_anew(PLAN, replace(LIVED, steps={"charge": waits, name: waits}))
