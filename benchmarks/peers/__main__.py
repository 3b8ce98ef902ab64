"""`python -m benchmarks.peers`: the same work on other systems, and the evidence for P5.

python -m benchmarks.peers [dbos-sqlite] [dbos-postgres] [temporal] [temporal-local] [restate]
python -m benchmarks.peers --from FILE        prints the tables of a file of evidence again

Systems that are not installed are fetched by pip and npm into the folder of the benchmarks once. A
system that cannot be had is named in a line, and the others are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.peers.comparison import (
    AnsweredWrongly,
    Sample,
    figures,
    measure,
    table,
    words,
)
from benchmarks.peers.systems import OURS, SYSTEMS, System
from benchmarks.processes import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
EVIDENCE = ROOT / "docs" / "evidence"


def main() -> int:
    """Measure what can be had; 0 when at least one system was measured."""
    # Long because a measurement is its steps in their order: prepare, measure, write down.
    given = _options().parse_args()
    if given.printed is not None:
        print(printed(json.loads(given.printed.read_text())))
        return 0
    widths = [int(each) for each in given.connections.split(",")]
    wanted = [each for each in SYSTEMS if not given.systems or each.name in given.systems]
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"peers: {missing}", file=sys.stderr)
        return 2
    machine = facts(ROOT)
    tools = given.folder / "peers"
    not_measured: dict[str, str] = {}
    for each in wanted:
        try:
            each.prepare(tools)
        except Missing as missing:
            not_measured[each.name] = str(missing)
            print(f"{each.title}: not measured: {missing}", flush=True)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        folder.chmod(0o755)  # a server that runs as another user must reach its own folder
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            for number in range(given.rounds):
                for each in (OURS, *wanted):
                    if each.name in not_measured:
                        continue
                    try:
                        for sample in measure(
                            wrk, url, tools, folder, each,
                            number=number, widths=widths, seconds=given.seconds,
                        ):  # fmt: skip
                            samples.append(sample)
                            print(_line(sample), flush=True)
                    except (AnsweredWrongly, Missing, RuntimeError) as error:
                        not_measured[each.name] = str(error)
                        print(f"{each.title}: not measured: {error}", flush=True)
    samples = [each for each in samples if each.system not in not_measured]
    measured = [each for each in (OURS, *wanted) if each.name not in not_measured]
    _tell(given.out, machine, samples, measured, not_measured)
    return 0 if len(measured) > 1 else 1


def _tell(
    out: Path,
    machine: dict[str, object],
    samples: list[Sample],
    measured: list[System],
    not_measured: dict[str, str],
) -> None:
    reached = figures(samples, measured)
    evidence = {
        "machine": machine,
        "figures": [{**asdict(each), "reached": each.reached} for each in reached],
        "not_measured": not_measured,
        "words": {each.name: [each.promises, each.lacks] for each in measured},
        "samples": [asdict(each) for each in samples],
    }
    print(f"\n{printed(evidence)}\n\n{words(measured)}\n")
    print(f"written: {report.write(out, 'peers', evidence)}")


def printed(evidence: Mapping[str, Any]) -> str:
    """The tables of a file of evidence, as docs/performance.md has them."""
    samples = [Sample(**each) for each in evidence["samples"]]
    names = {each.system for each in samples}
    measured = [each for each in (OURS, *SYSTEMS) if each.name in names]
    widths = sorted({each.connections for each in samples})
    parts = [table(samples, measured, widths), report.ratios(figures(samples, measured))]
    parts += [
        f"{name}: not measured: {reason}" for name, reason in evidence["not_measured"].items()
    ]
    return "\n\n".join(parts)


def _line(sample: Sample) -> str:
    return (
        f"round {sample.round}  {sample.system:16} {sample.connections:4} connections"
        f"  {sample.rate:7.1f}/s  p50 {sample.p50 * 1e3:8.2f} ms  p99 {sample.p99 * 1e3:8.1f} ms"
    )


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = ", ".join(each.name for each in SYSTEMS)
    options.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"{names}; else all")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--connections", default="1,8,32")
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    options.add_argument("--from", type=Path, dest="printed", metavar="FILE")
    return options


if __name__ == "__main__":
    sys.exit(main())
