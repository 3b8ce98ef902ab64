"""A saga that the database lost: what its neighbours say, and what may stand here (rule 33)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.bindings import Bound, binding_of
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.lost import (
    LOST,
    TURNED,
    Word,
    called_otherwise,
    events_after_restore,
    journal_of,
    may_ask,
    nothing_stands,
    unasked,
)
from stage.core.machine import decide, evolve
from stage.core.questions import OVER, Standing, standing, standing_of_saga
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.steps import Plan, StepKind
from tests.unit.core import plans

ASKED = e.CompensationRequested(at=5.0, requested_by="order", reason="no")


def word(said: str, *, upstream: bool) -> Word:
    """The word of order or of shipping."""
    return Word(
        neighbour="order" if upstream else "shipping",
        from_upstream=upstream,
        said=said,
        nothing_stands=said in ("compensated", "not_executed"),
    )


def adopted(plan: Plan, *words: Word, asked: e.CompensationRequested | None = None) -> Saga:
    """The saga that the journal of the words folds to."""
    saga = Saga(id="s-1")
    for event in journal_of(plan, words, upstream="order", asked=asked, at=5.0, generation=2):
        saga = evolve(plan, saga, event)
    return saga


def test_a_lost_saga_says_the_former_names_of_its_steps() -> None:
    """Nobody knows which release ran it: its charge may be under a key of the former name."""
    plan = replace(plans.usual(), renamed={"debit": "charge"})
    assert "charge was debit before: look under that name too" in adopted(plan).parked
    assert "before" not in adopted(plans.usual()).parked


@pytest.mark.parametrize(
    "name, key, called",
    [
        ("charge", "s-1:payment:charge:do", ()),
        ("charge", "", ()),
        ("debit", "s-1:payment:debit:do", ("debit",)),
        ("debit", "", ("debit",)),
        ("charge", "s-1:payments:charge:do", ("charge",)),
        ("reserve", "", ()),
        ("forward:parcels", "", ()),
    ],
)
def test_a_call_that_this_release_names_otherwise_is_known_by_its_key(
    name: str, key: str, called: tuple[str, ...]
) -> None:
    """The name of the stage is in the key too. Only calls have one."""
    kinds = {"reserve": StepKind.TRANSACTION, "forward:parcels": StepKind.FORWARD}
    binding = e.Binding(kind=kinds.get(name, StepKind.CALL), peer="", compensatable=True)
    plan = replace(plans.usual(), renamed={"debit": "charge"})
    for bound in (binding, None) if key else (binding,):
        assert called == called_otherwise(plan, "s-1", {name: Bound(binding=bound, key=key)})


@pytest.mark.parametrize(
    "upstream, name, may",
    [
        ("order", "order", True),
        ("order", "billing", False),
        ("order", "shipping", True),
        ("order", "operator", True),
        ("order", "operator kim", True),
        ("", "order", False),
        ("", "shipping", True),
        ("", "operator", True),
    ],
)
def test_a_request_is_carried_out_for_callers_that_the_saga_belongs_to(
    upstream: str, name: str, may: bool
) -> None:
    """Rule 36. No upstream is believed of a saga whose opener is unknown."""
    assert may is may_ask(plans.usual(), upstream, name)


@pytest.mark.parametrize(
    "above, below, proved",
    [
        ("compensated", None, True),
        ("not_executed", None, True),
        ("compensated", "compensated", True),
        (None, "compensated", False),
        ("executed", "compensated", False),
        ("unknown", "compensated", False),
        ("in_progress", None, False),
        ("compensated", "executed", False),
        ("compensated", "unknown", False),
        (None, None, False),
    ],
)
def test_only_upstream_proves_that_nothing_stands_here(
    above: str | None, below: str | None, proved: bool
) -> None:
    """It has our own answer. A downstream that differs outweighs it, and proves nothing alone."""
    words = [word(above, upstream=True)] if above else []
    words += [word(below, upstream=False)] if below else []

    saga = adopted(plans.usual(), *words)

    assert proved is (nothing_stands(tuple(words)) is not None)
    assert proved is saga.tombstone
    expected = Standing.NOTHING if proved else Standing.MAY_STAND
    assert expected is standing_of_saga(plans.usual(), saga)


def test_an_adopted_saga_says_what_its_neighbours_say() -> None:
    """A person reads it first: each neighbour and its word, or that none lists it."""
    yes, no = word("executed", upstream=False), word("compensated", upstream=True)
    buried = adopted(plans.usual(), no)
    assert ("order", "lost here; order says compensated") == (buried.requested_by, buried.reason)

    saga = adopted(plans.usual(), no, yes)
    assert (
        "lost with an older database; order says compensated; shipping says executed" == saga.parked
    )
    assert "lost with an older database; no neighbour lists it" == adopted(plans.usual()).parked
    assert (OVER, "order", True, 2) == (
        saga.deadline, saga.upstream, saga.deferred, saga.generation,
    )  # fmt: skip
    assert {LOST} == {step.error for step in saga.steps.values()}
    assert 3 == adopted(replace(plans.usual(), version=3), yes).version


@pytest.mark.parametrize(
    "answers, silent",
    [
        ({}, ["order", "shipping"]),
        ({"order": "3 sagas"}, ["shipping"]),
        ({"order": "3 sagas", "shipping": ""}, ["shipping"]),
        ({"order": "1", "shipping": "2"}, []),
        ({"order": "1", "shipping": "2", "archive": ""}, ["archive"]),
    ],
)
def test_a_neighbour_without_an_answer_is_named(answers: dict[str, str], silent: list[str]) -> None:
    """Also one that was asked under a name which is none of ours."""
    assert silent == unasked(["shipping", "order"], answers)


@pytest.mark.parametrize("plan", [plans.usual(), plans.unprobed(), plans.grouped()])
def test_every_effect_outside_may_stand_until_somebody_asks(plan: Plan) -> None:
    """It waits for a person: nothing goes forward and nothing is said to be gone."""
    saga = adopted(plan, word("executed", upstream=False))

    assert (SagaState.ACTIVE, ParkCause.LOST) == (saga.state, saga.parked_cause)
    assert (Rest(),) == decide(plan, saga, 1e9)
    for step in plan.steps:
        local = step.kind is StepKind.TRANSACTION
        expected = Standing.NOTHING if local else Standing.MAY_STAND
        assert expected is standing(saga, step.name)


def test_a_request_to_compensate_goes_from_the_tail_to_the_head() -> None:
    """Downstream first, then the call, which is looked for under its key before it is undone."""
    saga = adopted(plans.usual(), asked=ASKED)

    (first,) = decide(plans.usual(), saga, 5.0)
    assert Do(kind=AttemptKind.COMPENSATE, step="forward:shipping", attempt=1) == first
    for event in (
        e.CompensationStarted(at=6.0, step="forward:shipping", attempt=1),
        e.CompensationSucceeded(at=6.0, step="forward:shipping"),
    ):
        saga = evolve(plans.usual(), saga, event)
    (second,) = decide(plans.usual(), saga, 9.0)
    assert Do(kind=AttemptKind.PROBE, step="charge") == second


@pytest.mark.parametrize(
    "plan", [plans.usual(), plans.unprobed(), plans.grouped(), plans.pivoted()]
)
@pytest.mark.parametrize("way", [ASKED, e.Retried(at=6.0, actor="kim", why="x")])
def test_a_lost_saga_never_goes_forward(plan: Plan, way: e.Event) -> None:
    """Its deadline is over: on the way there may be probes, and no attempt to execute."""
    saga = evolve(plan, adopted(plan), way)
    for _ in range(20):
        commands = decide(plan, saga, 7.0)
        assert not [c for c in commands if isinstance(c, Do) and c.kind is AttemptKind.EXECUTE]
        if not isinstance(commands[0], Record):
            break
        saga = evolve(plan, saga, commands[0].event)


def active(*events: e.Event) -> Saga:
    """A saga of a backup, last changed at 1.0."""
    saga = Saga(id="s-1")
    for event in (e.Accepted(at=1.0, deadline=60.0, upstream="order"), *events):
        saga = evolve(plans.usual(), saga, event)
    return saga


CHARGED = e.StepSucceeded(at=1.0, step="charge")


def taken_over(plan: Plan, saga: Saga, generation: int) -> Saga:
    """The saga in the hands of a stage whose database has that generation."""
    events = events_after_restore(plan, saga, generation, 5.0)
    recovered = e.Recovered(at=5.0, epoch=saga.epoch + 1, generation=generation)
    for event in (recovered, *events):
        saga = evolve(plan, saga, event)
    return saga


@pytest.mark.parametrize(
    "journal, generation, doubted",
    [
        ((), 2, ["charge", "forward:shipping"]),
        ((e.StepStarted(at=1.0, step="charge", attempt=1),), 2, ["charge", "forward:shipping"]),
        ((e.StepStarted(at=1.0, step="charge", attempt=1), CHARGED), 2, ["forward:shipping"]),
        (
            (
                e.StepStarted(at=1.0, step="charge", attempt=1),
                e.StepTransient(at=1.0, step="charge", reason="away"),
            ),
            2,
            ["charge", "forward:shipping"],
        ),
        ((e.TurnedBack(at=1.0, reason="no"),), 2, []),
        ((e.CompensationRequested(at=1.0, requested_by="order"),), 2, []),
        (
            (e.CompensationRequested(at=1.0, requested_by="order", generation=2),),
            2,
            ["charge", "forward:shipping"],
        ),
        ((), 1, []),
    ],
)
def test_a_saga_of_the_backup_may_have_gone_further(
    journal: tuple[e.Event, ...], generation: int, doubted: list[str]
) -> None:
    """Each step that leaves the process and was not known to be done; once, and forward alone."""
    saga = taken_over(plans.usual(), active(*journal), generation)

    found = [name for name, step in saga.steps.items() if step.phase is Phase.IN_DOUBT]
    assert doubted == found
    assert [] == events_after_restore(plans.usual(), saga, generation, 6.0)


def test_a_restored_saga_is_turned_back_in_the_name_of_an_operator() -> None:
    """The request says why, and in which generation of the database it was made."""
    (*_, turned) = events_after_restore(plans.usual(), active(), 2, 5.0)
    assert (
        e.CompensationRequested(
            at=5.0, requested_by="operator", requester=Requester.OPERATOR, reason=TURNED,
            generation=2,
        )
        == turned
    )  # fmt: skip


def test_a_doubt_after_a_restore_is_the_next_attempt_of_its_step() -> None:
    """The first one of a step that the backup does not know; it binds what today's plan has."""
    waits = (
        e.StepStarted(at=1.0, step="charge", attempt=1),
        e.StepTransient(at=1.0, step="charge", reason="away"),
    )
    events = events_after_restore(plans.usual(), active(*waits), 2, 5.0)
    started = [each for each in events if isinstance(each, e.StepStarted)]
    forward = plans.usual().step("forward:shipping")
    assert [
        e.StepStarted(at=5.0, step="charge", attempt=2),
        e.StepStarted(at=5.0, step="forward:shipping", attempt=1, bound=binding_of(forward)),
    ] == started


