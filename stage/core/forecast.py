"""The forecast of a compensation: each step of the way back, if it were asked for now."""

from __future__ import annotations

from enum import StrEnum
from itertools import chain

import msgspec

from stage.core.order import way_back
from stage.core.questions import (
    can_probe,
    must_be_settled,
    past_pivot,
    pivot_undecided,
    standing,
)
from stage.core.saga import Saga, StepState
from stage.core.states import IN_FLIGHT, Phase
from stage.core.steps import Plan, Step


class Prospect(StrEnum):
    """The action that a compensation would take for one step."""

    COMPENSATE = "compensate"
    PROBE_FIRST = "probe_first"
    """In doubt: looked up, then compensated, with its result when it is found."""
    WITHOUT_RESULT = "without_result"
    """In doubt and it cannot be looked up: compensated without a result."""
    SETTLE_FIRST = "settle_first"
    """In doubt, and it can neither be looked up nor repeated: parked until a person settles it."""
    WAIT_FIRST = "wait_first"
    """An attempt is in flight; its end is awaited, then it is compensated."""
    PIVOT_FIRST = "pivot_first"
    """Nobody knows yet whether the pivot has happened; undone only if it has not."""
    NOTHING = "nothing"
    """The step declares no compensation."""
    CANNOT = "cannot"
    """Its undo failed, it is behind the pivot, or it fits no version here: a person has to act."""


class ForecastLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the forecast, in the order in which it would happen."""

    step: str
    kind: str
    peer: str
    prospect: Prospect
    standing: str
    """A value of `questions.Standing`."""


def forecast(plan: Plan, saga: Saga) -> list[ForecastLine]:
    """The steps that would be looked at, last started first (rule 7). Nothing is changed."""
    certain = None
    if plan.misfit or past_pivot(plan, saga):
        certain = Prospect.CANNOT
    elif pivot_undecided(plan, saga):
        certain = Prospect.PIVOT_FIRST
    lines: list[ForecastLine] = []
    for step in chain.from_iterable(way_back(plan, saga)):
        known = saga.steps.get(step.name)
        if known is not None and _matters(known):
            lines.append(
                ForecastLine(
                    step=step.name,
                    kind=step.kind.value,
                    peer=step.peer,
                    prospect=certain or _prospect(step, known),
                    standing=standing(saga, step.name).value,
                )
            )
    return lines


def _matters(known: StepState) -> bool:
    return known.may_stand or known.phase in IN_FLIGHT


def _prospect(step: Step, known: StepState) -> Prospect:
    if known.phase is Phase.COMPENSATION_FAILED:
        return Prospect.CANNOT
    if not step.compensatable:
        return Prospect.NOTHING
    if known.phase in (Phase.STARTED, Phase.PROBING):
        return Prospect.WAIT_FIRST
    if known.phase in (Phase.IN_DOUBT, Phase.PENDING):
        if can_probe(step, known):
            return Prospect.PROBE_FIRST
        return Prospect.SETTLE_FIRST if must_be_settled(step, known) else Prospect.WITHOUT_RESULT
    if known.doubted or known.may_come:
        return Prospect.WITHOUT_RESULT
    return Prospect.COMPENSATE
