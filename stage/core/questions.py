"""Questions about a saga. Pure: the same saga always gets the same answer.

Nothing here changes a saga or decides what is done; the machine does both, and asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, assert_never

import msgspec

from stage.core.names import STAGE_NAME
from stage.core.requester import Requester, opener_hash
from stage.core.saga import Saga, StepState
from stage.core.states import IN_FLIGHT, ParkCause, Phase, SagaState, Tell
from stage.core.steps import FORWARD_PREFIX, Plan, Step, StepKind

PROBES_NOT_THERE_MIN = 2
"""An API must say "not there" this often, apart, before it is believed (rule 5)."""

OVER = 0.0
"""A deadline that is over by every clock: that of this moment may be days ahead (rule 34)."""

ASKERS_OF_ANY_SAGA = ("operator", "unknown")
"""Names that may ask to compensate any saga; an operator's own name stands behind a blank."""


class Standing(StrEnum):
    """Whether the effect of a step exists in the world, as far as the journal knows."""

    NOTHING = "nothing"
    """No attempt had an effect, or the effect was compensated."""
    STANDS = "stands"
    """A result is known, and nothing of it was compensated."""
    MAY_STAND = "may_stand"
    """An attempt may have had an effect: in doubt, in flight, or under compensation."""
    UNKNOWN = "unknown"
    """It cannot be known here: the journal with the step was dropped (rule 21)."""


def standing(saga: Saga, name: str, *, dropped: bool = False) -> Standing:
    """The standing of one step. `dropped` says that the saga's journal was dropped."""
    if dropped:
        return Standing.UNKNOWN
    known = saga.steps.get(name)
    if known is None or known.asked or known.phase is Phase.COMPENSATED:
        return Standing.NOTHING
    match known.phase:
        case Phase.STARTED | Phase.PROBING | Phase.IN_DOUBT | Phase.PENDING:
            return Standing.MAY_STAND
        case Phase.COMPENSATING | Phase.COMPENSATION_WAITING:
            return Standing.MAY_STAND  # an undo that was sent may have had its effect already
        case _:
            if known.doubted or known.may_come:
                return Standing.MAY_STAND
            return Standing.NOTHING if known.result is None else Standing.STANDS


def standing_in(plan: Plan, saga: Saga, name: str) -> Standing:
    """The standing of one step as the lists of its saga count it.

    For a saga that was undone, only effects that should not stand are listed: the effect of a step
    that declares no compensation may stay.
    """
    found, step = standing(saga, name), plan.by_name.get(name)
    if not leaves_something(plan, name):
        return Standing.NOTHING
    went_back = saga.state in (SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE)
    if went_back and found is Standing.STANDS and step is not None and not step.compensatable:
        return Standing.NOTHING
    return found


def standing_apart(plan: Plan, saga: Saga) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The effects that stand although they should not, and those that may: two lists of names.

    While the saga is under way these are all its effects so far. A name after that of a peer,
    `shipping/book`, is the peer's own word about itself.
    """
    if saga.ended:
        names = what_stands(plan, saga)
    else:
        names = tuple(
            name
            for name, step in saga.steps.items()
            if (step.may_stand or step.phase in IN_FLIGHT) and leaves_something(plan, name)
        )
    may_stand = tuple(name for name in names if standing(saga, name) is Standing.MAY_STAND)
    return tuple(name for name in names if name not in may_stand), may_stand


def leaves_something(plan: Plan, name: str) -> bool:
    """Whether a step of that name can have an effect: a person's decision has none."""
    step = plan.by_name.get(name)
    return step is None or step.kind is not StepKind.APPROVAL


def standing_of_saga(plan: Plan, saga: Saga, *, dropped: bool = False) -> Standing:
    """One word for the whole saga. `dropped` says that its journal cannot be read here.

    The journal of a saga that fits no version declared here says what was done, and nobody here
    knows what that means (rule 32).
    """
    if (dropped or (plan.misfit and not saga.ended)) and saga.state is not SagaState.COMPENSATED:
        return Standing.UNKNOWN
    stands, may_stand = standing_apart(plan, saga)
    if stands or saga.state is SagaState.COMPLETED:
        return Standing.STANDS
    return Standing.MAY_STAND if may_stand else Standing.NOTHING


# --- of one step ---------------------------------------------------------------------------------


def needs_compensation(step: Step, known: StepState) -> bool:
    """True while the step's effect may stand and something can still be done about it."""
    if not step.compensatable or known.phase is Phase.COMPENSATION_FAILED:
        return False
    return known.may_stand


