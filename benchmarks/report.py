"""Tables and charts of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.throughput import CONTESTANTS, WIDE, Figure

Medians = Mapping[tuple[str, int], Mapping[str, float]]

WIDTH = 720
BAR = 22
LEFT = 390


def table(found: Medians, widths: Sequence[int]) -> str:
    """Markdown: sagas a second at each width, latency of a lone one, processor time."""
    lone, wide = min(widths), WIDE if WIDE in widths else max(widths)
    head = ["", *(f"{width} conn." for width in widths)]
    head += [f"p50 at {lone}", f"p99 at {wide}", f"CPU a saga at {wide}"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for each in CONTESTANTS:
        if (each.name, lone) not in found:
            continue
        cells = [each.title, *(_rate(found[each.name, width]) for width in widths)]
        cells.append(f"{found[each.name, lone]['p50'] * 1e3:.2f} ms")
        cells.append(f"{found[each.name, wide]['p99'] * 1e3:.0f} ms")
        cells.append(f"{found[each.name, wide]['cpu'] * 1e6:.0f} us")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _rate(numbers: Mapping[str, float]) -> str:
    return f"{numbers['rate']:.0f}/s ({numbers['rate_min']:.0f}-{numbers['rate_max']:.0f})"


def ratios(figures: Sequence[Figure]) -> str:
    """Markdown: the ratios, their goals, and whether they were reached."""
    lines = ["| | | measured | goal | |", "| --- | --- | --- | --- | --- |"]
    for each in figures:
        sign = "<=" if each.at_most else ">="
        verdict = "reached" if each.reached else "missed"
        lines.append(
            f"| {each.name} | {each.says} | {each.value:.2f} | {sign} {each.goal:g} | {verdict} |"
        )
    return "\n".join(lines)


def chart(found: Medians, width: int) -> str:
    """An SVG of bars: sagas a second of every contestant at that width."""
    bars = [(each.title, found[each.name, width]["rate"]) for each in CONTESTANTS]
    most = max(rate for _, rate in bars)
    height = BAR * (len(bars) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">',
        "<style>text { font: 12px sans-serif; }</style>",
        f'<text x="8" y="{BAR - 6}">Sagas a second at {width} connections (medians)</text>',
    ]
    for number, (title, rate) in enumerate(bars, start=1):
        top = number * BAR + 4
        long = (WIDTH - LEFT - 70) * rate / most
        middle = top + BAR / 2 + 2
        parts.append(f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(title)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{top}" width="{long:.0f}" height="{BAR - 6}" fill="#4477aa"/>'
        )
        parts.append(f'<text x="{LEFT + long + 6:.0f}" y="{middle}">{rate:.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])


def write(folder: Path, name: str, told: Mapping[str, Any]) -> Path:
    """Write the result as JSON, for the evidence."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    return path
