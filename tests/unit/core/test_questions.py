"""Effects that stand, that may stand, and that nobody can know of."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from stage.core.questions import (
    Standing,
    anything_stood,
    awaits_opener,
    belongs_to,
    can_probe,
    is_in_flight,
    key_forgotten,
    must_be_looked_for,
    must_be_settled,
    needs_compensation,
    past_pivot,
    pends,
    pivot_given_up,
    pivot_may_come,
    pivot_undecided,
    standing,
    standing_apart,
    standing_in,
    standing_of_saga,
    steps_in_flight,
    what_stands,
    why_not_compensated,
)
from stage.core.requester import Requester, opener_hash
from stage.core.retry import RetryPolicy
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.core.steps import Step, StepKind, plan_of
from tests.unit.core.plans import pivoted, usual
from tests.unit.core.world import ONE


def saga_with(step: StepState | None) -> Saga:
    return Saga(id="s-1", steps={} if step is None else {"charge": step})


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_of_a_step_in_doubt_may_stand_but_the_compensated(phase: Phase) -> None:
    """Doubt is only ended by an answer, a person, or an undo that succeeded (rule 6)."""
    doubted = saga_with(StepState(phase=phase, order=0, doubted=True))
    expected = Standing.NOTHING if phase is Phase.COMPENSATED else Standing.MAY_STAND

    assert expected is standing(doubted, "charge")


@pytest.mark.parametrize(
    "phase, expected",
    [
        (Phase.SUCCEEDED, Standing.STANDS),
        (Phase.COMPENSATION_FAILED, Standing.STANDS),
        (Phase.COMPENSATING, Standing.MAY_STAND),
        (Phase.COMPENSATION_WAITING, Standing.MAY_STAND),
        (Phase.COMPENSATED, Standing.NOTHING),
    ],
)
def test_a_known_result_stands_until_an_undo_may_have_reached_it(
    phase: Phase, expected: Standing
) -> None:
    """An undo that was sent and not answered may have been carried out."""
    assert expected is standing(saga_with(StepState(phase=phase, order=0, result=ONE)), "charge")


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.REFUSED])
def test_an_attempt_that_certainly_did_not_happen_leaves_nothing(phase: Phase) -> None:
    """Refused and transient are certain (rule 4); so is a step that was never started."""
    assert Standing.NOTHING is standing(saga_with(StepState(phase=phase, order=0)), "charge")
    assert Standing.NOTHING is standing(saga_with(None), "charge")


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.PROBING])
def test_an_attempt_in_flight_may_stand(phase: Phase) -> None:
    """It is gone, and its answer is not here."""
    assert Standing.MAY_STAND is standing(saga_with(StepState(phase=phase, order=0)), "charge")


def test_nothing_is_known_once_the_journal_was_dropped() -> None:
    """The row alone does not tell the steps (rule 21)."""
    assert Standing.UNKNOWN is standing(saga_with(None), "charge", dropped=True)


def test_a_tombstone_may_be_asked_about_by_any_neighbour() -> None:
    """Nobody is known to have opened it, and nothing can follow."""
    gone = Saga(id="s", state=SagaState.COMPENSATED)
    for requester in (Requester.UPSTREAM, Requester.DOWNSTREAM, Requester.CLAIMED):
        assert belongs_to(usual(), gone, requester, "web")
    unread = Saga(id="s", state=SagaState.ACTIVE)
    assert not belongs_to(usual(), unread, Requester.UPSTREAM, "web")


@pytest.mark.parametrize("state", list(SagaState))
def test_a_closed_saga_belongs_to_who_opened_it_and_to_downstreams(state: SagaState) -> None:
    """Its journal is dropped, and with it to whom it was handed; a hash tells its upstream."""
    gone = Saga(id="s", state=state, opener=opener_hash("s", "order"), forgotten=True)
    assert belongs_to(usual(), gone, Requester.UPSTREAM, "order")
    assert not belongs_to(usual(), gone, Requester.UPSTREAM, "web")
    assert belongs_to(usual(), gone, Requester.DOWNSTREAM, "shipping")
    for name, may in {"order": True, "shipping": True, "operator kim": True, "web": False}.items():
        assert may is belongs_to(usual(), gone, Requester.CLAIMED, name), name


@pytest.mark.parametrize(
    "state, expected",
    [
        (SagaState.COMPENSATED, Standing.NOTHING),
        (SagaState.FAILED_TO_COMPENSATE, Standing.NOTHING),
        (SagaState.COMPLETED, Standing.STANDS),
        (SagaState.COMPENSATING, Standing.STANDS),
    ],
)
def test_a_step_without_an_undo_stands_where_its_saga_says_so(
    state: SagaState, expected: Standing
) -> None:
    """`record` wrote rows that stay: of a saga that was undone neither row nor list shows them."""
    plan = usual()
    saga = replace(saga_with(None), state=state, steps={"record": done()})

    assert expected is standing_in(plan, saga, "record")
    assert (state is SagaState.COMPENSATING) is ("record" in standing_apart(plan, saga)[0])


def done() -> StepState:
    """A step that succeeded."""
    return StepState(phase=Phase.SUCCEEDED, order=1, result=ONE)


STEP = StepState(phase=Phase.IN_DOUBT, order=0)
CALL = Step(name="charge", kind=StepKind.CALL, peer="psp", compensatable=True, probed=True)
FORWARD = "forward:shipping"


# --- of one step ---


@pytest.mark.parametrize("phase", list(Phase))
def test_an_undo_is_needed_while_something_can_be_done(phase: Phase) -> None:
    """Not of a step without an undo, nor once it is undone, or has failed for good."""
    known = replace(STEP, phase=phase, result=ONE)
    over = phase in (Phase.COMPENSATED, Phase.COMPENSATION_FAILED)
    assert (not over) is needs_compensation(CALL, known)
    assert not needs_compensation(replace(CALL, compensatable=False), known)
    assert not needs_compensation(CALL, replace(known, result=None))


@pytest.mark.parametrize(
    "not_there, probes, worth", [(0, 0, True), (1, 2, True), (2, 0, False), (0, 3, False)]
)
def test_an_api_is_asked_until_it_has_said_no_twice_or_too_often_nothing(
    not_there: int, probes: int, worth: bool
) -> None:
    rules = replace(CALL, settlement=RetryPolicy(attempts_max=3))
    known = replace(STEP, not_there=not_there, probes=probes)
    assert worth is can_probe(rules, known)
    assert not can_probe(replace(rules, probed=False), known)


@pytest.mark.parametrize(
    "lifetime, began, lasted, now, forgotten",
    [
        (None, 1.0, 1e9, 1e9, False),
        (60.0, None, 1e9, 1e9, False),
        (60.0, 1.0, 0.0, 60.9, False),
        (60.0, 1.0, 0.0, 61.0, True),
        (60.0, 1.0, 59.9, 1.0, False),
        (60.0, 1.0, 60.0, 1.0, True),
        (60.0, 100.0, 60.0, 1.0, True),
    ],
)
def test_a_key_is_forgotten_by_the_longer_of_two_times(
    lifetime: float | None, began: float | None, lasted: float, now: float, forgotten: bool
) -> None:
    """The time of the clock runs without a process, the time of the journal does not (rule 34)."""
    rules = replace(CALL, key_lifetime_seconds=lifetime)
    assert forgotten is key_forgotten(rules, began, lasted, now)


@pytest.mark.parametrize("not_there", [0, 1, 2, 3])
def test_a_call_without_keys_is_settled_before_it_is_repeated(not_there: int) -> None:
    known = replace(STEP, not_there=not_there, may_come=True)
    assert (not_there < 2) is must_be_settled(replace(CALL, idempotent=False), known)
    assert not must_be_settled(CALL, known)
    pivot = replace(CALL, pivot=True)
    assert (not_there < 2) is pivot_may_come(pivot, known)
    assert not pivot_may_come(CALL, known)
    assert not pivot_may_come(pivot, replace(known, may_come=False))
    assert not pivot_may_come(pivot, replace(known, phase=Phase.SUCCEEDED))


@pytest.mark.parametrize("phase", list(Phase))
def test_a_step_pends_while_others_have_the_word(phase: Phase) -> None:
    """Its API, also while it is probed, or a person."""
    waits = phase in (Phase.PENDING, Phase.AWAITING_APPROVAL)
    assert waits is pends(replace(STEP, phase=phase))
    assert (waits or phase is Phase.PROBING) is pends(replace(STEP, phase=phase, pending_since=1.0))


def test_a_forward_is_looked_for_where_its_yes_may_have_been_passed_on() -> None:
    """A run was lost with it, nobody has settled the doubt, and downstream has not said no."""
    rules = Step(
        name=FORWARD, kind=StepKind.FORWARD, peer="shipping", settlement=RetryPolicy(attempts_max=3)
    )
    known = replace(STEP, cut_off=True, doubted=True, unserved=2)
    assert must_be_looked_for(rules, known)
    assert not must_be_looked_for(replace(rules, kind=StepKind.CALL), known)
    for other in (
        replace(known, cut_off=False),
        replace(known, doubted=False),
        replace(known, not_there=1),
        replace(known, unserved=3),
    ):
        assert not must_be_looked_for(rules, other)


# --- of the saga ---


@pytest.mark.parametrize("phase", list(Phase))
def test_a_saga_is_in_flight_with_any_attempt(phase: Phase) -> None:
    """Also with the message to upstream."""
    flies = phase in (Phase.STARTED, Phase.PROBING, Phase.COMPENSATING)
    saga = saga_with(replace(STEP, phase=phase))
    assert (["charge"] if flies else []) == steps_in_flight(saga)
    assert flies is is_in_flight(saga)
    assert is_in_flight(replace(saga, tell=Tell.IN_FLIGHT))


def test_a_persons_decision_leaves_nothing_and_an_unknown_step_may() -> None:
    """Before it is asked as well; a step of another release is judged by its state alone."""
    ask = Step(name="ask", kind=StepKind.APPROVAL)
    plan, begun = plan_of("payment", (ask,)), replace(STEP, phase=Phase.STARTED, doubted=True)
    saga = Saga(id="s", steps={"ask": begun, "gone": begun})
    assert Standing.NOTHING is standing_in(plan, saga, "ask")
    assert Standing.MAY_STAND is standing_in(plan, saga, "gone")
    assert ((), ("gone",)) == standing_apart(plan, saga)


def test_an_effect_that_stands_is_named_with_those_behind_it() -> None:
    """In the order of the plan; a downstream's own steps stand behind its name."""
    failed = replace(STEP, phase=Phase.COMPENSATION_FAILED)
    saga = Saga(
        id="s",
        steps={FORWARD: replace(failed, stands=("book", "pack")), "charge": failed, "record": STEP},
    )
    assert ("charge", FORWARD, "shipping/book", "shipping/pack") == what_stands(usual(), saga)
    assert () == what_stands(usual(), Saga(id="s"))


