"""Tables and charts of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure
from benchmarks.throughput import WIDE, Sample, Steady, medians

Titles = Mapping[str, str]
"""The contestants by name, in the order of their lines."""
Medians = Mapping[tuple[str, int], Mapping[str, float]]

WIDTH = 760
BAR = 22
LEFT = 430


def tables(titles: Titles, samples: Sequence[Sample], steady: Sequence[Steady]) -> str:
    """Markdown: that of the closed loop, and that of the open one below it."""
    found = medians(samples)
    widths = sorted({each.connections for each in samples})
    parts = [table(found, widths, titles)]
    if steady:
        parts.append(steady_table(steady, titles))
    return "\n\n".join(parts)


def table(found: Medians, widths: Sequence[int], titles: Titles) -> str:
    """Markdown: sagas a second at each width, latency of a lone one, processor time."""
    lone, wide = min(widths), WIDE if WIDE in widths else max(widths)
    served = any(numbers["server_cpu"] for numbers in found.values())
    head = ["", *(f"{width} conn." for width in widths)]
    head += [f"p50 at {lone}", f"p99 at {wide}", f"CPU a saga at {lone}", f"at {wide}"]
    head += [f"the server's at {wide}"] if served else []
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, title in titles.items():
        if (name, lone) not in found:
            continue
        at_lone, at_wide = found[name, lone], found[name, wide]
        cells = [title, *(_rate(found[name, width]) for width in widths)]
        cells += [f"{at_lone['p50'] * 1e3:.2f} ms", f"{at_wide['p99'] * 1e3:.0f} ms"]
        cells += [_micros(at_lone["cpu"]), _micros(at_wide["cpu"])]
        cells += [_micros(at_wide["server_cpu"])] if served else []
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def steady_table(steady: Sequence[Steady], titles: Titles) -> str:
    """Markdown: latency and processor time of each at half of its peak, in an open loop."""
    head = ["at half of the peak", "offered", "p50", "p99", "p99 / p50", "CPU a saga"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, title in titles.items():
        mine = [each for each in steady if each.contestant == name]
        if not mine:
            continue
        cells = [
            title,
            f"{median(each.offered for each in mine):.0f}/s",
            f"{median(each.p50 for each in mine) * 1e3:.2f} ms",
            f"{median(each.p99 for each in mine) * 1e3:.1f} ms",
            f"{median(each.p99 / each.p50 for each in mine):.1f}",
            _micros(median(each.cpu for each in mine)),
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _rate(numbers: Mapping[str, float]) -> str:
    return f"{numbers['rate']:.0f}/s ({numbers['rate_min']:.0f}-{numbers['rate_max']:.0f})"


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


def ratios(figures: Sequence[Figure]) -> str:
    """Markdown: the figures, their goals, and whether they were reached."""
    lines = ["| | | measured | goal | |", "| --- | --- | --- | --- | --- |"]
    for each in figures:
        value = f"{each.value:.0f} {each.unit}" if each.unit else f"{each.value:.2f}"
        goal = verdict = ""
        if each.goal is not None:
            unit = f" {each.unit}" if each.unit else ""
            goal = f"{'<=' if each.at_most else '>='} {each.goal:g}{unit}"
            verdict = "reached" if each.reached else "**missed**"
        lines.append(f"| {each.name} | {each.says} | {value} | {goal} | {verdict} |")
    return "\n".join(lines)


def chart(found: Medians, width: int, titles: Titles) -> str:
    """An SVG of bars: sagas a second of every contestant at that width."""
    bars = [
        (title, found[name, width]["rate"])
        for name, title in titles.items()
        if (name, width) in found
    ]
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


def write(folder: Path, name: str, evidence: Mapping[str, Any]) -> Path:
    """Write the result as JSON, for the evidence."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(evidence, indent=1) + "\n")
    return path
