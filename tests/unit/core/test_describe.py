"""The words of an event: one form for the command line, the demo and the simulation."""

from __future__ import annotations

from typing import Any

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.describe import attempt_in_words, event_in_words, next_action
from stage.core.event_table import NAMED
from stage.core.states import ParkCause
from stage.core.steps import Plan, Step, StepKind, plan_of
from tests.unit.core import plans
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE


@pytest.mark.parametrize(
    "words, name, members",
    [
        ("charge: started", "step_started", {"step": "charge", "attempt": 1}),
        ("charge: started, attempt 2", "step_started", {"step": "charge", "attempt": 2}),
        ("charge: in doubt (timeout)", "step_in_doubt", {"step": "charge", "reason": "timeout"}),
        ("probe charge: not there", "probe_not_there", {"step": "charge"}),
        (
            "compensate charge: cannot, stands: charge (declined)",
            "compensation_refused",
            {"step": "charge", "stands": ["charge"], "reason": "declined"},
        ),
        ("tell upstream: again later (503)", "tell_delayed", {"reason": "503"}),
        ("recovered, as run 2", "recovered", {"epoch": 2}),
        (
            "asked to compensate, by shipping (late)",
            "compensation_requested",
            {"requested_by": "shipping", "reason": "late"},
        ),
        (
            "settle: charge, as not landed, by kim (asked the bank)",
            "settled",
            {"step": "charge", "landed": False, "actor": "kim", "why": "asked the bank"},
        ),
        ("stock_booked: shelf", "stock_booked", {"step": "shelf"}),
    ],
)
def test_an_event_is_one_line(words: str, name: str, members: dict[str, Any]) -> None:
    """The attempt and its end by the table, then the members that need a word, then the reason."""
    assert words == event_in_words(name, members)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_private_member_is_not_shown(name: str) -> None:
    """An entry of another program may have any member; the table alone says what is shown."""
    members = {"step": "charge", "request": "s3cret", "result": "s3cret", "baggage": "s3cret"}

    assert "s3cret" not in event_in_words(name, members)


def test_the_epoch_of_an_entry_is_not_the_run_of_a_recovery() -> None:
    """Each entry of the journal view has an epoch; only a recovery is about it."""
    assert "completed" == event_in_words("completed", {"epoch": 3})


@pytest.mark.parametrize(
    "words, kind",
    [
        ("charge", AttemptKind.EXECUTE),
        ("probe charge", AttemptKind.PROBE),
        ("compensate charge", AttemptKind.COMPENSATE),
    ],
)
def test_an_attempt_has_a_name(words: str, kind: AttemptKind) -> None:
    assert words == attempt_in_words(kind, "charge")
    assert "tell upstream" == attempt_in_words(AttemptKind.TELL, "")


@pytest.mark.parametrize(
    "words, name, members",
    [
        ("charge: a no in doubt (409)", "step_refused", {"may_stand": True, "reason": "409"}),
        ("charge: refused (no)", "step_refused", {"may_stand": False, "reason": "no"}),
        ("charge: refused", "step_refused", {"reason": ""}),
        ("settle: charge, as landed, by kim", "settled", {"landed": True, "actor": "kim"}),
        ("asked to compensate", "compensation_requested", {"requested_by": "", "step": None}),
        ("failed to compensate, stands: a, b", "failed_to_compensate", {"stands": ("a", "b")}),
        ("failed to compensate", "failed_to_compensate", {"stands": "charge"}),
        ("stock_booked: charge", "stock_booked", {"reason": "private", "actor": "kim"}),
    ],
)
def test_the_members_of_an_event_in_words(words: str, name: str, members: dict[str, Any]) -> None:
    """Each that needs a word has one, in their order; an empty member has none."""
    assert words == event_in_words(name, {"step": "charge", **members})


ACCEPTED = e.Accepted(at=1.0, upstream="order")
RESERVED = e.StepSucceeded(at=1.0, step="reserve", result=ONE)
CALLED = e.StepStarted(at=1.0, step="charge", attempt=1)
CHARGED = (ACCEPTED, RESERVED, CALLED, e.StepSucceeded(at=1.0, step="charge", result=ONE))
LATE = (
    *CHARGED,
    e.StepSucceeded(at=1.0, step="record", result=ONE),
    e.StepSucceeded(at=1.0, step="forward:shipping", result=ONE),
    e.Completed(at=1.0),
    e.CompensationRequested(at=2.0, requested_by="shipping", compensated=True),
    e.CompensationSucceeded(at=2.0, step="charge"),
    e.CompensationSucceeded(at=2.0, step="reserve"),
    e.Compensated(at=2.0),
)
NOTIFYING = e.TellStarted(at=2.0, attempt=1)
PARKED = e.Parked(at=2.0, cause=ParkCause.IN_DOUBT, reason="nobody knows")


