"""The plan that a journal binds: what counts as another step, and what is known without one."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.bindings import (
    Bound,
    binding_of,
    bound_steps,
    difference,
    hash_of,
    journaled_plan,
)
from stage.core.events import Binding
from stage.core.ids import Direction, idempotency_key
from stage.core.states import StepKind
from stage.core.steps import Plan, Step, plan_of

CALL = StepKind.CALL
HOLD = Step(name="hold", kind=CALL, peer="bank", compensatable=True)
PAY = Step(name="pay", kind=CALL, peer="bank", pivot=True)
NOTE = Step(name="note", kind=StepKind.TRANSACTION)
PLAN = plan_of("payout", (HOLD, PAY, NOTE), ("shipping",))


def bound(name: str, **changes: Any) -> dict[str, Bound]:
    """The step as a journal binds it, but for these changes."""
    step = PLAN.step(name)
    key = idempotency_key("s", "payout", name, Direction.EXECUTE)
    return {name: Bound(binding=replace(binding_of(step), **changes), key=key)}


@pytest.mark.parametrize("name", list(PLAN.by_name))
def test_a_step_that_is_what_it_was_fits(name: str) -> None:
    assert "" == difference(PLAN, "s", bound(name))


@pytest.mark.parametrize(
    "steps, said",
    [
        (
            bound("hold", kind=StepKind.EFFECT),
            "was an effect to 'bank', and is a call to 'bank' now",
        ),
        (bound("hold", peer="psp"), "was a call to 'psp', and is a call to 'bank' now"),
        (bound("note", kind=CALL, peer="psp"), "was a call to 'psp', and is a transaction now"),
        (bound("pay", compensatable=True), "had a compensation, and has none now"),
        (bound("hold", pivot=True), "was the pivot"),
        (bound("pay", pivot=False), "was not the pivot"),
        ({"gone": Bound(binding=None)}, "there is no step 'gone'"),
        (
            {"forward:archive": Bound(binding=None)},
            "it was handed on to 'archive', which is no downstream here: configure that again",
        ),
        ({"hold": Bound(binding=None, key="other")}, "has the key 'other', which this stage would"),
        (bound("note") | bound("hold", peer="psp"), "step 'hold' was a call to 'psp'"),
    ],
)
def test_a_step_that_is_no_longer_what_it_was_is_named(steps: dict[str, Bound], said: str) -> None:
    """Its kind, its peer, its undo, the pivot, and its key (rule 32)."""
    assert said in difference(PLAN, "s", steps)


def test_an_undo_that_came_later_is_no_difference() -> None:
    """A step may gain a compensation: the old saga is undone by it."""
    assert "" == difference(PLAN, "s", bound("hold", compensatable=False))


def test_a_step_and_a_peer_may_have_another_name() -> None:
    """Where the author says which; its key keeps the old name."""
    renamed = replace(PLAN, renamed={"block": "hold"}, peers_renamed={"old-bank": "bank"})
    key = idempotency_key("s", "payout", "block", Direction.EXECUTE)
    before = Binding(kind=CALL, peer="old-bank", compensatable=True)

    assert "" == difference(renamed, "s", {"block": Bound(binding=before, key=key)})
    assert "there is no step 'block'" == difference(PLAN, "s", {"block": Bound(binding=before)})


def test_the_new_name_of_a_step_is_said_where_only_one_can_be_meant() -> None:
    """The same kind, peer and pivot, and nothing else of the saga has that name."""
    block = {"block": Bound(binding=binding_of(HOLD))}
    hint = "there is no step 'block' (if it is called 'hold' now, say renamed={'block': 'hold'})"
    assert hint == difference(PLAN, "s", block)
    assert "there is no step 'block'" == difference(PLAN, "s", bound("hold") | block)


def test_the_first_event_of_each_step_binds_it() -> None:
    """Later attempts say nothing new, and events that start no step bind none."""
    first, second = binding_of(HOLD), binding_of(PAY)
    events = (
        e.Accepted(at=1.0),
        e.StepStarted(at=1.0, step="hold", attempt=1, key="k", bound=first),
        e.StepInDoubt(at=2.0, step="hold"),
        e.StepStarted(at=3.0, step="hold", attempt=2, key="k2", bound=second),
        e.ProbeFound(at=4.0, step="other"),
        e.StepSucceeded(at=5.0, step="note", bound=binding_of(NOTE)),
        e.StepRefused(at=6.0, step="pay"),
    )
    assert [
        ("hold", Bound(binding=first, key="k")),
        ("note", Bound(binding=binding_of(NOTE))),
        ("pay", Bound(binding=None)),
    ] == list(bound_steps(events).items())


def test_plans_that_bind_the_same_have_the_same_hash() -> None:
    """Time-outs and probes may change: a journal does not bind them."""
    assert hash_of(PLAN) == hash_of(replace(PLAN, version=9, patience_seconds=1.0))
    assert 16 == len(hash_of(PLAN))
    same = plan_of("payout", (replace(HOLD, timeout_seconds=1.0), PAY, NOTE), ("shipping",))
    assert hash_of(PLAN) == hash_of(same)
    others = [
        plan_of("payouts", (HOLD, PAY, NOTE), ("shipping",)),
        plan_of("payout", (HOLD, PAY, NOTE)),
        plan_of("payout", (HOLD, PAY), ("shipping",)),
        plan_of("payout", (replace(HOLD, name="block"), PAY, NOTE), ("shipping",)),
        plan_of("payout", (replace(HOLD, peer="psp"), PAY, NOTE), ("shipping",)),
        plan_of("payout", (replace(HOLD, kind=StepKind.EFFECT), PAY, NOTE), ("shipping",)),
        plan_of("payout", (replace(HOLD, compensatable=False), PAY, NOTE), ("shipping",)),
        plan_of("payout", (HOLD, replace(PAY, pivot=False), NOTE), ("shipping",)),
        plan_of("payout", (NOTE, HOLD, PAY), ("shipping",)),
    ]
    assert len({hash_of(PLAN), *map(hash_of, others)}) == 1 + len(others)


def journaled(version: int = 2, **steps: Bound) -> Plan:
    """The plan of those steps, by a stage of version 3."""
    newest = replace(PLAN, version=3, renamed={"a": "hold"}, peers_renamed={"a": "bank"})
    return journaled_plan(newest, version, steps, "why it does not fit")


def test_a_journal_gives_a_plan_of_which_nothing_runs() -> None:
    """Its own steps, in the order of their starts, with what it binds of each."""
    was = Binding(kind=StepKind.EFFECT, peer="mail", compensatable=True, pivot=False)
    pivot = Binding(kind=CALL, peer="psp", pivot=True)
    plan = journaled(send=Bound(binding=was), pay=Bound(binding=pivot))

    send = Step(name="send", kind=StepKind.EFFECT, peer="mail", compensatable=True)
    pay = Step(name="pay", kind=CALL, peer="psp", pivot=True)
    assert (send, pay) == plan.steps
    assert ((send,), (pay,)) == plan.waves
    assert {"send": send, "pay": pay} == plan.by_name
    assert ("payout", 1, 2) == (plan.stage, plan.pivot, plan.version)
    assert ({}, {}) == (plan.renamed, plan.peers_renamed)
    assert "why it does not fit" == plan.misfit


@pytest.mark.parametrize("version, newer", [(2, False), (3, False), (4, True)])
def test_a_saga_of_a_newer_release_is_left_to_it(version: int, newer: bool) -> None:
    plan = journaled(version, hold=Bound(binding=None))
    assert (newer, None) == (plan.newer, plan.pivot)


def test_a_step_that_an_earlier_release_did_not_bind_would_have_to_be_undone() -> None:
    """Where today's plan knows the name, it says what the step is; a forward says it itself."""
    unbound = {"hold": Bound(binding=None), "gone": Bound(binding=None)}
    plan = journaled(2, **unbound, **{"forward:archive": Bound(binding=None)})

    assert HOLD == plan.step("hold")
    assert Step(name="gone", kind=CALL, compensatable=True) == plan.step("gone")
    archive = plan.step("forward:archive")
    assert (StepKind.FORWARD, "archive", True) == (
        archive.kind, archive.peer, archive.compensatable,
    )  # fmt: skip
