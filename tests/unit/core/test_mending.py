"""Rule 31, in the machine: which stored requests are dropped, and which are kept for a repeat."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.ids import Direction, idempotency_key
from stage.core.machine import decide, evolve
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase
from stage.core.verbs import refuse_verb
from tests.unit.core.plans import unprobed
from tests.unit.core.world import ONE

PLAN = unprobed()
FIRST = e.Request(method="POST", path="/first")
START = e.StepStarted(at=2.0, step="charge", attempt=1, request=FIRST)
COMPENSATION = e.CompensationStarted(at=5.0, step="charge", attempt=1, request=FIRST)
CHARGED = (START, e.StepSucceeded(at=3.0, step="charge", result=ONE))
TURNED = (*CHARGED, e.TurnedBack(at=4.0), COMPENSATION)


def saga_after(*events: e.Event) -> Saga:
    """The state after those events of a saga that was accepted and has reserved."""
    saga = Saga(id="s")
    for event in (e.Accepted(at=1.0), e.StepSucceeded(at=1.0, step="reserve"), *events):
        saga = evolve(PLAN, saga, event)
    return saga


def charge_after(*events: e.Event) -> StepState:
    return saga_after(*events).steps["charge"]


def transient(*, may_stand: bool = False) -> e.StepTransient:
    return e.StepTransient(at=3.0, step="charge", may_stand=may_stand)


@pytest.mark.parametrize(
    "events, kept",
    [
        ((START, transient()), False),
        ((START, transient(may_stand=True)), True),
        ((START, e.StepInDoubt(at=3.0, step="charge"), START, transient()), True),
        ((START, e.Recovered(at=3.0, epoch=2), START, transient()), True),
        ((START, e.StepRefused(at=3.0, step="charge")), False),
        ((START, e.StepInDoubt(at=3.0, step="charge")), True),
    ],
)
def test_a_request_is_dropped_when_it_certainly_never_had_an_effect(
    events: tuple[e.Event, ...], kept: bool
) -> None:
    """One attempt that may have landed keeps it for good: its key is taken there."""
    assert kept == bool(charge_after(*events).requests)


def delayed(*, certain: bool) -> e.CompensationDelayed:
    return e.CompensationDelayed(at=6.0, step="charge", certain=certain)


@pytest.mark.parametrize(
    "events, kept",
    [
        ((delayed(certain=True),), False),
        ((delayed(certain=False),), True),
        ((delayed(certain=False), COMPENSATION, delayed(certain=True)), True),
        ((e.Recovered(at=6.0, epoch=2), COMPENSATION, delayed(certain=True)), True),
        ((e.CompensationRefused(at=6.0, step="charge", certain=True),), False),
        ((e.CompensationRefused(at=6.0, step="charge"),), True),
    ],
)
def test_the_request_of_a_compensation_is_dropped_in_the_same_way(
    events: tuple[e.Event, ...], kept: bool
) -> None:
    """Entries of an older release say nothing of it, and are not taken for certain."""
    assert kept == bool(charge_after(*TURNED, *events).compensation_requests)


def test_a_settlement_as_not_landed_lets_todays_code_make_it_again() -> None:
    """The operator's word is that it never had an effect."""
    doubt = e.StepInDoubt(at=3.0, step="charge")
    settled = e.Settled(at=4.0, actor="kim", why="asked", step="charge", landed=False)
    assert () == charge_after(START, doubt, settled).requests


def test_a_repeat_that_would_be_another_request_is_parked_until_it_is_retried() -> None:
    """With its cause; a retry lets it try again, in case the code fits by then."""
    changed = e.StepInDoubt(at=3.0, step="charge", reason="other", changed=True)
    saga = saga_after(START, changed)
    (command,) = decide(PLAN, saga, 1_000.0)
    assert isinstance(command, Record) and isinstance(command.event, e.Parked)
    assert ParkCause.REQUEST_CHANGED is command.event.cause
    saga = evolve(PLAN, saga, command.event)
    again = evolve(PLAN, saga, e.Retried(at=1_001.0, actor="kim", why="rolled back"))
    (command,) = decide(PLAN, again, 1_001.0)
    assert isinstance(command, Do) and (FIRST,) == again.steps["charge"].requests


def order(*, anew: bool = True, new_key: bool = False, step: str = "") -> e.Retried:
    return e.Retried(at=9.0, actor="kim", why="mended", anew=anew, new_key=new_key, step=step)


def test_a_compensation_ordered_anew_is_made_again_under_the_key_that_was_ordered() -> None:
    """The same key without `new_key`; each order of one counts."""
    refused = e.CompensationRefused(at=6.0, step="charge")
    same = charge_after(*TURNED, refused, order())
    assert ((), 1, Phase.COMPENSATION_WAITING) == (
        same.compensation_requests,
        same.compensation_keys,
        same.phase,
    )
    twice = charge_after(
        *TURNED,
        refused,
        order(new_key=True),
        COMPENSATION,
        refused,
        order(new_key=True, step="charge"),
    )
    assert 3 == twice.compensation_keys
    plain = charge_after(*TURNED, refused, order(anew=False))
    assert (FIRST,) == plain.compensation_requests


def test_the_order_is_refused_where_it_fits_nothing() -> None:
    """A call in doubt on its way forward is never made anew; the answer says what can be."""
    doubtful = saga_after(START, e.StepInDoubt(at=3.0, step="charge"))
    assert "only that can be made anew" in (refuse_verb(PLAN, doubtful, order()) or "")
    refused = e.CompensationRefused(at=6.0, step="charge")
    failed = saga_after(*TURNED, refused, e.FailedToCompensate(at=7.0, stands=("charge",)))
    assert refuse_verb(PLAN, failed, order(new_key=True)) is None
    other = refuse_verb(PLAN, failed, order(step="reserve"))
    assert other is not None and other.endswith(
        "those that do: charge; allowed now: retry, resolve, forget"
    )


def test_every_key_that_was_ordered_is_another() -> None:
    """The first is as it always was (rule 2)."""
    keys = [
        idempotency_key("s", "payment", "charge", Direction.COMPENSATE, number=n) for n in (1, 2, 3)
    ]
    assert keys == [f"s:payment:charge:{end}" for end in ("undo", "undo.2", "undo.3")]


def test_a_crash_behind_a_settle_finds_no_changed_request() -> None:
    """The request that a person declared void is made by today's code, and repeated if cut off."""
    changed = e.StepInDoubt(at=4.0, step="charge", reason="another request", changed=True)
    doubt = e.StepInDoubt(at=3.0, step="charge", reason="timeout")
    park = e.Parked(at=4.0, cause=ParkCause.REQUEST_CHANGED, reason="another request")
    settled = e.Settled(at=5.0, actor="kim", why="asked it", step="charge", landed=False)
    again = (
        e.StepStarted(at=5.0, step="charge", attempt=2, request=FIRST),
        e.Recovered(at=6.0, epoch=2),
    )
    saga = saga_after(START, doubt, START, changed, park, settled, *again)
    assert (Do(kind=AttemptKind.EXECUTE, step="charge", attempt=3),) == decide(PLAN, saga, 6.0)