@pytest.mark.parametrize(
    "step, stood",
    [
        (replace(STEP, phase=Phase.REFUSED), False),
        (replace(STEP, doubted=True), True),
        (replace(STEP, phase=Phase.COMPENSATED, result=ONE), True),
        (replace(STEP, result=ONE, asked=True), False),
        (replace(STEP, may_come=True), True),
    ],
)
def test_whether_anything_of_a_saga_ever_stood(step: StepState, stood: bool) -> None:
    """Undone or not. Downstream's no for now is none of its acts (decision 0083)."""
    assert stood is anything_stood(saga_with(step))
    forward = Saga(id="s", steps={FORWARD: step})
    assert (stood and not step.may_come) is anything_stood(forward)
    assert not anything_stood(Saga(id="s"))


PIVOT_PHASES = {
    Phase.STARTED: True,
    Phase.PROBING: True,
    Phase.IN_DOUBT: None,
    Phase.WAITING: None,
    Phase.PENDING: None,
    Phase.REFUSED: None,
}
"""Whether the pivot is undecided; None: where there is a doubt about it."""


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("doubt", [{}, {"doubted": True}, {"may_come": True}])
def test_the_pivot_decides_where_a_saga_may_go(phase: Phase, doubt: dict[str, bool]) -> None:
    """Forward alone once it has happened; neither way while nobody knows (rule 20)."""
    plan, saga = pivoted(), Saga(id="s", steps={"pay": replace(STEP, phase=phase, **doubt)})
    undecided = PIVOT_PHASES.get(phase, False)

    assert (phase is Phase.SUCCEEDED) is past_pivot(plan, saga)
    assert (phase is Phase.COMPENSATION_FAILED) is pivot_given_up(plan, saga)
    assert (bool(doubt) if undecided is None else undecided) is pivot_undecided(plan, saga)
    for question in (past_pivot, pivot_given_up, pivot_undecided):
        assert not question(plan, Saga(id="s"))
        assert not question(usual(), saga)


