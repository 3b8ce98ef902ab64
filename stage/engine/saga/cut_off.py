"""The attempts that were in flight when their process was lost, read from the journal."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stage.core import events as e
from stage.core.commands import Activity
from stage.ports.store import Entry


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt without an outcome in the journal; `span` is its span id, never empty.

    `links` are those that it had: to the attempts that it repeated, looked for or compensated.
    """

    step: str
    activity: Activity
    attempt: int
    span: str
    began: float
    links: tuple[str, ...] = ()


def cut_off(entries: Sequence[Entry]) -> tuple[CutOff, ...]:
    """The attempts that had begun and not ended when the journal stopped.

    Those that were open at a takeover before were reported then, and are not reported again.
    """
    open_: dict[str, CutOff] = {}
    latest: dict[tuple[str, Activity], str] = {}
    for entry in entries:
        event = entry.event
        match event:
            case e.StepStarted():
                _begin(open_, latest, event, Activity.EXECUTE, event.attempt)
            case e.ProbeStarted():
                _begin(open_, latest, event, Activity.PROBE, 1)
            case e.CompensationStarted():
                _begin(open_, latest, event, Activity.COMPENSATE, event.attempt)
            case e.TellStarted():
                _begin(open_, latest, event, Activity.TELL, event.attempt)
            case e.Recovered():
                open_.clear()
            case _ if isinstance(event, e.Outcome):
                step = getattr(event, "step", "")
                open_.pop(step, None)
                if isinstance(event, e.StepSucceeded) and event.span:
                    latest[step, Activity.EXECUTE] = event.span
            case _:
                pass
    return tuple(each for each in open_.values() if each.span)


def _begin(
    open_: dict[str, CutOff],
    latest: dict[tuple[str, Activity], str],
    event: e.StepStarted | e.ProbeStarted | e.CompensationStarted | e.TellStarted,
    activity: Activity,
    attempt: int,
) -> None:
    step = "" if isinstance(event, e.TellStarted) else event.step
    of_step = Activity.TELL if activity is Activity.TELL else Activity.EXECUTE
    links = dict.fromkeys((latest.get((step, of_step), ""), latest.get((step, activity), "")))
    open_[step] = CutOff(
        step=step,
        activity=activity,
        attempt=attempt,
        span=event.span,
        began=event.at,
        links=tuple(filter(None, links)),
    )
    latest[step, activity] = event.span
