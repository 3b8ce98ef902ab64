"""The attempts that were in flight when their run was lost, read from the journal."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stage.core import events as e
from stage.core.commands import Activity
from stage.ports.store import Entry


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt whose outcome nobody journaled; `span` is its span id, never empty."""

    step: str
    activity: Activity
    attempt: int
    span: str
    began: float


def cut_off(entries: Sequence[Entry]) -> tuple[CutOff, ...]:
    """What had begun and not ended when the journal stopped.

    What a run before had left open was told when it was taken over, and is not told again.
    """
    open_: dict[str, CutOff] = {}
    probes: dict[str, int] = {}
    for entry in entries:
        event = entry.event
        match event:
            case e.StepStarted():
                open_[event.step] = _begun(event, Activity.EXECUTE, event.step, event.attempt)
                probes[event.step] = 0
            case e.ProbeStarted():
                probes[event.step] = probes.get(event.step, 0) + 1
                open_[event.step] = _begun(event, Activity.PROBE, event.step, probes[event.step])
            case e.CompensationStarted():
                open_[event.step] = _begun(event, Activity.COMPENSATE, event.step, event.attempt)
            case e.TellStarted():
                open_[""] = _begun(event, Activity.TELL, "", event.attempt)
            case e.Recovered():
                open_.clear()
            case _ if isinstance(event, e.Outcome):
                open_.pop(getattr(event, "step", ""), None)
            case _:
                pass
    return tuple(each for each in open_.values() if each.span)


def _begun(
    event: e.StepStarted | e.ProbeStarted | e.CompensationStarted | e.TellStarted,
    activity: Activity,
    step: str,
    attempt: int,
) -> CutOff:
    return CutOff(step=step, activity=activity, attempt=attempt, span=event.span, began=event.at)
