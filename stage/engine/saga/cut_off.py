"""The attempts that were in flight when their process was lost, read from the journal."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.event_table import EVENTS
from stage.ports.store import Entry


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt without an end in the journal; `span` is its span id, never empty.

    `links` are the links of its span: to the attempts that it repeated, looked for or compensated.
    """

    step: str
    kind: AttemptKind
    attempt: int
    span: str
    began: float
    links: tuple[str, ...] = ()


def cut_off(entries: Sequence[Entry]) -> tuple[CutOff, ...]:
    """The attempts that had begun and not ended when the journal stopped.

    Attempts that were open at an earlier takeover were reported then, and are not reported again.
    """
    open_: dict[str, CutOff] = {}
    latest: dict[tuple[str, AttemptKind], str] = {}
    for entry in entries:
        event = entry.event
        row = EVENTS[type(event)]
        if row.starts is not None:
            _begin(open_, latest, event, row.starts)
        elif row.ends is not None:
            step = getattr(event, "step", "")
            open_.pop(step, None)
            if isinstance(event, e.StepSucceeded) and event.span:
                latest[step, AttemptKind.EXECUTE] = event.span
        elif isinstance(event, e.Recovered):
            open_.clear()
    return tuple(each for each in open_.values() if each.span)


def _begin(
    open_: dict[str, CutOff],
    latest: dict[tuple[str, AttemptKind], str],
    event: e.Event,
    kind: AttemptKind,
) -> None:
    step: str = getattr(event, "step", "")
    span: str = getattr(event, "span", "")
    of_step = AttemptKind.TELL if kind is AttemptKind.TELL else AttemptKind.EXECUTE
    links = dict.fromkeys((latest.get((step, of_step), ""), latest.get((step, kind), "")))
    open_[step] = CutOff(
        step=step,
        kind=kind,
        attempt=getattr(event, "attempt", 1),
        span=span,
        began=event.at,
        links=tuple(filter(None, links)),
    )
    latest[step, kind] = span
