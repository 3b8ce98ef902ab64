"""Repeats that an author or an operator forbids: after an end, or under a forgotten key."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Command, Do, Record
from stage.core.machine import decide, evolve, heard_before
from stage.core.retry import RetryPolicy
from stage.core.saga import Saga
from stage.core.states import Phase, SagaState
from stage.core.steps import Plan, Step, StepKind, adjusted, plan_of
from stage.core.verbs import refuse_verb
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

HOUR = 3_600.0
CHARGE = Step(name="charge", kind=StepKind.CALL, peer="psp", compensatable=True)
NULL = msgspec.Raw(b"null")


def plan_with(**rules: object) -> Plan:
    return plan_of("payment", (replace(CHARGE, **rules),))


def only(plan: Plan, saga: Saga, now: float) -> Command:
    (command,) = decide(plan, saga, now)
    return command


STARTED = (e.Accepted(at=0.0, upstream="order"), e.StepStarted(at=0.0, step="charge", attempt=1))
DOUBT = e.StepInDoubt(at=1.0, step="charge", reason="a timeout")


def turned_back(plan: Plan, saga: Saga, now: float) -> Saga:
    """The saga after the machine has given the step up."""
    turn = only(plan, saga, now)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack), turn
    return evolve(plan, saga, turn.event)


def test_an_end_that_is_never_retried_is_the_last_one() -> None:
    """A doubt of it is undone without a result, and what did not happen is not tried again."""
    plan = plan_with()
    saga = fold(plan, *STARTED, replace(DOUBT, final=True))
    undo = only(plan, turned_back(plan, saga, 1.0), 1.0)
    assert Do(kind=AttemptKind.COMPENSATE, step="charge") == undo

    certain = e.StepTransient(at=1.0, step="charge", reason="answered 429", final=True)
    back = turned_back(plan, fold(plan, *STARTED, certain), 1.0)
    assert isinstance(only(plan, back, 1.0), Record)  # nothing stands, nothing is undone


def test_a_doubt_that_is_never_retried_is_still_looked_for() -> None:
    """To ask is no repeat (rule 5)."""
    plan = plan_with(probed=True)
    saga = fold(plan, *STARTED, replace(DOUBT, final=True))
    due = saga.steps["charge"].due
    assert Do(kind=AttemptKind.PROBE, step="charge") == only(plan, saga, due)


def test_a_person_may_order_what_is_never_retried() -> None:
    """The word of the author is about what happens by itself."""
    plan = plan_of("payment", (replace(CHARGE, compensatable=False, pivot=True),))
    saga = fold(plan, *STARTED, replace(DOUBT, final=True))
    park = only(plan, saga, 1.0)
    assert isinstance(park, Record) and isinstance(park.event, e.Parked)

    retried = fold(plan, park.event, e.Retried(at=2.0, actor="kim", why="up"), saga=saga)

    assert Do(kind=AttemptKind.EXECUTE, step="charge", attempt=2) == only(plan, retried, 2.0)


def test_a_request_is_not_repeated_under_a_key_that_was_forgotten() -> None:
    """It would be a second charge: it is undone without a result, and before that repeated."""
    plan = plan_with(key_lifetime_seconds=HOUR)
    saga = fold(plan, *STARTED, DOUBT)
    due = saga.steps["charge"].due
    assert Do(kind=AttemptKind.EXECUTE, step="charge", attempt=2) == only(plan, saga, due)

    assert SagaState.COMPENSATING is turned_back(plan, saga, HOUR).state


def test_the_time_without_a_process_counts_against_a_key() -> None:
    """Patience is measured by the journal; the API forgets by its own clock (rule 34)."""
    plan = plan_with(key_lifetime_seconds=HOUR)
    saga = fold(plan, *STARTED, e.Recovered(at=24 * HOUR, epoch=2))
    assert SagaState.COMPENSATING is turned_back(plan, saga, 24 * HOUR).state


def test_a_request_without_an_effect_is_sent_after_the_key_was_forgotten() -> None:
    """Nothing stands under the key."""
    plan = plan_with(key_lifetime_seconds=HOUR)
    saga = fold(plan, *STARTED, e.StepTransient(at=1.0, step="charge", reason="refused"))
    again = Do(kind=AttemptKind.EXECUTE, step="charge", attempt=2)
    assert again == only(plan, saga, 2 * HOUR)


def test_an_undo_is_not_repeated_under_a_key_that_was_forgotten() -> None:
    """A second refund is money too: it is reported, and a new key begins a new life."""
    plan = plan_with(key_lifetime_seconds=HOUR)
    began = (
        e.TurnedBack(at=2.0, step="charge"),
        e.CompensationStarted(at=2.0, step="charge", attempt=1),
    )
    delayed = e.CompensationDelayed(at=3.0, step="charge", reason="a timeout")
    saga = fold(plan, *STARTED, DOUBT, *began, delayed)
    due = saga.steps["charge"].due
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == only(plan, saga, due)

    spent = only(plan, saga, 2.0 + HOUR)
    assert isinstance(spent, Record) and isinstance(spent.event, e.CompensationRefused)
    assert "has forgotten its key" in spent.event.reason and not spent.event.certain

    failed = fold(plan, spent.event, saga=saga)
    ended = only(plan, failed, 2.0 + HOUR)
    assert isinstance(ended, Record)
    order = e.Retried(at=3 * HOUR, actor="kim", why="looked", anew=True, new_key=True)
    again = only(plan, fold(plan, ended.event, order, saga=failed), 3 * HOUR)
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == again


UNDONE = (
    e.TurnedBack(at=2.0, step="charge"),
    e.CompensationStarted(at=2.0, step="charge", attempt=1),
    e.CompensationSucceeded(at=3.0, step="charge"),
)
LOOKS = {"probed": True, "probe_after_undo": True, "idempotent": True}


def looked(at: float, *, found: bool) -> tuple[e.Event, ...]:
    started = e.ProbeStarted(at=at, step="charge")
    if found:
        return started, e.ProbeFound(at=at, step="charge", result=ONE)
    return started, e.ProbeNotThere(at=at, step="charge")


def test_an_undo_without_a_result_is_looked_for() -> None:
    """Twice not there, apart: it is undone."""
    plan = plan_with(**LOOKS)
    saga = fold(plan, *STARTED, DOUBT, *UNDONE)
    assert Do(kind=AttemptKind.PROBE, step="charge") == only(plan, saga, 3.0)

    saga = fold(plan, *looked(3.0, found=False), saga=saga)
    assert Phase.IN_DOUBT is saga.steps["charge"].phase
    saga = fold(plan, *looked(9.0, found=False), saga=saga)

    assert Phase.COMPENSATED is saga.steps["charge"].phase
    ended = only(plan, saga, 9.0)
    assert isinstance(ended, Record) and isinstance(ended.event, e.Compensated)


def test_a_look_behind_an_undo_begins_anew() -> None:
    """An answer of the probe before the undo says nothing of what stands behind it."""
    plan = plan_with(**LOOKS)
    saga = fold(plan, *STARTED, DOUBT, *looked(1.5, found=False), *UNDONE)
    step = saga.steps["charge"]
    assert (Phase.IN_DOUBT, True, 0, 0, "", 3.0) == (
        step.phase, step.looked_for, step.probes, step.not_there, step.error, step.due,
    )  # fmt: skip
    once = fold(plan, *looked(3.0, found=False), saga=saga)
    assert Phase.IN_DOUBT is once.steps["charge"].phase


@pytest.mark.parametrize("probing", [False, True])
def test_a_webhook_behind_an_undo_orders_no_other(probing: bool) -> None:
    """It says that the call landed once, and the undo was for that: its probe says what stands."""
    plan = plan_with(**LOOKS, hooked=True)
    saga = fold(plan, *STARTED, DOUBT, *UNDONE)
    if probing:
        saga = fold(plan, e.ProbeStarted(at=3.0, step="charge"), saga=saga)
    for word in (
        e.WebhookFound(at=4.0, step="charge", result=ONE),
        e.WebhookRefused(at=4.0, step="charge", reason="declined"),
    ):
        assert heard_before(plan, saga, word)
        after = fold(plan, word, saga=saga)
        assert (saga.steps, saga.heard) == (after.steps, after.heard)


def test_an_effect_found_after_an_undo_is_undone_under_a_new_key() -> None:
    """The API would answer the former key with its former answer."""
    plan = plan_with(**LOOKS)
    saga = fold(plan, *STARTED, DOUBT, *UNDONE, *looked(3.0, found=True))
    step = saga.steps["charge"]
    assert (ONE, 2, ()) == (step.result, step.compensation_keys, step.compensation_requests)
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == only(plan, saga, 4.0)

    again = e.CompensationStarted(at=4.0, step="charge", attempt=2)
    saga = fold(plan, again, e.CompensationSucceeded(at=5.0, step="charge"), saga=saga)
    assert Phase.COMPENSATED is saga.steps["charge"].phase


@pytest.mark.parametrize("way", ["found by the probe", "by webhook behind a no", "settled"])
def test_an_effect_that_comes_to_light_behind_an_undo_has_a_request_of_its_own(way: str) -> None:
    """Under the former key its API would answer as before; no attempt and no time was used up."""
    once = RetryPolicy(attempts_max=1)
    plan = replace(plan_with(**LOOKS, hooked=True, compensation=once), patience_seconds=HOUR)
    saga = fold(plan, *STARTED, DOUBT, *UNDONE, e.ProbeStarted(at=3.0, step="charge"))
    at = 3.0
    while saga.age < HOUR:  # the API is away for as long as patience lasts
        failed = e.ProbeFailed(at=at, step="charge", reason="answered 503")
        saga = fold(plan, failed, e.ProbeStarted(at=at, step="charge"), saga=saga)
        at += 300.0
    match way:
        case "found by the probe":
            words: tuple[e.Event, ...] = (e.ProbeFound(at=at, step="charge", result=ONE),)
        case "by webhook behind a no":
            no = e.ProbeRefused(at=at, step="charge", reason="declined")
            words = no, e.Compensated(at=at), e.WebhookFound(at=at, step="charge", result=ONE)
        case _:
            failed = e.ProbeFailed(at=at, step="charge", reason="answered 503")
            words = failed, e.Settled(at=at, **KIM, step="charge", landed=True, result=ONE)
    saga = fold(plan, *words, saga=saga)
    step = saga.steps["charge"]
    assert (ONE, 2, ()) == (step.result, step.compensation_keys, step.compensation_requests)
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == only(plan, saga, at)


def test_an_undo_with_a_result_is_not_looked_for() -> None:
    """The effect that was undone is known."""
    plan = plan_with(**LOOKS)
    saga = fold(plan, *STARTED, e.StepSucceeded(at=1.0, step="charge", result=ONE), *UNDONE)
    assert Phase.COMPENSATED is saga.steps["charge"].phase


def test_an_api_that_never_says_whether_it_stands_is_asked_with_patience_and_reported() -> None:
    """An undo that nobody confirms is not called undone (rule 12)."""
    plan = replace(plan_with(**LOOKS), patience_seconds=HOUR)
    saga = fold(plan, *STARTED, DOUBT, *UNDONE)
    at = 3.0
    while saga.age < HOUR:
        failed = e.ProbeFailed(at=at, step="charge", reason="answered 503")
        saga = fold(plan, e.ProbeStarted(at=at, step="charge"), failed, saga=saga)
        at += 60.0
    spent = only(plan, saga, at + 60.0)
    assert isinstance(spent, Record) and isinstance(spent.event, e.CompensationRefused)
    assert "did not say whether anything stands" in spent.event.reason


KIM: dict[str, Any] = {"actor": "kim", "why": "the psp is back"}


def unsure(plan: Plan) -> Saga:
    """A charge in doubt was undone, and its API did not say whether anything stands."""
    failed = e.ProbeFailed(at=4.0, step="charge", reason="answered 503")
    spent = e.CompensationRefused(at=5.0, step="charge", reason="unsure", certain=False)
    ended = e.FailedToCompensate(at=5.0, stands=("charge",))
    probing = e.ProbeStarted(at=3.0, step="charge")
    return fold(plan, *STARTED, DOUBT, *UNDONE, probing, failed, spent, ended)


def test_a_retry_behind_an_undo_without_a_result_looks_again() -> None:
    """The undo was answered before and did nothing: to repeat it is to call it undone unseen."""
    plan = replace(plan_with(**LOOKS), patience_seconds=HOUR)
    saga = fold(plan, e.Retried(at=9.0, **KIM), saga=unsure(plan))
    step = saga.steps["charge"]
    assert (Phase.IN_DOUBT, True, 0) == (step.phase, step.looked_for, step.probes)
    assert Do(kind=AttemptKind.PROBE, step="charge") == only(plan, saga, 9.0)

    found = fold(plan, *looked(9.0, found=True), saga=saga)
    assert (ONE, 2) == (found.steps["charge"].result, found.steps["charge"].compensation_keys)

    at = 9.0
    while at < 9.0 + 2 * HOUR:
        failed = e.ProbeFailed(at=at, step="charge", reason="answered 503")
        saga = fold(plan, e.ProbeStarted(at=at, step="charge"), failed, saga=saga)
        at += 60.0
    spent = only(plan, saga, at)
    assert isinstance(spent, Record) and isinstance(spent.event, e.CompensationRefused)


@pytest.mark.parametrize("new_key, keys", [(False, 1), (True, 2)])
def test_an_undo_that_is_ordered_anew_is_looked_for_again(new_key: bool, keys: int) -> None:
    """Its answer 200 says no more than that of the first."""
    plan = plan_with(**LOOKS)
    order = e.Retried(at=9.0, **KIM, anew=True, new_key=new_key)
    saga = fold(plan, order, saga=unsure(plan))
    assert keys == saga.steps["charge"].compensation_keys
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == only(plan, saga, 9.0)

    again = e.CompensationStarted(at=9.0, step="charge", attempt=2)
    saga = fold(plan, again, e.CompensationSucceeded(at=10.0, step="charge"), saga=saga)
    assert Do(kind=AttemptKind.PROBE, step="charge") == only(plan, saga, 10.0)


def test_an_undo_that_nobody_confirms_may_be_resolved() -> None:
    """By a person who has undone it by hand, or has seen that nothing of it stands."""
    plan = plan_with(**LOOKS)
    saga = fold(plan, *STARTED, DOUBT, *UNDONE)
    resolved = e.Resolved(at=5.0, actor="kim", why="undone by hand", step="charge")
    assert refuse_verb(plan, saga, resolved) is None
    after = fold(plan, resolved, saga=saga)
    assert Phase.COMPENSATED is after.steps["charge"].phase
    ended = only(plan, after, 5.0)
    assert isinstance(ended, Record) and isinstance(ended.event, e.Compensated)


def test_an_undo_that_cannot_be_looked_for_any_more_is_made_again() -> None:
    """A deploy took the probe away."""
    saga = unsure(plan_with(**LOOKS))
    plan = plan_with()
    saga = fold(plan, e.Retried(at=9.0, **KIM), saga=saga)
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == only(plan, saga, 9.0)


def test_a_doubt_that_was_given_up_is_looked_for_when_it_is_retried() -> None:
    """Nothing of it was undone: it is no undo that is tried again, and waits as a doubt does."""
    plan = plan_with(idempotent=False, probed=True)
    given_up = e.Abandoned(at=3.0, actor="kim", why="it is gone")
    turned = e.TurnedBack(at=2.0, step="charge")
    ended = e.FailedToCompensate(at=3.0, stands=("charge",))
    saga = fold(plan, *STARTED, DOUBT, turned, given_up, ended, e.Retried(at=9.0, **KIM))
    assert Do(kind=AttemptKind.PROBE, step="charge") == only(plan, saga, 9.0)


@pytest.mark.parametrize("landed", [True, False])
def test_a_person_who_settles_what_was_undone_without_a_result(landed: bool) -> None:
    """It stands, so the stored undo did nothing: the next one knows the result."""
    plan = plan_with(**LOOKS)
    request = e.Request(method="POST", path="/refunds")
    begun = e.CompensationStarted(at=2.0, step="charge", attempt=1, request=request)
    saga = fold(plan, *STARTED, DOUBT, UNDONE[0], begun, UNDONE[2])
    verb = e.Settled(at=9.0, **KIM, step="charge", landed=landed, result=ONE)
    saga = fold(plan, verb, saga=saga)

    if not landed:
        ended = only(plan, saga, 9.0)
        assert isinstance(ended, Record) and isinstance(ended.event, e.Compensated)
        return
    step = saga.steps["charge"]
    assert (ONE, 2, (), None) == (
        step.result, step.compensation_keys, step.compensation_requests,
        step.compensation_started_at,
    )  # fmt: skip
    assert Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=2) == only(plan, saga, 9.0)


def test_an_adjusted_rule_holds_wherever_the_plan_is_asked() -> None:
    """The machine reads a step by its name and in its wave."""
    plan = adjusted(plan_with(), lambda step: replace(step, timeout_seconds=9.0))
    assert {9.0} == {
        plan.step("charge").timeout_seconds,
        plan.steps[0].timeout_seconds,
        plan.waves[0][0].timeout_seconds,
    }
