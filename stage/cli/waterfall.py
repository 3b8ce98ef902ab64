"""Draws the story of a chain as one waterfall: the way down, and the way back up.

Rows stand in the order of time, whatever the stage: down the chain and, when something failed, up
again. The clocks of the stages are taken as they are. Pure: a view in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

from stage.core.commands import AttemptKind
from stage.core.describe import attempt_in_words
from stage.core.event_table import NAMED, EventRow, Level, wording_of
from stage.core.events import Recovered
from stage.core.questions import Standing
from stage.wire.chain import ChainEvent, ChainView, StageStory
from stage.wire.envelope import parse_instant

BAR_CHARS = 32
LABEL_CHARS = 40
REASON_CHARS = 60
RECOVERED = str(Recovered.__struct_config__.tag)
_AS_ASKED = frozenset({"succeeded", "delivered"})
"""Ends of attempts that need no word: the bar says it."""
_FOREIGN = EventRow(wording="")
"""A neighbour may use words of its own; they are shown as they are."""


@dataclass(slots=True)
class _Row:
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


def draw_chain(view: ChainView, *, link: str = "") -> str:
    """The picture. `link` is the URL of the trace, or empty."""
    rows = [row for depth, story in enumerate(view.stages) for row in _rows(story, depth)]
    rows.sort(key=lambda row: row.at)
    lines = [*_head(view, link), ""]
    if rows:
        first = rows[0].at
        last = max(row.end if row.end is not None else row.at for row in rows)
        width = max(len(story.stage) for story in view.stages)
        lines += [_line(row, first, max(last - first, 0.001), width) for row in rows]
        lines.append("")
    lines += _ends(view.stages)
    return "\n".join(lines)


def _head(view: ChainView, link: str) -> list[str]:
    traces = list(dict.fromkeys(story.trace_id for story in view.stages if story.trace_id))
    head = f"saga {view.saga_id}   {' → '.join(story.stage for story in view.stages)}"
    lines = [head, *(f"trace {trace}" for trace in traces)]
    return [*lines, link] if link else lines


def _rows(story: StageStory, depth: int) -> Iterable[_Row]:
    """The rows of one stage; what begins and what ends it are one."""
    open_: dict[str, _Row] = {}
    rows: list[_Row] = []
    for event in story.events:
        at = parse_instant(event.at)
        known_event = NAMED.get(event.event, _FOREIGN)
        if known_event.starts is not None:
            row = _Row(
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
                known = _Row(story.stage, depth, at, _undeclared(event), _is_backward(event))
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
            rows.append(_Row(story.stage, depth, at, f"recovered, as run {event.epoch}"))
        elif known_event.level is not Level.DEBUG:
            label = known_event.wording or event.event
            rows.append(_Row(story.stage, depth, at, label, note=_note("", event)))
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
    said = _plain(event.reason)
    by = f"by {_plain(event.by)}" if event.by else ""
    return ": ".join(filter(None, (" ".join(filter(None, (word, by))), said)))


def _plain(text: str) -> str:
    cut = text if len(text) <= REASON_CHARS else text[: REASON_CHARS - 3] + "..."
    return "".join(sign if sign.isprintable() else " " for sign in cut)


def _line(row: _Row, first: float, span: float, width: int) -> str:
    label = f"{'  ' * row.depth}{'◀' if row.backward else '▶' if row.end else '·'} {row.label}"
    start = int((row.at - first) / span * (BAR_CHARS - 1))
    end = row.end if row.end is not None else row.at
    long = max(1, ceil((end - row.at) / span * (BAR_CHARS - 1)))
    sign = "│" if row.end is None and not row.open else "█"
    bar = (" " * start + sign * min(long, BAR_CHARS - start)).ljust(BAR_CHARS)
    if row.open:
        bar = (" " * start).ljust(BAR_CHARS, "░")
    when = f"{(row.at - first) * 1e3:7.0f}"
    took = f" +{(row.end - row.at) * 1e3:.0f} ms" if row.end is not None else ""
    return (
        f"{_plain(row.stage).ljust(width)} {when} {_plain(label).ljust(LABEL_CHARS)[:LABEL_CHARS]}"
        f" {bar} {took.strip():>9}  {row.note}"
    ).rstrip()


def _ends(stages: Sequence[StageStory]) -> list[str]:
    lines = []
    for story in stages:
        if not story.known:
            lines.append(f"{_plain(story.stage)}: unknown ({_plain(story.why_unknown or '')})")
            continue
        line = f"{_plain(story.stage)}: {_plain(story.state or '?')}"
        if story.parked_reason:
            cause = f" ({_plain(story.parked_cause)})" if story.parked_cause else ""
            line += f", parked{cause}: {_plain(story.parked_reason)}"
        if story.next_action:
            line += f", next: {_plain(story.next_action)}"
        if story.stands:
            line += f", stands: {', '.join(_plain(name) for name in story.stands)}"
        if story.may_stand:
            line += f", may stand: {', '.join(_plain(name) for name in story.may_stand)}"
        if story.standing == Standing.UNKNOWN:
            line += ", nobody knows what stands"
        lines.append(line)
    return lines