def can_probe(step: Step, known: StepState) -> bool:
    """True while it is worth asking the API what became of the call."""
    settled = known.not_there >= PROBES_NOT_THERE_MIN
    return step.probed and not settled and not step.settlement.exhausted(known.probes)


def key_forgotten(step: Step, began: float | None, lasted: float, now: float) -> bool:
    """True once the API may have forgotten the key of a request that left at `began`.

    A repeat is an act that cannot be taken back, so the longer of two times holds: `lasted`, which
    the journal shows, and that of the clock, which also runs while no process does (rule 34).
    """
    if step.key_lifetime_seconds is None or began is None:
        return False
    return max(now - began, lasted) >= step.key_lifetime_seconds


def must_be_settled(step: Step, known: StepState) -> bool:
    """True of a call in doubt that may not be repeated and was not twice found to be not there."""
    return not step.idempotent and known.not_there < PROBES_NOT_THERE_MIN


def pivot_may_come(step: Step, known: StepState) -> bool:
    """True of a pivot whose API said no for now, and nobody knows for whom (decision 0087)."""
    unsettled = known.may_come and known.not_there < PROBES_NOT_THERE_MIN
    return step.pivot and unsettled and known.phase is not Phase.SUCCEEDED


def pends(step: StepState) -> bool:
    """True while the step waits for the word of others: its API, probes included, or a person."""
    return step.phase in (Phase.PENDING, Phase.AWAITING_APPROVAL) or (
        step.phase is Phase.PROBING and step.pending_since is not None
    )


def must_be_looked_for(step: Step, known: StepState) -> bool:
    """True of a forward that may not be repeated and whose yes may have reached upstream.

    The run that got the yes was lost before it was written down (decision 0011). One "not there"
    is enough, because it is downstream's own word on the saga. A downstream that is away costs
    time alone; one that need not show its sagas, and shows none, is asked a few times.
    """
    return (
        step.kind is StepKind.FORWARD
        and known.cut_off
        and known.doubted
        and known.not_there == 0
        and not step.settlement.exhausted(known.unserved)
    )


# --- of the saga ---------------------------------------------------------------------------------


def is_in_flight(saga: Saga) -> bool:
    """True while any attempt of the saga is in flight, upstream's notification included."""
    return saga.tell is Tell.IN_FLIGHT or bool(steps_in_flight(saga))


def steps_in_flight(saga: Saga) -> list[str]:
    """The names of the steps with an attempt in flight."""
    return [name for name, step in saga.steps.items() if step.phase in IN_FLIGHT]


def what_stands(plan: Plan, saga: Saga) -> tuple[str, ...]:
    """Names of the steps whose effects remain although everything was tried (rule 12)."""
    names: list[str] = []
    for step in plan.steps:
        known = saga.steps.get(step.name)
        if known is not None and known.phase is Phase.COMPENSATION_FAILED:
            names.append(step.name)
            names.extend(f"{step.peer}/{name}" for name in known.stands)
    return tuple(names)


def belongs_to(plan: Plan, saga: Saga, requester: Requester, name: str) -> bool:
    """Whether that caller may see the saga and ask to compensate it (rule 36).

    A saga belongs to the upstream that opened it, to the downstreams that it was handed to, and to
    operators. A saga whose journal was dropped belongs to its opener, whose hash is kept, and to
    all downstreams, because nothing says any more which of them had it. A tombstone belongs to all:
    it has no opener, and nothing can follow. So does a lost saga without an opener to all upstreams
    once it is compensated, for one of them opened it. Where callers have no names, a saga whose
    upstream is unknown belongs to all, unless it is parked as lost, and a downstream is also known
    by the name under which it added to the data (decision 0026).
    """
    over = saga.state is not SagaState.ACTIVE or saga.forgotten
    nothing_follows = over and not (saga.upstream or saga.steps)
    match requester:
        case Requester.OPERATOR:
            return True
        case Requester.UPSTREAM:
            compensated = saga.state is SagaState.COMPENSATED and not saga.upstream
            nothing_follows |= compensated and saga.deadline == OVER
            return (nothing_follows and not saga.opener) or _opened_by(saga, name)
        case Requester.DOWNSTREAM:
            return nothing_follows or bool(forward_of(plan, saga, name))
        case Requester.CLAIMED:
            lost = saga.parked_cause is ParkCause.LOST
            if not (saga.upstream or saga.opener or lost) or name in ASKERS_OF_ANY_SAGA:
                return True
            if hands_on_to(plan, name) or STAGE_NAME.fullmatch(name) is None:
                return True
            return _opened_by(saga, name) or any(name in _added_by(saga, s) for s in plan.steps)
        case _:
            assert_never(requester)