def test_a_plan_that_does_not_fit_doubts_nothing() -> None:
    """It has the steps of the journal alone, so that it would leave out those that were lost."""
    misfit = replace(plans.usual(), misfit="there is no step 'charge'")
    assert [] == events_after_restore(misfit, active(), 2, 5.0)


@pytest.mark.parametrize("plan", [plans.usual(), plans.unprobed(), plans.pivoted()])
@pytest.mark.parametrize("wrong", [0.0, 1e6])
def test_a_saga_of_the_backup_does_not_go_forward(plan: Plan, wrong: float) -> None:
    """It may have been compensated since, and upstream told so; whatever the clocks have said."""
    saga = Saga(id="s-1")
    for event in (e.Accepted(at=1.0 + wrong, upstream="order"),):
        saga = evolve(plan, saga, event)

    saga = taken_over(plan, saga, 2)
    for now in (7.0, 8.0, 1e9):
        for _ in range(20):
            commands = decide(plan, saga, now)
            assert not [c for c in commands if isinstance(c, Do) and c.kind is AttemptKind.EXECUTE]
            if not isinstance(commands[0], Record):
                break
            saga = evolve(plan, saga, commands[0].event)


def test_a_pivot_that_was_lost_is_in_doubt_and_nothing_is_undone_around_it() -> None:
    """Rule 20: nobody knows whether it happened, so that neither way is open."""
    plan = plans.pivoted()
    saga = evolve(plan, adopted(plan), ASKED)
    saga = evolve(plan, saga, e.Retried(at=6.0, actor="kim", why="x"))
    for _ in range(20):
        commands = decide(plan, saga, 1e9)
        for command in commands:
            assert not (isinstance(command, Do) and command.kind is AttemptKind.COMPENSATE)
        if isinstance(commands[0], Record):
            saga = evolve(plan, saga, commands[0].event)
    assert ParkCause.PIVOT_IN_DOUBT is saga.parked_cause
    assert SagaState.ACTIVE is saga.state