@pytest.mark.parametrize(
    "words, due, events",
    [
        ("execute reserve (attempt 1)", 9.0, (ACCEPTED,)),
        ("executing charge", None, (ACCEPTED, RESERVED, CALLED)),
        # A wait, with the action behind it, and the instant.
        (
            "execute charge (attempt 2)",
            41.0,
            (ACCEPTED, RESERVED, CALLED, e.StepTransient(at=1.0, step="charge", retry_after=40.0)),
        ),
        (
            "probe charge (attempt 1)",
            9.0,
            (ACCEPTED, RESERVED, CALLED, e.StepInDoubt(at=1.0, step="charge")),
        ),
        (
            "probing charge",
            None,
            (
                *(ACCEPTED, RESERVED, CALLED, e.StepInDoubt(at=1.0, step="charge")),
                e.ProbeStarted(at=2.0, step="charge"),
            ),
        ),
        # A decision of the saga itself is an action too.
        ("turned_back", 9.0, (ACCEPTED, e.StepRefused(at=1.0, step="reserve", reason="no"))),
        ("completed", 9.0, LATE[:6]),
        (
            "compensating charge",
            None,
            (
                *CHARGED,
                e.TurnedBack(at=2.0),
                e.CompensationStarted(at=2.0, step="charge", attempt=1),
            ),
        ),
        # A person is waited for.
        ("waits for a person: nobody knows", None, (*CHARGED, PARKED)),
        # An attempt in flight is said first, whatever the saga waits for.
        ("executing charge", None, (ACCEPTED, RESERVED, CALLED, PARKED)),
        # The message to upstream, due, in flight, and again later.
        ("tell order to compensate (attempt 1)", 9.0, LATE),
        ("telling order", None, (*LATE, NOTIFYING)),
        (
            "tell order to compensate (attempt 2)",
            52.0,
            (*LATE, NOTIFYING, e.TellDelayed(at=2.0, reason="503", retry_after=50.0)),
        ),
        (
            "waits for a person: upstream order cannot compensate: no",
            None,
            (*LATE, NOTIFYING, e.TellRefused(at=2.0, reason="no")),
        ),
    ],
)
def test_the_next_action(words: str, due: float | None, events: tuple[e.Event, ...]) -> None:
    """The action, and its instant; None is now, or an answer."""
    plan = plans.usual()
    assert (words, due) == next_action(plan, fold(plan, *events), 9.0)


def test_a_saga_that_could_not_be_undone_waits_for_a_person_and_notifies_upstream() -> None:
    """The message to upstream goes on by itself: it is the next action while it is due."""
    plan = plans.usual()
    failed = (
        *LATE[:-3],
        e.CompensationRefused(at=2.0, step="charge", reason="no refunds"),
        e.CompensationSucceeded(at=2.0, step="reserve"),
        e.FailedToCompensate(at=2.0, stands=("charge",)),
    )
    assert ("tell order to compensate (attempt 1)", 9.0) == next_action(
        plan, fold(plan, *failed), 9.0
    )
    delivered = fold(plan, *failed, NOTIFYING, e.TellDelivered(at=3.0))
    assert ("waits for a person: could not be undone: charge", None) == next_action(
        plan, delivered, 9.0
    )


def test_nothing_is_left_to_do_for_a_saga_that_is_over() -> None:
    plan = plans.usual()
    for events in (LATE[:7], (*LATE, NOTIFYING, e.TellDelivered(at=3.0))):
        assert next_action(plan, fold(plan, *events), 9.0) is None


def test_the_next_action_may_be_a_decision_that_is_due_later() -> None:
    """A pending call that only a webhook ends: the journal will say that nothing was heard."""
    call = Step(name="charge", kind=StepKind.CALL, peer="psp", hooked=True)
    plan = plan_of("payment", (call,))
    saga = fold(plan, ACCEPTED, CALLED, e.StepPending(at=1.0, step="charge", retry_after=30.0))
    assert ("still_pending", 31.0) == next_action(plan, saga, 9.0)


def asking(*seconds: float) -> Plan:
    """Approvals that run together, each with its own time."""
    return plan_of(
        "payment",
        tuple(
            Step(name=f"ask{n}", kind=StepKind.APPROVAL, group="ask", pending_seconds_max=each)
            for n, each in enumerate(seconds)
        ),
    )


def test_approvals_are_waited_for_until_the_first_of_them_is_over() -> None:
    """By name, and until when: silence is a no."""
    plan = asking(300.0, 100.0)
    asked = [e.ApprovalAsked(at=1.0, step="ask0"), e.ApprovalAsked(at=3.0, step="ask1")]
    saga = fold(plan, e.Accepted(at=1.0), *asked)
    assert (
        "waits for a person to approve ask0, ask1; silence is a no",
        103.0,
    ) == next_action(plan, saga, 9.0)
