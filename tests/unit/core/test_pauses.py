"""The pause before each kind of attempt that is made again: whose policy, how long, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind, Command, Do, Record, Rest
from stage.core.machine import RETRY_AFTER_SECONDS_MAX, decide
from stage.core.retry import NEIGHBOUR_COMPENSATION, PENDING, PENDING_CALL, RetryPolicy
from stage.core.saga import Saga
from stage.core.steps import Plan, Step, StepKind, plan_of
from tests.unit.core.plans import fold
from tests.unit.core.world import ONE

FORWARD = "forward:shipping"
STARTED = e.StepStarted(at=10.0, step="charge", attempt=1)
DONE = e.StepSucceeded(at=10.0, step="charge", result=ONE)


def policy(seconds: float) -> RetryPolicy:
    """A policy of its own for each kind of attempt, so that another one shows."""
    return RetryPolicy(attempts_max=None, backoff_seconds_min=seconds, backoff_seconds_max=600.0)


EXECUTION, SETTLEMENT, COMPENSATION = policy(1.0), policy(3.0), policy(7.0)


def one(*, kind: StepKind = StepKind.CALL, probed: bool = False, hooked: bool = False) -> Plan:
    """A plan of one step."""
    return plan_of(
        "payment",
        (
            Step(
                name="charge", kind=kind, peer="psp", compensatable=True, probed=probed,
                hooked=hooked, execution=EXECUTION, settlement=SETTLEMENT,
                compensation=COMPENSATION,
            ),
        ),
    )  # fmt: skip


class Again(NamedTuple):
    """An attempt that is made again: the events of the n-th one, and what follows the pause."""

    plan: Plan
    before: tuple[e.Event, ...]
    events: Callable[[int, float, float | None], tuple[e.Event, ...]]
    policy: RetryPolicy
    then: Callable[[int, float], Command]
    said: str = "busy"
    asks: bool = True
    """Whether the other side may ask for a pause by Retry-After."""


def _probing(number: int, at: float, first: e.Event, later: e.Event) -> tuple[e.Event, ...]:
    return (first,) if number == 1 else (e.ProbeStarted(at=at, step="charge"), later)


PROBE = Do(kind=AttemptKind.PROBE, step="charge")
AGAIN = {
    "did not happen": Again(
        plan=one(),
        before=(),
        events=lambda n, at, asked: (
            e.StepStarted(at=at, step="charge", attempt=n),
            e.StepTransient(at=at, step="charge", reason="busy", retry_after=asked),
        ),
        policy=EXECUTION,
        then=lambda n, at: Do(kind=AttemptKind.EXECUTE, step="charge", attempt=n + 1),
    ),
    "in doubt": Again(
        plan=one(),
        before=(),
        events=lambda n, at, asked: (
            e.StepStarted(at=at, step="charge", attempt=n),
            e.StepInDoubt(at=at, step="charge", reason="busy"),
        ),
        policy=EXECUTION,
        then=lambda n, at: Do(kind=AttemptKind.EXECUTE, step="charge", attempt=n + 1),
        asks=False,
    ),
    "under way downstream": Again(
        plan=plan_of("payment", (), ("shipping",)),
        before=(),
        # To wait for downstream is no failed attempt: it remains the first one.
        events=lambda n, at, asked: (
            e.StepStarted(at=at, step=FORWARD, attempt=1),
            e.StepPending(at=at, step=FORWARD, retry_after=asked),
        ),
        policy=PENDING,
        then=lambda n, at: Do(kind=AttemptKind.EXECUTE, step=FORWARD, attempt=1),
        said="accepted downstream, still running",
    ),
    "no answer to a probe": Again(
        plan=one(probed=True),
        before=(STARTED, e.StepInDoubt(at=10.0, step="charge")),
        events=lambda n, at, asked: (
            e.ProbeStarted(at=at, step="charge"),
            e.ProbeFailed(at=at, step="charge", reason="busy", retry_after=asked),
        ),
        policy=SETTLEMENT,
        then=lambda n, at: PROBE,
    ),
    "pending": Again(
        plan=one(probed=True),
        before=(STARTED,),
        events=lambda n, at, asked: _probing(
            n,
            at,
            e.StepPending(at=at, step="charge", reason="busy", retry_after=asked),
            e.ProbePending(at=at, step="charge", reason="busy", retry_after=asked),
        ),
        policy=PENDING_CALL,
        then=lambda n, at: PROBE,
    ),
    "pending, and its probe gets no answer": Again(
        plan=one(probed=True),
        before=(STARTED,),
        events=lambda n, at, asked: _probing(
            n,
            at,
            e.StepPending(at=at, step="charge", reason="busy", retry_after=asked),
            e.ProbeFailed(at=at, step="charge", reason="busy", retry_after=asked),
        ),
        policy=PENDING_CALL,
        then=lambda n, at: PROBE,
    ),
    "pending, and a webhook may come": Again(
        plan=one(hooked=True),
        before=(STARTED, e.StepPending(at=10.0, step="charge")),
        events=lambda n, at, asked: (e.StillPending(at=at, step="charge"),),
        policy=PENDING_CALL,
        then=lambda n, at: Record(event=e.StillPending(at=at, step="charge")),
        said="nothing was heard of it",
        asks=False,
    ),
    "an approval": Again(
        plan=one(kind=StepKind.APPROVAL),
        before=(),
        events=lambda n, at, asked: (
            e.ApprovalAsked(at=at, step="charge") if n == 1
            else e.StillPending(at=at, step="charge"),
        ),
        policy=PENDING_CALL,
        then=lambda n, at: Record(event=e.StillPending(at=at, step="charge")),
        said="",
        asks=False,
    ),
    "an undo": Again(
        plan=one(),
        before=(STARTED, DONE, e.TurnedBack(at=10.0)),
        events=lambda n, at, asked: (
            e.CompensationStarted(at=at, step="charge", attempt=n),
            e.CompensationDelayed(at=at, step="charge", reason="busy", retry_after=asked),
        ),
        policy=COMPENSATION,
        then=lambda n, at: Do(kind=AttemptKind.COMPENSATE, step="charge", attempt=n + 1),
    ),
    "the message to upstream": Again(
        plan=one(),
        before=(
            e.Accepted(at=10.0, upstream="order", deferred=True),
            e.StepRefused(at=10.0, step="charge"),
            e.TurnedBack(at=10.0),
            e.Compensated(at=10.0),
        ),
        events=lambda n, at, asked: (
            e.TellStarted(at=at, attempt=n),
            e.TellDelayed(at=at, reason="busy", retry_after=asked),
        ),
        policy=NEIGHBOUR_COMPENSATION,
        then=lambda n, at: Do(kind=AttemptKind.TELL, attempt=n + 1),
    ),
}  # fmt: skip
CASES = pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)


def due_of(plan: Plan, saga: Saga, at: float) -> float:
    """The instant until which the saga rests."""
    (rest,) = decide(plan, saga, at)
    assert isinstance(rest, Rest) and rest.until is not None
    return rest.until


@CASES
def test_each_pause_is_twice_the_one_before_less_its_jitter(again: Again) -> None:
    """By the policy of that kind of attempt; then, and no earlier, the next one is made."""
    saga, at = fold(again.plan, e.Accepted(at=10.0), *again.before), 10.0
    first = 2 if again.policy is PENDING_CALL and len(again.before) > 1 else 1
    for number in range(1, 6):
        saga = fold(again.plan, *again.events(number, at, None), saga=saga)
        full = again.policy.backoff_seconds_min * 2 ** (number + first - 2)
        due = due_of(again.plan, saga, at)
        assert full / 2 <= due - at <= full, number
        assert (Rest(until=due),) == decide(again.plan, saga, due - 0.001)
        assert (again.then(number, due),) == decide(again.plan, saga, due)
        at = due


@CASES
def test_people_read_why_it_is_made_again(again: Again) -> None:
    saga = fold(again.plan, e.Accepted(at=10.0), *again.before, *again.events(1, 10.0, None))
    step = next(iter(saga.steps.values()))
    assert again.said == (saga.tell_error or step.error)


@pytest.mark.parametrize(
    "asked, pause",
    [(40.0, 40.0), (RETRY_AFTER_SECONDS_MAX, 60.0), (86_400.0, RETRY_AFTER_SECONDS_MAX)],
)
@CASES
def test_a_pause_that_was_asked_for_is_granted_up_to_its_bound(
    again: Again, asked: float, pause: float
) -> None:
    """By any peer, of any kind of attempt: a header can hold no saga up (rule 29)."""
    if not again.asks:
        return
    saga = fold(again.plan, e.Accepted(at=10.0), *again.before, *again.events(1, 10.0, asked))
    assert 10.0 + pause == due_of(again.plan, saga, 10.0)


@CASES
def test_a_shorter_pause_than_our_own_is_not_granted(again: Again) -> None:
    """A peer that says "at once" is not stormed either."""
    ours, theirs = (
        fold(again.plan, e.Accepted(at=10.0), *again.before, *again.events(1, 10.0, asked))
        for asked in (None, 0.001)
    )
    assert due_of(again.plan, ours, 10.0) == due_of(again.plan, theirs, 10.0)
