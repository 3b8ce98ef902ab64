"""Which step is next, either way: forward in waves, backward in the reverse order of the starts.

A wave is the steps that run at the same time. Every room that needs an order asks here; only this
file and core/steps.py, which builds a plan, know how a plan stores its waves.
"""

from __future__ import annotations

from collections.abc import Iterator

from stage.core.questions import needs_compensation
from stage.core.saga import Saga
from stage.core.states import Phase, StepKind
from stage.core.steps import Plan, Step


def waves(plan: Plan) -> tuple[tuple[Step, ...], ...]:
    """The steps of the plan in the order of execution, grouped by what runs at the same time."""
    return plan.waves


def backward(plan: Plan) -> Iterator[Step]:
    """Every step in the order in which a saga of this plan is compensated (rule 7)."""
    for wave in reversed(plan.waves):
        yield from wave


def wave_of(plan: Plan, name: str) -> frozenset[str]:
    """The names of the steps that run at the same time as the named one, itself included."""
    for wave in plan.waves:
        names = frozenset(step.name for step in wave)
        if name in names:
            return names
    raise KeyError(name)


def next_forward(plan: Plan, saga: Saga) -> list[Step]:
    """The steps that have to succeed before the next wave may start; empty when all have."""
    steps, succeeded = saga.steps, Phase.SUCCEEDED
    for wave in plan.waves:
        for step in wave:
            known = steps.get(step.name)
            if known is None or known.phase is not succeeded:
                return [step] if len(wave) == 1 else _unfinished(wave, saga)
    return []


def _unfinished(wave: tuple[Step, ...], saga: Saga) -> list[Step]:
    known = [(step, saga.steps.get(step.name)) for step in wave]
    return [step for step, at in known if at is None or at.phase is not Phase.SUCCEEDED]


def way_back(plan: Plan, saga: Saga) -> list[tuple[Step, ...]]:
    """The waves that began, as they are compensated: downstreams first, then what began last.

    A deploy may have put the steps in another order, or new ones between them (rule 7).
    """
    begun = []
    for wave in plan.waves:
        starts = [known.order for step in wave if (known := saga.steps.get(step.name)) is not None]
        if starts:
            begun.append((wave[0].kind is StepKind.FORWARD, max(starts), wave))
    begun.sort(key=lambda each: each[:2])
    return [wave for _, _, wave in reversed(begun)]


def next_backward(plan: Plan, saga: Saga) -> list[Step]:
    """The started steps that have to be compensated before those that began before (rule 7)."""
    for wave in way_back(plan, saga):
        unfinished: list[Step] = []
        for step in wave:
            known = saga.steps.get(step.name)
            if known is not None and needs_compensation(step, known):
                unfinished.append(step)
        if unfinished:
            return unfinished
    return []
