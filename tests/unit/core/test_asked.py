"""A request to compensate: where it changes nothing, whose reason holds, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.ids import Direction, idempotency_key
from stage.core.machine import InvalidTransition, asked_before, decide, evolve
from stage.core.questions import Standing, standing
from stage.core.saga import Saga
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.core.steps import Plan
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

PLAN, PIVOTED = plans.usual(), plans.pivoted()
OPEN = (
    e.Accepted(at=1.0, upstream="order"),
    e.StepSucceeded(at=1.0, step="reserve", result=ONE),
)
ASKED = e.CompensationRequested(at=5.0, requested_by="order", reason="out of stock", generation=3)
PARKED = e.Parked(at=2.0, cause=ParkCause.IN_DOUBT, reason="nobody knows")
HELD = (
    *OPEN[:1],
    e.StepStarted(at=1.0, step="hold", attempt=1),
    e.StepSucceeded(at=1.0, step="hold", result=ONE),
    e.StepStarted(at=1.0, step="pay", attempt=1),
)


def test_a_saga_that_is_asked_goes_back() -> None:
    """Also one that waited for a person. It keeps who asked, why, and in which database."""
    saga = fold(PLAN, *OPEN, PARKED, ASKED)
    assert (SagaState.COMPENSATING, 3, "", None) == (
        saga.state, saga.asked_in, saga.parked, saga.parked_cause,
    )  # fmt: skip
    assert ("order", "out of stock", "out of stock") == (
        saga.requested_by, saga.reason, saga.detail,
    )  # fmt: skip
    assert (Do(kind=AttemptKind.COMPENSATE, step="reserve"),) == decide(PLAN, saga, 5.0)


def test_the_first_to_ask_gives_the_reason() -> None:
    """A neighbour repeats its request, and others follow; what turned it back before stays."""
    second = replace(ASKED, requested_by="shipping", reason="late")
    saga = fold(PLAN, *OPEN, ASKED, second)
    assert ("order", "out of stock", "out of stock") == (
        saga.requested_by, saga.reason, saga.detail,
    )  # fmt: skip
    turned = e.TurnedBack(at=3.0, step="charge", reason="4 attempts")
    saga = fold(PLAN, *OPEN, turned, ASKED)
    assert ("order", "4 attempts", "step charge did not succeed") == (
        saga.requested_by, saga.reason, saga.detail,
    )  # fmt: skip


@pytest.mark.parametrize("plan, events", [(PLAN, OPEN), (PIVOTED, HELD)])
def test_an_asker_without_a_name_is_unknown(plan: Plan, events: tuple[e.Event, ...]) -> None:
    """The request is kept all the same."""
    nameless = e.CompensationRequested(at=5.0)
    saga = fold(plan, *events, nameless)
    assert "unknown" == saga.requested_by


def test_a_request_without_a_reason_names_its_sender() -> None:
    saga = fold(PLAN, *OPEN, replace(ASKED, reason=""))
    assert "order asked to compensate" == saga.reason == saga.detail


@pytest.mark.parametrize(
    "saga",
    [
        Saga(id="s", state=SagaState.COMPENSATED),
        Saga(id="s", state=SagaState.FAILED_TO_COMPENSATE, parked="x"),
        Saga(id="s", state=SagaState.COMPLETED, forgotten=True),
        fold(PIVOTED, *HELD, e.StepSucceeded(at=2.0, step="pay", result=ONE)),
    ],
    ids=["compensated", "failed to compensate", "forgotten", "behind the pivot"],
)
def test_a_request_that_cannot_be_met_changes_nothing(saga: Saga) -> None:
    """But the entry that says that it was made."""
    after = evolve(PIVOTED, saga, ASKED)
    assert saga == replace(
        after, length=saga.length, updated_at=saga.updated_at, age=saga.age,
    )  # fmt: skip
    assert asked_before(PIVOTED, saga, ASKED)


GONE_BACK = (
    *OPEN,
    e.Completed(at=2.0),
    e.CompensationRequested(at=3.0, requested_by="shipping", compensated=True),
    e.CompensationStarted(at=3.0, step="reserve", attempt=1),
)
NOT_NOTIFIED = (
    e.TellStarted(at=4.0, attempt=1),
    e.TellRefused(at=4.0, reason="answered 409: lost", cause=ParkCause.UPSTREAM_CANNOT),
)


def test_an_upstream_that_could_not_be_notified_and_asks_by_itself_knows() -> None:
    """A database was put back there, and the saga came back to it: nobody has to retry here."""
    undone = (e.CompensationSucceeded(at=4.0, step="reserve"), e.Compensated(at=4.0))
    refused = fold(PLAN, *GONE_BACK, *undone, *NOT_NOTIFIED)
    assert (ParkCause.UPSTREAM_CANNOT, Tell.REFUSED) == (refused.parked_cause, refused.tell)
    assert asked_before(PLAN, refused, replace(ASKED, requested_by="shipping"))
    assert not asked_before(PLAN, refused, ASKED)
    knows = evolve(PLAN, refused, ASKED)
    assert ("", None, Tell.DELIVERED, "", SagaState.COMPENSATED) == (
        knows.parked, knows.parked_cause, knows.tell, knows.tell_error, knows.state,
    )  # fmt: skip
    assert asked_before(PLAN, knows, ASKED)


def test_an_upstream_that_asks_by_itself_lifts_no_more_than_that() -> None:
    """The effect that stands waits for a person as before."""
    stands = (
        e.CompensationRefused(at=4.0, step="reserve", reason="answered 422"),
        e.FailedToCompensate(at=4.0, stands=("reserve",)),
    )
    failed = fold(PLAN, *GONE_BACK, *stands)
    knows = fold(PLAN, *GONE_BACK, *stands, *NOT_NOTIFIED, ASKED)
    assert (failed.parked, failed.parked_cause) == (knows.parked, knows.parked_cause)
    assert (("reserve",), Tell.DELIVERED) == (knows.stands, knows.tell)


@pytest.mark.parametrize("delayed", [(), (e.TellDelayed(at=4.0, reason="503"),)])
def test_an_upstream_that_asks_while_it_is_notified_parks_nothing(
    delayed: tuple[e.Event, ...],
) -> None:
    """It was answered, and never asks again: its 409 to the notification came too late."""
    undone = (e.CompensationSucceeded(at=4.0, step="reserve"), e.Compensated(at=4.0))
    begun, refused = NOT_NOTIFIED
    notifying = fold(PLAN, *GONE_BACK, *undone, begun, *delayed)
    assert not asked_before(PLAN, notifying, ASKED)
    assert asked_before(PLAN, notifying, replace(ASKED, requested_by="shipping"))
    asked = evolve(PLAN, notifying, ASKED)
    assert (notifying.tell, True) == (asked.tell, asked_before(PLAN, asked, ASKED))
    knows = fold(PLAN, refused, saga=asked)
    assert ("", None, Tell.DELIVERED, "") == (
        knows.parked, knows.parked_cause, knows.tell, knows.tell_error,
    )  # fmt: skip


def test_while_the_pivot_is_undecided_the_request_is_kept() -> None:
    """The saga stays where it is: it may only go back if the pivot has not happened (rule 20)."""
    saga = fold(PIVOTED, *HELD, ASKED)
    assert (SagaState.ACTIVE, "order", "out of stock", "out of stock") == (
        saga.state, saga.requested_by, saga.reason, saga.detail,
    )  # fmt: skip
    second = evolve(PIVOTED, saga, replace(ASKED, requested_by="bank", reason="late"))
    assert ("order", "out of stock") == (second.requested_by, second.reason)


def test_a_request_that_was_made_before_is_known() -> None:
    """A neighbour asks until it is answered: the journal does not grow by it (protocol 3.4)."""
    saga = fold(PLAN, *OPEN)
    assert not asked_before(PLAN, saga, ASKED)
    saga = fold(PLAN, *OPEN, ASKED)
    assert asked_before(PLAN, saga, ASKED)
    assert asked_before(PLAN, saga, replace(ASKED, requested_by="web", reason="again"))
    parked = evolve(PLAN, saga, PARKED)
    assert asked_before(PLAN, parked, ASKED)


def test_a_step_that_has_another_name_today_keeps_the_key_of_its_effect() -> None:
    """The API knows it by the old one (rule 32)."""
    plan = replace(PLAN, renamed={"debit": "charge"})
    saga = fold(plan, *OPEN, e.StepStarted(at=2.0, step="debit", attempt=1))
    old = idempotency_key("s-1", "payment", "debit", Direction.EXECUTE)
    assert (["reserve", "charge"], old) == (list(saga.steps), saga.steps["charge"].key)

    bound = e.StepStarted(at=2.0, step="debit", attempt=1, key="as it was sent")
    assert "as it was sent" == fold(plan, *OPEN, bound).steps["charge"].key
    turned = fold(plan, *OPEN, e.TurnedBack(at=2.0, step="gone", reason="no"))
    assert SagaState.COMPENSATING is turned.state


@pytest.mark.parametrize(
    "event, said",
    [
        (e.StepStarted(at=2.0, step="gone", attempt=1), "there is no step 'gone'"),
        (e.ProbeStarted(at=2.0, step="charge"), "step 'charge' was never started"),
        (e.CompensationStarted(at=2.0, step="charge", attempt=1), "was never started"),
    ],
)
def test_an_event_that_cannot_follow_is_a_defect(event: e.Event, said: str) -> None:
    with pytest.raises(InvalidTransition, match=said):
        fold(PLAN, *OPEN, event)


# --- whether upstream is notified ---


@pytest.mark.parametrize(
    "upstream, asked_by, believed, tell",
    [
        ("order", "", {"was_completed": True}, Tell.DUE),
        ("order", "", {"deferred": True}, Tell.DUE),
        ("order", "", {"epoch": 2}, Tell.DUE),
        ("order", "shipping", {"was_completed": True}, Tell.DUE),
        ("order", "", {}, Tell.NO),
        ("order", "order", {"was_completed": True}, Tell.NO),
        ("", "", {"was_completed": True}, Tell.NO),
    ],
)
def test_upstream_is_notified_where_it_may_believe_in_a_yes(
    upstream: str, asked_by: str, believed: dict[str, Any], tell: Tell
) -> None:
    """After a yes, a 202, or a run that was lost with its answer; not where it asked itself."""
    saga = Saga(
        id="s", state=SagaState.COMPENSATING, upstream=upstream, requested_by=asked_by,
        updated_at=4.0, **believed,
    )  # fmt: skip
    for end in (e.Compensated(at=5.0), e.FailedToCompensate(at=5.0, stands=("charge",))):
        after = evolve(PLAN, saga, end)
        assert (tell, 4.0 if tell is Tell.DUE else 0.0) == (after.tell, after.tell_due)
        notified = evolve(PLAN, replace(saga, tell=Tell.DELIVERED), end)
        assert Tell.DELIVERED is notified.tell


def test_a_saga_that_could_not_be_undone_says_what_stands() -> None:
    saga = fold(PLAN, *OPEN, e.FailedToCompensate(at=5.0, stands=("reserve", "charge")))
    assert (SagaState.FAILED_TO_COMPENSATE, ("reserve", "charge")) == (saga.state, saga.stands)
    assert ("could not be undone: reserve, charge", ParkCause.FAILED_TO_COMPENSATE) == (
        saga.parked, saga.parked_cause,
    )  # fmt: skip


def test_the_steps_that_stand_at_a_neighbour_are_reported_behind_its_name() -> None:
    """Downstream cannot undo it, and says what stands there (rule 12)."""
    forward = "forward:shipping"
    saga = fold(
        PLAN,
        OPEN[0],
        e.StepStarted(at=2.0, step=forward, attempt=1),
        e.StepSucceeded(at=2.0, step=forward, result=ONE),
        e.TurnedBack(at=3.0),
        e.CompensationStarted(at=3.0, step=forward, attempt=1),
        e.CompensationRefused(at=4.0, step=forward, reason="shipped", stands=("book",)),
    )
    assert (Phase.COMPENSATION_FAILED, "shipped") == (
        saga.steps[forward].phase, saga.steps[forward].error,
    )  # fmt: skip
    stands = (forward, "shipping/book")
    assert (Record(event=e.FailedToCompensate(at=5.0, stands=stands)),) == decide(PLAN, saga, 5.0)


def test_a_tombstone_bars_the_saga() -> None:
    """Asked to compensate what never came: nothing of it ever runs (rule 9)."""
    buried = e.Tombstoned(at=5.0, requested_by="order", reason="too late")
    saga = fold(PLAN, buried)
    assert (SagaState.COMPENSATED, True, 5.0) == (saga.state, saga.tombstone, saga.accepted_at)
    assert ("order", "too late", "too late") == (saga.requested_by, saga.reason, saga.detail)
    assert {} == saga.steps


def test_a_saga_is_what_it_was_accepted_with() -> None:
    accepted = e.Accepted(
        at=5.0, deadline=9.0, upstream="order", deferred=True, version=3, generation=2
    )
    saga = fold(PLAN, accepted)
    assert (5.0, 9.0, "order", True, 3, 2) == (
        saga.accepted_at, saga.deadline, saga.upstream, saga.deferred, saga.version,
        saga.generation,
    )  # fmt: skip
    assert (SagaState.ACTIVE, 1, 5.0) == (saga.state, saga.length, saga.updated_at)


def test_only_a_saga_that_goes_on_defers_its_answer() -> None:
    """A park does too: its callers need not wait for a person. Behind the end nothing is left."""
    for event in (e.AnswerDeferred(at=6.0), PARKED):
        assert fold(PLAN, *OPEN, event).deferred
        assert not evolve(PLAN, Saga(id="s", state=SagaState.COMPLETED), event).deferred


def test_a_step_keeps_the_spans_of_its_attempts() -> None:
    """An undo links to the attempt that it undoes; the span of a probe is apart."""
    saga = fold(
        PLAN,
        e.Accepted(at=1.0),
        e.StepSucceeded(at=1.0, step="reserve", result=ONE, span="aa"),
        e.StepStarted(at=2.0, step="charge", attempt=1, span="bb"),
        e.StepInDoubt(at=3.0, step="charge"),
        e.ProbeStarted(at=4.0, step="charge", span="cc"),
        e.ProbeFound(at=5.0, step="charge", result=ONE),
        e.TurnedBack(at=6.0),
        e.CompensationStarted(at=7.0, step="charge", attempt=1, span="dd"),
    )
    charge = saga.steps["charge"]
    assert "aa" == saga.steps["reserve"].span
    assert ("bb", "cc", "dd") == (charge.span, charge.probe_span, charge.compensation_span)
    assert (0, 1) == (saga.steps["reserve"].order, charge.order)
    assert (2.0, 7.0) == (charge.started_at, charge.compensation_started_at)
    late = Saga(id="s", state=SagaState.COMPENSATED, upstream="order", tell=Tell.DUE)
    assert "ee" == evolve(PLAN, late, e.TellStarted(at=8.0, attempt=1, span="ee")).tell_span


@pytest.mark.parametrize(
    "doubt",
    [
        e.StepInDoubt(at=3.0, step="charge", reason="no answer"),
        e.StepTransient(at=3.0, step="charge", reason="503", may_come=True),
    ],
)
def test_a_success_ends_every_doubt_about_its_step(doubt: e.Event) -> None:
    """By the answer to a repeat, or by a probe: the same key, so that nothing else can stand."""
    called = (*OPEN, e.StepStarted(at=2.0, step="charge", attempt=1), doubt)
    for ends in (
        (
            e.StepStarted(at=4.0, step="charge", attempt=2),
            e.StepSucceeded(at=5.0, step="charge", result=ONE),
        ),
        (
            e.ProbeStarted(at=4.0, step="charge"),
            e.ProbeFound(at=5.0, step="charge", result=ONE),
        ),
    ):
        saga = fold(PLAN, *called, *ends)
        step = saga.steps["charge"]
        assert (Phase.SUCCEEDED, False, False, "") == (
            step.phase, step.doubted, step.may_come, step.error,
        )  # fmt: skip
        assert Standing.STANDS is standing(saga, "charge")


def test_a_repeat_has_a_span_and_a_number_of_its_own() -> None:
    """An undo links to the latest attempt; the probes of the one before do not count for it."""
    again = fold(
        PLAN,
        *OPEN,
        e.StepStarted(at=2.0, step="charge", attempt=1, span="bb"),
        e.StepInDoubt(at=3.0, step="charge"),
        e.ProbeStarted(at=4.0, step="charge"),
        e.ProbeNotThere(at=4.0, step="charge"),
        e.StepStarted(at=5.0, step="charge", attempt=2, span="ff"),
    ).steps["charge"]
    assert (Phase.STARTED, 2, "ff", 0, 2.0) == (
        again.phase, again.attempts, again.span, again.probes, again.started_at,
    )  # fmt: skip


def test_every_request_of_an_attempt_is_kept_for_its_repeat() -> None:
    """In the order in which they left; those of an undo are apart (rules 1 and 31)."""
    one, two, three, four = (e.Request(method="POST", path=f"/{n}") for n in range(4))
    events = (
        *OPEN,
        e.StepStarted(at=2.0, step="charge", attempt=1, request=one),
        e.RequestPrepared(at=2.0, step="charge", ordinal=2, request=two),
        e.StepInDoubt(at=3.0, step="charge"),
        e.StepStarted(at=4.0, step="charge", attempt=2, request=one),
        e.StepSucceeded(at=5.0, step="charge", result=ONE),
        e.TurnedBack(at=6.0),
        e.CompensationStarted(at=7.0, step="charge", attempt=1, request=three),
        e.RequestPrepared(at=7.0, step="charge", ordinal=2, request=four, compensation=True),
        e.CompensationDelayed(at=8.0, step="charge"),
        e.CompensationStarted(at=9.0, step="charge", attempt=2, request=three),
    )
    charge = fold(PLAN, *events).steps["charge"]
    assert ((one, two), (three, four)) == (charge.requests, charge.compensation_requests)
    assert (2, 2) == (charge.attempts, charge.compensation_attempts)
    bare = fold(PLAN, *OPEN, e.StepStarted(at=2.0, step="charge", attempt=1)).steps["charge"]
    assert ((), Phase.STARTED) == (bare.requests, bare.phase)
