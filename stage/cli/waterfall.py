"""Draws the story of a chain as one waterfall: the way down, and the way back up.

Pure: a view in, lines out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from stage.core.questions import Standing
from stage.wire.chain import ChainView, StageStory
from stage.wire.chain_rows import Row, plain, rows_of

BAR_CHARS = 32
LABEL_CHARS = 40


def draw_chain(view: ChainView, *, link: str = "") -> str:
    """The picture. `link` is the URL of the trace, or empty."""
    rows = rows_of(view)
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


def _line(row: Row, first: float, span: float, width: int) -> str:
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
        f"{plain(row.stage).ljust(width)} {when} {plain(label).ljust(LABEL_CHARS)[:LABEL_CHARS]}"
        f" {bar} {took.strip():>9}  {row.note}"
    ).rstrip()


def _ends(stages: Sequence[StageStory]) -> list[str]:
    lines = []
    for story in stages:
        if not story.known:
            lines.append(f"{plain(story.stage)}: unknown ({plain(story.why_unknown or '')})")
            continue
        line = f"{plain(story.stage)}: {plain(story.state or '?')}"
        if story.parked_reason:
            cause = f" ({plain(story.parked_cause)})" if story.parked_cause else ""
            line += f", parked{cause}: {plain(story.parked_reason)}"
        if story.next_action:
            line += f", next: {plain(story.next_action)}"
        if story.stands:
            line += f", stands: {', '.join(plain(name) for name in story.stands)}"
        if story.may_stand:
            line += f", may stand: {', '.join(plain(name) for name in story.may_stand)}"
        if story.standing == Standing.UNKNOWN:
            line += ", nobody knows what stands"
        lines.append(line)
    return lines
