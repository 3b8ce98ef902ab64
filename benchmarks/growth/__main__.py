"""`python -m benchmarks.growth`: measure P6, P8, P10 and P11, and write the evidence.

python -m benchmarks.growth [p6] [p8] [p10] [p11] [--sagas N] [--rounds N] [--seconds S]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.growth import finished, memory, start, unfinished
from benchmarks.growth.found import Found
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.processes import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
SAGAS = {"p6": 1_000_000, "p8": 10_000, "p11": 100_000}


def main() -> int:
    """Run what was asked for; 0 when it could be measured, whatever the figures are."""
    given = _options().parse_args()
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"growth: {missing}", file=sys.stderr)
        return 2
    machine = facts(ROOT)
    figures = []
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            for name, measure in _measurements(given, wrk, url, folder).items():
                print(f"--- {name}", flush=True)
                found = measure()
                figures.extend(found.figures)
                _tell(given.out, name, machine, found)
    print(f"\n{report.ratios(figures)}")
    return 0


def _measurements(
    given: argparse.Namespace, wrk: str, url: str, folder: Path
) -> Mapping[str, Callable[[], Found]]:
    def count(name: str) -> int:
        return int(given.sagas or SAGAS[name])

    known: dict[str, Callable[[], Found]] = {
        "p6": lambda: finished.measure(
            wrk, url, folder, sagas=count("p6"), rounds=given.rounds, seconds=given.seconds
        ),
        "p8": lambda: unfinished.measure(url, folder, sagas=count("p8"), rounds=given.rounds),
        "p10": lambda: start.measure(url, folder),
        "p11": lambda: memory.measure_in_flight(url, folder),
        "p11-slope": lambda: memory.measure_slope(wrk, url, folder, sagas=count("p11")),
    }
    wanted = given.figures or ["p6", "p8", "p10", "p11"]
    return {name: known[name] for name in known if name.partition("-")[0] in wanted}


def _tell(out: Path, name: str, machine: Mapping[str, object], found: Found) -> None:
    print(f"\n{report.ratios(found.figures)}")
    for note in found.notes:
        print(note)
    evidence = {
        "machine": machine,
        "figures": [{**asdict(each), "reached": each.reached} for each in found.figures],
        "notes": list(found.notes),
        **found.raw,
    }
    print(f"written: {report.write(out, f'growth-{name}', evidence)}\n", flush=True)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    options.add_argument("figures", nargs="*", metavar="FIGURE", help="p6, p8, p10, p11; else all")
    options.add_argument("--sagas", type=int, help="instead of a million, 10,000 and 100,000")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    return options


if __name__ == "__main__":
    sys.exit(main())
