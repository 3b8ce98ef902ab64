"""`make bench`: measure, print the table, and write the evidence.

python -m benchmarks [--rounds N] [--seconds S] [--connections 1,8,32,128]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import durability, report
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.processes import free_port
from benchmarks.throughput import WIDE, Sample, figures, measure, medians, raw

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"


def main() -> int:
    """Run the comparison; 0 when nothing was lost, whatever the figures are."""
    given = _options().parse_args()
    widths = [int(each) for each in given.connections.split(",")]
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        tool("taskset", "util-linux")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    told = facts(ROOT)
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            samples: list[Sample] = []
            for sample in measure(
                wrk, url, folder, widths=widths, rounds=given.rounds, seconds=given.seconds
            ):
                samples.append(sample)
                print(_line(sample), flush=True)
            kept = durability.check(url, folder)
    found = medians(samples)
    print(f"\n{report.table(found, widths)}\n")
    reached = figures(found) if {1, WIDE} <= set(widths) else []
    print(report.ratios(reached))
    print(
        f"\ndurability: {kept.acknowledged} acknowledged, then SIGKILL: {kept.lost} lost,"
        f" {kept.unwritten} ended after the restart, as told"
    )
    path = report.write(
        given.out,
        "throughput",
        {
            "machine": told,
            "rounds": given.rounds,
            "seconds": given.seconds,
            "figures": [{**asdict(each), "reached": each.reached} for each in reached],
            "durability": asdict(kept),
            "samples": raw(samples),
        },
    )
    if WIDE in widths:
        (given.out / "throughput.svg").write_text(report.chart(found, WIDE))
    print(f"written: {path}")
    return 1 if kept.lost else 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--connections", default="1,8,32,128")
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    return options


def _line(sample: Sample) -> str:
    return (
        f"round {sample.round}  {sample.contestant:20} {sample.connections:4} connections"
        f"  {sample.rate:7.0f}/s  p50 {sample.p50 * 1e3:7.2f} ms  p99 {sample.p99 * 1e3:7.1f} ms"
        f"  CPU {sample.cpu * 1e6:5.0f} us"
    )


if __name__ == "__main__":
    sys.exit(main())
