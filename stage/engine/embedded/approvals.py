"""The approvals that wait for a person: by step, and until when the first may be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stage.core.states import StepKind
from stage.core.steps import Plan
from stage.ports.store import Approvals, Asked

Plans = Mapping[int, Plan]
"""By version: a saga keeps the plan that accepted it, with the time-outs of its approvals."""


def approvals_of(asked: Sequence[Asked], plans: Plans, now: float) -> tuple[Approvals, ...]:
    """The approvals by step, also of a declared step that no saga waits at."""
    found: dict[str, list[Asked]] = {
        step.name: []
        for plan in plans.values()
        for step in plan.steps
        if step.kind is StepKind.APPROVAL
    }
    for each in asked:
        found.setdefault(_name_today(each, plans), []).append(each)
    return tuple(_at_step(step, found[step], plans, now) for step in sorted(found))


def _name_today(asked: Asked, plans: Plans) -> str:
    """A row that was written before its step was renamed has the former name."""
    plan = plans.get(asked.version)
    return asked.step if plan is None else plan.renamed.get(asked.step, asked.step)


def _at_step(step: str, asked: Sequence[Asked], plans: Plans, now: float) -> Approvals:
    ends = [
        now + plan.step(step).pending_seconds_max - each.oldest_waited_seconds
        for each in asked
        if (plan := plans.get(each.version)) is not None and step in plan.by_name
    ]
    return Approvals(
        step=step,
        sagas=sum(each.sagas for each in asked),
        oldest_asked_at=min((each.oldest_asked_at for each in asked), default=None),
        first_ends_at=min(ends, default=None),
    )