def hands_on_to(plan: Plan, name: str) -> bool:
    """Whether the plan hands sagas on to that downstream, which may have another name today."""
    return FORWARD_PREFIX + plan.peers_renamed.get(name, name) in plan.by_name


def forward_of(plan: Plan, saga: Saga, name: str) -> str:
    """The step that handed the saga on to that downstream; empty where none did.

    The name may be one that it had before (rule 32), and so may that of the step: a saga that fits
    no plan keeps the names of its journal.
    """
    today = plan.peers_renamed.get(name, name)
    formerly = (old for old, new in plan.peers_renamed.items() if new == today)
    names = (FORWARD_PREFIX + each for each in (name, today, *formerly))
    return next((each for each in names if each in saga.steps), "")


def awaits_opener(saga: Saga) -> bool:
    """True of a saga that was lost, and whose opener no neighbour could name (decision 0115).

    Each upstream may be its opener: until a person has undone it, none of them is refused for good.
    """
    if saga.upstream or saga.opener or saga.forgotten:
        return False
    turned = saga.state is SagaState.COMPENSATING and saga.deadline == OVER
    return turned or saga.parked_cause is ParkCause.LOST


def _opened_by(saga: Saga, name: str) -> bool:
    if saga.opener:
        return saga.opener == opener_hash(saga.id, name)
    return saga.upstream == name


def _added_by(saga: Saga, step: Step) -> Mapping[str, Any]:
    """The additions of the stages behind a forward, each under its name."""
    known = saga.steps.get(step.name)
    if step.kind is not StepKind.FORWARD or known is None or known.result is None:
        return {}
    added = msgspec.json.decode(known.result)
    return added if isinstance(added, dict) else {}


def anything_stood(saga: Saga) -> bool:
    """True when some effect of the saga was ever made, or may have been."""
    return any(
        step.doubted
        or (step.result is not None and not step.asked)
        or (step.may_come and not name.startswith(FORWARD_PREFIX))  # decision 0083
        for name, step in saga.steps.items()
    )


def why_not_compensated(plan: Plan, saga: Saga, *, closed: bool) -> str:
    """Why a request to compensate moves the saga neither now nor later; empty where it does.

    `closed` says that its undo data was dropped (rule 21).
    """
    if saga.state is SagaState.COMPENSATED:
        return ""
    if saga.state is SagaState.FAILED_TO_COMPENSATE:
        return f"it could not be undone: {', '.join(saga.stands)}; retry or resolve it"
    if plan.misfit and not (plan.newer or saga.forgotten):
        return f"{plan.misfit}: the request is kept, and nothing is undone before that is mended"
    if closed:
        return "its window is over, or it was closed by hand: it cannot be undone any more"
    if saga.forgotten:
        return "it is forgotten: nothing more is done for it"
    if past_pivot(plan, saga):
        return "it is behind its pivot, and only goes forward"
    return ""


def past_pivot(plan: Plan, saga: Saga) -> bool:
    """True once the pivot has succeeded: from there the saga only goes forward (rule 20)."""
    if plan.pivot is None:
        return False
    known = saga.steps.get(plan.steps[plan.pivot].name)
    return known is not None and known.phase is Phase.SUCCEEDED


def pivot_given_up(plan: Plan, saga: Saga) -> bool:
    """True once a person has given up a pivot that has happened, or may have."""
    if plan.pivot is None:
        return False
    known = saga.steps.get(plan.steps[plan.pivot].name)
    return known is not None and known.phase is Phase.COMPENSATION_FAILED


def pivot_undecided(plan: Plan, saga: Saga) -> bool:
    """True while nobody knows whether the pivot has happened, so that neither way is open.

    A no does not end the doubt about an attempt before it, or about a part that was done.
    """
    if plan.pivot is None:
        return False
    pivot = plan.steps[plan.pivot]
    known = saga.steps.get(pivot.name)
    if known is None:
        return False
    doubtful = known.doubted or pivot_may_come(pivot, known)
    return known.phase in (Phase.STARTED, Phase.PROBING) or (
        doubtful and known.phase in (Phase.IN_DOUBT, Phase.WAITING, Phase.PENDING, Phase.REFUSED)
    )
