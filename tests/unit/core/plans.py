"""Plans that the tests of the machine run, and sagas that are folded under them."""

from __future__ import annotations

from stage.core import events as e
from stage.core.machine import evolve
from stage.core.saga import Saga
from stage.core.steps import Plan, Step, StepKind, plan_of

TRANSACTION = StepKind.TRANSACTION
CALL = StepKind.CALL


def fold(plan: Plan, *events: e.Event, saga: Saga | None = None) -> Saga:
    """The state after these events, of a new saga or of the one given."""
    saga = saga or Saga(id="s-1")
    for event in events:
        saga = evolve(plan, saga, event)
    return saga


def usual() -> Plan:
    """Transaction, call, transaction, forward: the stage of the demo."""
    return plan_of(
        "payment",
        (
            Step(name="reserve", kind=TRANSACTION, compensatable=True),
            Step(name="charge", kind=CALL, peer="psp", compensatable=True, probed=True),
            Step(name="record", kind=TRANSACTION),
        ),
        ("shipping",),
    )


def unprobed() -> Plan:
    """The same with a call that cannot be looked up."""
    return plan_of(
        "payment",
        (
            Step(name="reserve", kind=TRANSACTION, compensatable=True),
            Step(name="charge", kind=CALL, peer="psp", compensatable=True),
        ),
        ("shipping", "billing"),
    )


def grouped() -> Plan:
    """Two calls that run together, then one that does not."""
    return plan_of(
        "offers",
        (
            Step(name="north", kind=CALL, peer="a", group="quotes", compensatable=True),
            Step(name="south", kind=CALL, peer="b", group="quotes", compensatable=True),
            Step(name="book", kind=CALL, peer="c", compensatable=True, probed=True),
        ),
    )


def pivoted() -> Plan:
    """A call that cannot be undone in the middle."""
    return plan_of(
        "payout",
        (
            Step(name="hold", kind=CALL, peer="bank", compensatable=True),
            Step(name="pay", kind=CALL, peer="bank", pivot=True, probed=True),
            Step(name="note", kind=TRANSACTION),
        ),
    )