@pytest.mark.parametrize("state", list(SagaState))
def test_one_word_for_the_whole_saga(state: SagaState) -> None:
    """A completed saga stands; nothing is known of a dropped one but that it was compensated."""
    plan, doubt = usual(), replace(STEP, phase=Phase.COMPENSATION_FAILED, doubted=True)
    completed = Standing.STANDS if state is SagaState.COMPLETED else Standing.NOTHING
    assert completed is standing_of_saga(plan, Saga(id="s", state=state))
    may = Standing.STANDS if state is SagaState.COMPLETED else Standing.MAY_STAND
    assert may is standing_of_saga(plan, replace(saga_with(doubt), state=state))
    known = Standing.STANDS
    assert known is standing_of_saga(
        plan, replace(saga_with(replace(doubt, doubted=False, result=ONE)), state=state)
    )
    dropped = Standing.NOTHING if state is SagaState.COMPENSATED else Standing.UNKNOWN
    assert dropped is standing_of_saga(plan, Saga(id="s", state=state), dropped=True)


@pytest.mark.parametrize("state", list(SagaState))
def test_nobody_knows_what_a_saga_left_that_fits_no_version(state: SagaState) -> None:
    """Until a person has ended it (rule 32)."""
    misfit, saga = replace(usual(), misfit="no version fits"), Saga(id="s", state=state)
    assert (not saga.ended) is (standing_of_saga(misfit, saga) is Standing.UNKNOWN)


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.PROBING, Phase.COMPENSATING])
def test_the_list_of_a_saga_has_an_attempt_in_flight(phase: Phase) -> None:
    """As its own row: a request that has left may have acted, whoever runs its code."""
    saga = saga_with(replace(STEP, phase=phase))
    assert Standing.MAY_STAND is standing_in(usual(), saga, "charge")
    assert ((), ("charge",)) == standing_apart(usual(), saga)
    assert ((), ("charge",)) == standing_apart(replace(usual(), misfit="x"), saga)


