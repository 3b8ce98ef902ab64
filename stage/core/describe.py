"""Says in words what a saga did and does next, from the table of events and the machine itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stage.core.age import lasted
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.event_table import NAMED, wording_of
from stage.core.events import name_of
from stage.core.machine import decide
from stage.core.questions import steps_in_flight
from stage.core.saga import Saga
from stage.core.states import Phase, Tell
from stage.core.steps import Plan

VERBS = {
    Phase.STARTED: "executing",
    Phase.PROBING: "probing",
    Phase.COMPENSATING: "compensating",
}

_BEFORE_STEP = {
    AttemptKind.EXECUTE: "",
    AttemptKind.PROBE: "probe ",
    AttemptKind.COMPENSATE: "compensate ",
    AttemptKind.TELL: "tell upstream",
}


def attempt_in_words(kind: AttemptKind, step: str) -> str:
    """An attempt as timelines name it, such as `charge`, `probe charge` or `tell upstream`."""
    return f"{_BEFORE_STEP[kind]}{step}"


def event_in_words(name: str, members: Mapping[str, Any]) -> str:
    """An event of a journal in one line, such as `compensate charge: started, attempt 2`.

    Only members that the table makes public are shown, whatever is given. A name that the table
    does not know is shown as it is: a neighbour may use its own.
    """
    row = NAMED.get(name)
    may_stand = bool(members.get("may_stand"))
    wording = name if row is None else wording_of(row, may_stand=may_stand)
    public = ("step",) if row is None else row.public
    given = {member: members[member] for member in public if members.get(member) is not None}
    step = str(given.get("step", ""))
    if row is not None and (kind := row.starts or row.ends) is not None:
        said = f"{attempt_in_words(kind, step)}: {wording}"
    else:
        said = f"{wording}: {step}" if step else wording
    words = [said, *(_IN_WORDS[each](given[each]) for each in given if each in _IN_WORDS)]
    reason = given.get("reason") or given.get("why")
    return ", ".join(filter(None, words)) + (f" ({reason})" if reason else "")


def _by(name: object) -> str:
    return f"by {name}" if name else ""


def _stands(names: object) -> str:
    return f"stands: {', '.join(map(str, names))}" if isinstance(names, list | tuple) else ""


_IN_WORDS: Mapping[str, Callable[[Any], str]] = {
    "attempt": lambda number: "" if number == 1 else f"attempt {number}",
    "epoch": lambda number: f"as run {number}",
    "requested_by": _by,
    "actor": _by,
    "stands": _stands,
    "landed": lambda landed: "as landed" if landed else "as not landed",
}
"""The words of a member, where its value alone would not be understood."""


def next_action(plan: Plan, saga: Saga, now: float) -> tuple[str, float | None] | None:
    """The next action and its instant; None for the instant means now, or when an answer comes.

    None when nothing is left to do.
    """
    if saga.parked and (saga.ended or not _in_flight(saga)) and saga.tell is not Tell.DUE:
        return (f"waits for a person: {saga.parked}", None)
    flying = _in_flight(saga)
    if flying:
        return (", ".join(flying), None)
    asked = [n for n, step in saga.steps.items() if step.phase is Phase.AWAITING_APPROVAL]
    if asked:
        text = f"waits for a person to approve {', '.join(asked)}; silence is a no"
        return (text, _until(plan, saga, asked, now))
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


def _until(plan: Plan, saga: Saga, asked: list[str], now: float) -> float:
    """The instant at which the first of those approvals is refused for want of an answer."""
    return now + min(
        plan.step(name).pending_seconds_max - lasted(saga, saga.steps[name].pending_since, now)
        for name in asked
    )


def _in_flight(saga: Saga) -> list[str]:
    names = [f"{VERBS[saga.steps[name].phase]} {name}" for name in steps_in_flight(saga)]
    if saga.tell is Tell.IN_FLIGHT:
        names.append(f"telling {saga.upstream}")
    return names


def _describe(do: Do, saga: Saga) -> str:
    if do.kind is AttemptKind.TELL:
        return f"tell {saga.upstream} to compensate (attempt {do.attempt})"
    return f"{do.kind.value} {do.step} (attempt {do.attempt})"
