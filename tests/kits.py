"""Reports of the fault kits in one run or several: added up, judged by tests/sizes.py, printed."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sizes import Kit

PROPERTY = "kit"
"""The name of the pytest property that carries a report from a worker to the summary."""


class Strikes:
    """Reports of one test to the summary: how often its kit struck, and what it broke."""

    def __init__(self, figure: str, record_property: Callable[[str, object], None]) -> None:
        self._figure = figure
        self._record_property = record_property

    def report(
        self, unit: str, count: int, *, violations: int = 0, seed: object = None, note: str = ""
    ) -> None:
        """Report `count` strikes. Call it before the assertions, so that a failure is counted."""
        self._record_property(
            PROPERTY,
            {
                "figure": self._figure,
                "unit": unit,
                "count": count,
                "violations": violations,
                "seed": "" if seed is None else str(seed),
                "note": note,
            },
        )


@dataclass(slots=True)
class Tally:
    """The reports of one kit, over all of its tests."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    failed: int = 0
    """Tests of the kit that failed."""
    seeds: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def add_up(reports: Iterable[Mapping[str, Any]], failed: Iterable[str] = ()) -> dict[str, Tally]:
    """The reports by figure. `failed` names the figure of each test that failed."""
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for report in reports:
        tally = tallies[report["figure"]]
        tally.counts[report["unit"]] += report["count"]
        tally.violations += report["violations"]
        if report["seed"]:
            tally.seeds.add(report["seed"])
        if report["note"]:
            tally.notes.append(report["note"])
    for figure in failed:
        tallies[figure].failed += 1
    return dict(tallies)


def keep(file: Path, reports: Iterable[Mapping[str, Any]], failed: Iterable[str]) -> None:
    """Add the reports of one run to those that the file holds, for the run that comes after it."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"reports": [*reports], "failed": [*failed]}) + "\n")


def kept(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The reports of all runs that the file holds, as `add_up` takes them."""
    runs = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return (
        [report for run in runs for report in run["reports"]],
        [figure for run in runs for figure in run["failed"]],
    )


def shortcomings(kits: Mapping[str, Kit], tallies: Mapping[str, Tally]) -> list[str]:
    """Every kit that did not run, struck less than it was asked to, or found a violation."""
    wrong: list[str] = []
    for figure, kit in kits.items():
        tally = tallies.get(figure)
        if tally is None or not tally.counts:
            wrong.append(f"{figure} ({kit.what}) did not run")
            continue
        wrong += [
            f"{figure} ({kit.what}): {tally.counts[unit]:,} of {asked:,} {unit}"
            for unit, asked in kit.asked.items()
            if tally.counts[unit] < asked
        ]
        if tally.violations:
            wrong.append(f"{figure} ({kit.what}): {tally.violations} violations")
    wrong += [f"{figure} is in no table of sizes" for figure in tallies if figure not in kits]
    return wrong


def table(kits: Mapping[str, Kit], tallies: Mapping[str, Tally]) -> list[str]:
    """One line for each unit of each kit that ran."""
    lines = [f"{'':4} {'kit':36} {'unit':17} {'struck':>9} {'asked':>9} {'broken':>6}  seed"]
    for figure, kit in kits.items():
        if (tally := tallies.get(figure)) is None:
            continue
        seeds = ", ".join(sorted(tally.seeds)) or "-"
        broken = str(tally.violations) if not tally.failed else f"{tally.violations}!"
        for unit in [*kit.asked, *(unit for unit in tally.counts if unit not in kit.asked)]:
            asked = f"{kit.asked[unit]:,}" if unit in kit.asked else "-"
            count = f"{tally.counts[unit]:,}"
            lines.append(
                f"{figure:4} {kit.what:36} {unit:17} {count:>9} {asked:>9} {broken:>6}  {seeds}"
            )
    return lines