def test_effects_that_stand_and_effects_that_may_are_two_lists() -> None:
    done = replace(STEP, phase=Phase.SUCCEEDED, result=ONE)
    saga = Saga(id="s", steps={"reserve": done, "charge": replace(STEP, doubted=True)})
    assert (("reserve",), ("charge",)) == standing_apart(usual(), saga)


OVER = {"state": SagaState.COMPLETED}


@pytest.mark.parametrize(
    "saga, misfit, newer, closed, said",
    [
        (Saga(id="s"), "", False, False, ""),
        (Saga(id="s", **OVER), "", False, False, ""),  # type: ignore[arg-type]
        (Saga(id="s", state=SagaState.COMPENSATED, forgotten=True), "", False, True, ""),
        (
            Saga(id="s", state=SagaState.FAILED_TO_COMPENSATE, stands=("a", "b")),
            "",
            False,
            True,
            "it could not be undone: a, b; retry or resolve it",
        ),
        (Saga(id="s"), "no version fits", False, True, "no version fits: the request is kept"),
        (Saga(id="s"), "version 3", True, False, ""),
        (Saga(id="s", forgotten=True), "no version fits", False, False, "it is forgotten"),
        (Saga(id="s", **OVER), "", False, True, "its window is over"),  # type: ignore[arg-type]
        (
            Saga(id="s", steps={"pay": StepState(phase=Phase.SUCCEEDED, order=0)}),
            "",
            False,
            False,
            "it is behind its pivot",
        ),
    ],
)
def test_why_a_request_to_compensate_moves_nothing(
    saga: Saga, misfit: str, newer: bool, closed: bool, said: str
) -> None:
    plan = replace(pivoted(), misfit=misfit, newer=newer)
    found = why_not_compensated(plan, saga, closed=closed)
    assert bool(said) is bool(found)
    assert said in found


