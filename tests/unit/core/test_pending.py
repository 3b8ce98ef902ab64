"""Calls that an API takes on, and that end later (decision 0060)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Command, Do, Record, Rest
from stage.core.machine import decide, evolve
from stage.core.questions import Standing, standing
from stage.core.retry import PENDING_SECONDS_MAX
from stage.core.saga import Saga
from stage.core.states import Phase, SagaState
from stage.core.steps import Plan, Step, StepKind, plan_of
from tests.unit.core.world import ONE

CHARGE = Step(name="charge", kind=StepKind.CALL, peer="psp", compensatable=True, probed=True)
PLAN = plan_of("payment", (CHARGE, Step(name="record", kind=StepKind.TRANSACTION)))
BEGUN: tuple[e.Event, ...] = (
    e.Accepted(at=0.0, deadline=60.0, upstream="order"),
    e.StepStarted(at=0.0, step="charge", attempt=1),
)
PENDING = e.StepPending(at=10.0, step="charge", reason="3-D Secure")
PROBE = Do(kind=AttemptKind.PROBE, step="charge")
ASKED = e.CompensationRequested(at=20.0, requested_by="order")


def fold(*events: e.Event, plan: Plan = PLAN, saga: Saga | None = None) -> Saga:
    saga = saga or Saga(id="s-1")
    for event in events:
        saga = evolve(plan, saga, event)
    return saga


def only(saga: Saga, now: float, plan: Plan = PLAN) -> Command:
    (command,) = decide(plan, saga, now)
    return command


def probed_until(saga: Saga, until: float, plan: Plan = PLAN) -> tuple[Saga, int]:
    """The saga after probes that all find it pending, and how many there were."""
    now, probes = saga.updated_at, 0
    while now < until and saga.steps["charge"].phase is Phase.PENDING:
        rest = only(saga, now, plan)
        assert isinstance(rest, Rest) and rest.until is not None
        now, probes = rest.until, probes + 1
        assert PROBE == only(saga, now, plan)
        started = e.ProbeStarted(at=now, step="charge")
        saga = fold(started, e.ProbePending(at=now, step="charge"), plan=plan, saga=saga)
    return saga, probes


NOT_LANDED = e.Settled(at=99.0, actor="kim", why="asked it", step="charge", landed=False)


def test_a_call_that_is_pending_behind_a_settle_is_waited_for_anew() -> None:
    """The request that a person declared void took its wait, and its looks, with it."""
    saga, _ = probed_until(fold(*BEGUN, PENDING), 4 * 86_400.0)
    assert Phase.IN_DOUBT is saga.steps["charge"].phase  # it was pending for too long
    now = saga.updated_at + 10.0
    not_there = e.ProbeStarted(at=now, step="charge"), e.ProbeNotThere(at=now, step="charge")
    again = e.StepStarted(at=now, step="charge", attempt=2), replace(PENDING, at=now)
    saga = fold(*not_there, replace(NOT_LANDED, at=now), *again, saga=saga)

    step = saga.steps["charge"]
    assert (Phase.PENDING, 1, 0) == (step.phase, step.pendings, step.not_there)
    assert saga.pending and isinstance(only(saga, now), Rest)


def test_a_call_that_is_lost_behind_a_settle_is_no_pending_one() -> None:
    """Its API has taken nothing on: one look that finds nothing begins no wait for days."""
    again = e.StepStarted(at=99.0, step="charge", attempt=2)
    saga = fold(*BEGUN, PENDING, NOT_LANDED, again, e.Recovered(at=100.0, epoch=2))
    not_there = e.ProbeStarted(at=100.0, step="charge"), e.ProbeNotThere(at=100.0, step="charge")
    saga = fold(*not_there, saga=saga)
    assert Phase.IN_DOUBT is saga.steps["charge"].phase and not saga.pending


def test_a_pending_call_is_probed_after_growing_pauses_and_never_repeated() -> None:
    """Days of it are some hundred probes, and no attempt."""
    saga, probes = probed_until(fold(*BEGUN, PENDING), 2 * 86_400.0)

    assert Phase.PENDING is saga.steps["charge"].phase
    assert 1 == saga.steps["charge"].attempts
    assert 280 < probes < 600


def test_the_deadline_stands_still_while_a_call_is_pending() -> None:
    """The budget that was left is left when its end is found, days later."""
    saga, _ = probed_until(fold(*BEGUN, PENDING), 86_400.0)
    assert (None, True) == (saga.deadline, saga.pending)

    at = saga.updated_at + 5.0
    saga = fold(e.ProbeFound(at=at, step="charge", result=ONE), saga=saga)

    assert (at + 50.0, False) == (saga.deadline, saga.pending)
    assert Do(kind=AttemptKind.EXECUTE, step="record") == only(saga, at)


def test_the_callers_of_a_pending_saga_are_answered_202_for_good() -> None:
    """So that upstream is notified when it fails later."""
    assert fold(*BEGUN, PENDING).deferred


def test_a_probe_that_fails_or_finds_nothing_once_leaves_it_pending() -> None:
    """An API that is away says nothing about the call; one "not there" is not believed."""
    for event in (
        e.ProbeFailed(at=20.0, step="charge", reason="503"),
        e.ProbeNotThere(at=20.0, step="charge"),
    ):
        saga = fold(*BEGUN, PENDING, e.ProbeStarted(at=20.0, step="charge"), event)
        assert Phase.PENDING is saga.steps["charge"].phase


def test_a_pending_call_that_is_twice_not_there_is_repeated() -> None:
    """Rule 5 holds for it as for any doubt: under the same key."""
    saga = fold(*BEGUN, PENDING)
    for at in (20.0, 30.0):
        probe = e.ProbeStarted(at=at, step="charge")
        saga = fold(probe, e.ProbeNotThere(at=at, step="charge"), saga=saga)

    assert Do(kind=AttemptKind.EXECUTE, step="charge", attempt=2) == only(saga, 40.0)


def test_a_pending_call_that_is_refused_there_leaves_nothing_to_undo() -> None:
    """The customer failed 3-D Secure: a business no, as if the call itself had been refused."""
    refused = e.ProbeRefused(at=20.0, step="charge", reason="not authenticated")
    saga = fold(*BEGUN, PENDING, e.ProbeStarted(at=20.0, step="charge"), refused)
    turn = only(saga, 20.0)
    assert isinstance(turn, Record) and isinstance(turn.event, e.TurnedBack)
    saga = fold(turn.event, saga=saga)

    assert ("not authenticated", Standing.NOTHING) == (saga.detail, standing(saga, "charge"))
    end = only(saga, 20.0)
    assert isinstance(end, Record) and isinstance(end.event, e.Compensated)


def test_a_call_that_is_pending_for_too_long_is_in_doubt() -> None:
    """It is probed as any doubt, and undone without a result when nobody says how it ended."""
    saga, _ = probed_until(fold(*BEGUN, PENDING), 2 * PENDING_SECONDS_MAX)

    assert Phase.IN_DOUBT is saga.steps["charge"].phase
    assert saga.age >= PENDING_SECONDS_MAX
    assert not saga.pending and saga.deadline is not None
    kinds = []
    for at in range(100):
        now = saga.updated_at + 10.0 * at
        match only(saga, now):
            case Do(kind=AttemptKind.PROBE):
                probe = e.ProbeStarted(at=now, step="charge")
                saga = fold(probe, e.ProbePending(at=now, step="charge"), saga=saga)
                kinds.append(AttemptKind.PROBE)
            case Record(event=event):
                saga = fold(event, saga=saga)
            case Do(kind=kind):
                kinds.append(kind)
                break
    assert AttemptKind.COMPENSATE is kinds[-1]
    assert AttemptKind.EXECUTE not in kinds


def test_a_request_to_compensate_looks_at_once_and_then_undoes() -> None:
    """It does not wait for the end of the pause, nor for that of the payment."""
    saga = fold(*BEGUN, PENDING, ASKED)
    assert SagaState.COMPENSATING is saga.state and not saga.pending
    assert PROBE == only(saga, 20.0)

    for _ in range(CHARGE.settlement.attempts_max or 0):
        at = saga.steps["charge"].due
        probe = e.ProbeStarted(at=at, step="charge")
        saga = fold(probe, e.ProbePending(at=at, step="charge"), saga=saga)

    assert Do(kind=AttemptKind.COMPENSATE, step="charge") == only(saga, saga.updated_at)
    assert saga.updated_at < 60.0


def test_a_request_to_compensate_undoes_what_the_probe_finds_with_its_result() -> None:
    """The payment landed meanwhile."""
    probe = e.ProbeStarted(at=20.0, step="charge")
    saga = fold(*BEGUN, PENDING, ASKED, probe)
    saga = fold(e.ProbeFound(at=21.0, step="charge", result=ONE), saga=saga)

    assert Do(kind=AttemptKind.COMPENSATE, step="charge") == only(saga, 21.0)
    assert ONE == saga.steps["charge"].result


def test_a_run_that_was_lost_while_it_probed_leaves_the_call_pending() -> None:
    """It is asked again at once by the run that takes over."""
    probe = e.ProbeStarted(at=20.0, step="charge")
    saga = fold(*BEGUN, PENDING, probe, e.Recovered(at=30.0, epoch=2))

    assert (Phase.PENDING, True) == (saga.steps["charge"].phase, saga.pending)
    assert PROBE == only(saga, 30.0)


def test_a_pending_call_without_a_probe_is_in_doubt() -> None:
    """Neither a probe nor a webhook would tell how it ends."""
    plan = plan_of("payment", (replace(CHARGE, probed=False),))
    saga = fold(*BEGUN, PENDING, plan=plan)

    assert Phase.IN_DOUBT is saga.steps["charge"].phase
    assert not saga.pending
    assert f"neither a probe nor a webhook tells how it ends: {PENDING.reason}" in (
        saga.steps["charge"].error
    )


@pytest.mark.parametrize("seconds, phase", [(599.0, Phase.PENDING), (600.0, Phase.IN_DOUBT)])
def test_a_pending_call_is_waited_for_to_the_last_second(seconds: float, phase: Phase) -> None:
    """Its author says how long; the look at the end of it is the last."""
    plan = plan_of("payment", (replace(CHARGE, pending_seconds_max=600.0),))
    saga = fold(*BEGUN, PENDING, plan=plan)
    at = PENDING.at + seconds
    probed = (e.ProbeStarted(at=at, step="charge"), e.ProbePending(at=at, step="charge"))
    assert phase is fold(*probed, plan=plan, saga=saga).steps["charge"].phase


def test_without_a_probe_the_journal_shows_that_time_passes() -> None:
    """Otherwise no clock that can be trusted would ever end the wait (rule 34)."""
    plan = plan_of("payment", (replace(CHARGE, probed=False, hooked=True),))
    saga = fold(*BEGUN, PENDING, plan=plan)
    entries = 0
    while saga.steps["charge"].phase is Phase.PENDING:
        rest = only(saga, saga.updated_at, plan)
        assert isinstance(rest, Rest) and rest.until is not None
        silent = only(saga, rest.until, plan)
        assert isinstance(silent, Record) and isinstance(silent.event, e.StillPending)
        saga, entries = fold(silent.event, plan=plan, saga=saga), entries + 1

    assert Phase.IN_DOUBT is saga.steps["charge"].phase
    assert PENDING_SECONDS_MAX <= saga.age < PENDING_SECONDS_MAX + 1_000.0
    assert entries < 1_000
    again = only(saga, saga.updated_at + 60.0, plan)
    assert not isinstance(again, Rest)
