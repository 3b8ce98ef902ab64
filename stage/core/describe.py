"""Says in words what a saga does next: for operators, drawn from the machine itself."""

from __future__ import annotations

from stage.core.commands import Activity, Do, Record, Rest
from stage.core.events import name_of
from stage.core.machine import decide
from stage.core.saga import Saga
from stage.core.states import IN_FLIGHT, Phase, Tell
from stage.core.steps import Plan

VERBS = {
    Phase.STARTED: "executing",
    Phase.PROBING: "probing",
    Phase.COMPENSATING: "compensating",
}


def next_action(plan: Plan, saga: Saga, now: float) -> tuple[str, float | None] | None:
    """The next action and its instant; None for the instant means now, or when an answer comes.

    None when nothing is left to do.
    """
    if saga.parked and (saga.ended or not _in_flight(saga)) and saga.tell is not Tell.DUE:
        return (f"waits for a person: {saga.parked}", None)
    flying = _in_flight(saga)
    if flying:
        return (", ".join(flying), None)
    due: float | None = None
    for command in decide(plan, saga, now):
        match command:
            case Record():
                return (name_of(command.event), now)
            case Do():
                return (_describe(command, saga), now)
            case Rest():
                due = command.until
    if due is None:
        return None
    for command in decide(plan, saga, due + 0.001):
        if isinstance(command, Do):
            return (_describe(command, saga), due)
        if isinstance(command, Record):
            return (name_of(command.event), due)
    return ("looks again", due)


def _in_flight(saga: Saga) -> list[str]:
    names = [
        f"{VERBS[step.phase]} {name}"
        for name, step in saga.steps.items()
        if step.phase in IN_FLIGHT
    ]
    if saga.tell is Tell.IN_FLIGHT:
        names.append(f"telling {saga.upstream}")
    return names


def _describe(do: Do, saga: Saga) -> str:
    if do.activity is Activity.TELL:
        return f"tell {saga.upstream} to compensate (attempt {do.attempt})"
    return f"{do.activity.value} {do.step} (attempt {do.attempt})"