@pytest.mark.parametrize(
    "requester, name, may",
    [
        (Requester.OPERATOR, "kim", True),
        (Requester.UPSTREAM, "order", True),
        (Requester.UPSTREAM, "web", False),
        (Requester.DOWNSTREAM, "shipping", True),
        (Requester.DOWNSTREAM, "archive", False),
        (Requester.CLAIMED, "order", True),
        (Requester.CLAIMED, "shipping", True),
        (Requester.CLAIMED, "operator", True),
        (Requester.CLAIMED, "unknown", True),
        (Requester.CLAIMED, "operator kim", True),
        (Requester.CLAIMED, "web", False),
        # It added to the data behind the forward, under its name (decision 0026).
        (Requester.CLAIMED, "parcels", True),
    ],
)
def test_a_saga_belongs_to_its_neighbours_and_to_operators(
    requester: Requester, name: str, may: bool
) -> None:
    """To the upstream that opened it, and to those that it was handed to (rule 36)."""
    handed = StepState(
        phase=Phase.SUCCEEDED, order=0, result=msgspec.Raw(b'{"shipping":{},"parcels":{"id":1}}')
    )
    saga = Saga(id="s", upstream="order", steps={FORWARD: handed})
    assert may is belongs_to(usual(), saga, requester, name)


@pytest.mark.parametrize(
    "saga",
    [
        Saga(id="s", state=SagaState.COMPENSATED, upstream="order"),
        Saga(id="s", state=SagaState.COMPENSATED, steps={"charge": STEP}),
    ],
    ids=["opened", "ran"],
)
def test_only_a_saga_of_which_nothing_is_known_belongs_to_all(saga: Saga) -> None:
    """One that was opened, or has run, is no tombstone, although it is over."""
    assert not belongs_to(usual(), saga, Requester.UPSTREAM, "web")
    assert not belongs_to(usual(), saga, Requester.DOWNSTREAM, "shipping")


def test_a_lost_saga_whose_opener_nobody_names_is_its_upstreams_once_it_is_undone() -> None:
    """Its opener was refused for good, also behind the undo. Until then nothing says who it is."""
    parked = Saga(id="s", deadline=0.0, steps={"charge": STEP}, parked_cause=ParkCause.LOST)
    undoing = replace(parked, state=SagaState.COMPENSATING, parked_cause=None)
    undone = replace(undoing, state=SagaState.COMPENSATED)
    for saga, belongs, awaits in (
        (parked, False, True),
        (undoing, False, True),
        (undone, True, False),
        (replace(parked, upstream="order"), False, False),
        (replace(undone, upstream="order"), False, False),
        (replace(parked, forgotten=True), False, False),
        (replace(undone, state=SagaState.FAILED_TO_COMPENSATE), False, False),
    ):
        assert belongs is belongs_to(usual(), saga, Requester.UPSTREAM, "web")
        assert awaits is awaits_opener(saga)
    for name, may in (("web", False), ("operator", True), ("shipping", True)):
        assert may is belongs_to(usual(), parked, Requester.CLAIMED, name)
    assert belongs_to(usual(), undone, Requester.CLAIMED, "web")


def test_a_downstream_that_has_another_name_today_knows_its_sagas() -> None:
    """Under each of them, whether the journal folds to the name of then or to today's."""
    plan = replace(usual(), peers_renamed={"couriers": "shipping", "mail": "shipping"})
    saga = Saga(id="s", upstream="order", steps={"forward:couriers": STEP})
    folded = Saga(id="s", upstream="order", steps={"forward:shipping": STEP})
    for name in ("shipping", "couriers", "mail"):
        assert belongs_to(plan, saga, Requester.DOWNSTREAM, name)
        assert belongs_to(plan, folded, Requester.DOWNSTREAM, name)
    assert not belongs_to(plan, folded, Requester.DOWNSTREAM, "parcels")
    assert not belongs_to(usual(), saga, Requester.DOWNSTREAM, "shipping")
    assert belongs_to(plan, saga, Requester.CLAIMED, "couriers")
    assert not belongs_to(usual(), saga, Requester.CLAIMED, "couriers")


def test_a_saga_of_an_unknown_upstream_belongs_to_nobody_and_so_to_all() -> None:
    """Where callers have no names, the id alone is what they know."""
    saga = Saga(id="s", steps={"charge": STEP})
    assert belongs_to(usual(), saga, Requester.CLAIMED, "web")
    assert not belongs_to(usual(), saga, Requester.UPSTREAM, "web")


@pytest.mark.parametrize("result", [b"null", b"[]", b'"parcels"', b'{"archive":1}'])
def test_a_name_that_a_forward_did_not_add_opens_nothing(result: bytes) -> None:
    handed = StepState(phase=Phase.SUCCEEDED, order=0, result=msgspec.Raw(result))
    saga = Saga(id="s", upstream="order", steps={FORWARD: handed, "charge": handed})
    assert not belongs_to(usual(), saga, Requester.CLAIMED, "parcels")
