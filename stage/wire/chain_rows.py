"""The rows of the story of a chain: what took time or happened at an instant, stage by stage.

Rows stand in the order of time, whatever the stage: down the chain and, when something failed, up
again. The clocks of the stages are taken as they are. Pure: a view in, rows out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from stage.core.commands import AttemptKind
from stage.core.describe import attempt_in_words
from stage.core.event_table import NAMED, EventRow, Level, wording_of
from stage.core.events import Recovered
from stage.wire.chain import ChainEvent, ChainView, StageStory
from stage.wire.envelope import parse_instant

REASON_CHARS = 60
RECOVERED = str(Recovered.__struct_config__.tag)
_AS_ASKED = frozenset({"succeeded", "delivered"})
"""Ends of attempts that need no word: the bar says it."""
_FOREIGN = EventRow(wording="")
"""A neighbour may use words of its own; they are shown as they are."""


@dataclass(slots=True)
class Row:
    """One line: something that took time, or happened at an instant (`end` is None)."""

    stage: str
    depth: int
    at: float
    label: str
    backward: bool = False
    end: float | None = None
    note: str = ""
    open: bool = field(default=False)
    """Begun, and its end is not known."""


def rows_of(view: ChainView) -> list[Row]:
    """The rows of all stages by time; `depth` is the place of the stage in the chain."""
    rows = [row for depth, story in enumerate(view.stages) for row in _rows(story, depth)]
    return sorted(rows, key=lambda row: row.at)


def _rows(story: StageStory, depth: int) -> Iterable[Row]:
    """The rows of one stage; what begins and what ends it are one."""
    open_: dict[str, Row] = {}
    rows: list[Row] = []
    for event in story.events:
        at = parse_instant(event.at)
        known_event = NAMED.get(event.event, _FOREIGN)
        if known_event.starts is not None:
            row = Row(
                story.stage,
                depth,
                at,
                _begun(event, known_event.starts),
                _is_backward(event),
                open=True,
            )
            open_[event.step] = row
            rows.append(row)
        elif known_event.ends is not None:
            known = open_.pop(event.step, None)
            if known is None:
                known = Row(story.stage, depth, at, _undeclared(event), _is_backward(event))
                rows.append(known)
            known.end, known.open = at, False
            word = (
                ""
                if known_event.end in _AS_ASKED
                else wording_of(known_event, may_stand=event.may_stand)
            )
            known.note = _note(word, event)
        elif event.event == RECOVERED:
            for row in open_.values():
                row.end, row.open, row.note = at, False, "cut off: the process died"
            open_.clear()
            rows.append(Row(story.stage, depth, at, f"recovered, as run {event.epoch}"))
        elif known_event.level is not Level.DEBUG:
            label = known_event.wording or event.event
            rows.append(Row(story.stage, depth, at, label, note=_note("", event)))
    return rows


def _begun(event: ChainEvent, kind: AttemptKind) -> str:
    again = f" #{event.attempt}" if event.attempt is not None and event.attempt > 1 else ""
    return f"{attempt_in_words(kind, event.step)}{again}"


def _undeclared(event: ChainEvent) -> str:
    """A transaction: only its end is journaled, for its beginning is the same commit."""
    return f"compensate {event.step}" if _is_backward(event) else event.step


def _is_backward(event: ChainEvent) -> bool:
    row = NAMED[event.event]
    return (row.starts or row.ends) in (AttemptKind.COMPENSATE, AttemptKind.TELL)


def _note(word: str, event: ChainEvent) -> str:
    said = plain(event.reason)
    by = f"by {plain(event.by)}" if event.by else ""
    return ": ".join(filter(None, (" ".join(filter(None, (word, by))), said)))


def plain(text: str) -> str:
    """The text on one line, cut where it is long."""
    cut = text if len(text) <= REASON_CHARS else text[: REASON_CHARS - 3] + "..."
    return "".join(sign if sign.isprintable() else " " for sign in cut)
