"""`make bench`: measure on a file and on PostgreSQL, print the tables, and write the evidence.

python -m benchmarks [--rounds N] [--seconds S] [--connections 1,8,32,128] [--only file|postgres]
python -m benchmarks --from FILE        prints the tables of a file of evidence again
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import durability, report
from benchmarks.contestants import REFUSED, STAGE, TRACED, TWO_WORKERS, Contestant, has_option
from benchmarks.figures import ON_A_FILE, Figure, exported, figures
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.on_postgres import DBOS, ON_A_SERVER, server_with
from benchmarks.peers.systems import dbos_python
from benchmarks.processes import free_port
from benchmarks.spans import counting
from benchmarks.throughput import (
    CONTESTANTS,
    WIDE,
    Sample,
    Steady,
    all_running,
    closed_loop,
    medians,
    open_loop,
    raw,
    warm_up,
)
from stage.demo.chain import ChainError

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
NO_WORKERS = "a stage of this checkout has one worker"
SERVER_WIDTHS = (1, WIDE)
TAILS = (STAGE, TRACED, REFUSED)
"""The contestants whose p99 is held against the goal of P13."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The settings that both parts of a run share."""

    wrk: str
    nginx: str
    neighbours: str
    folder: Path
    rounds: int
    seconds: float
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The samples of one part."""

    contestants: Sequence[Contestant]
    samples: Sequence[Sample]
    steady: Sequence[Steady]


def main() -> int:
    """Run the comparisons; 0 when nothing was lost, whatever the figures are."""
    given = _options().parse_args()
    if given.printed is not None:
        print(printed(json.loads(given.printed.read_text())))
        return 0
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        tool("taskset", "util-linux")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    lost = 0
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            run = Run(
                wrk=wrk,
                nginx=nginx,
                neighbours=url,
                folder=folder,
                rounds=given.rounds,
                seconds=given.seconds,
                out=given.out,
            )
            if given.only != "postgres":
                lost = _on_a_file(run, [int(each) for each in given.connections.split(",")])
            if given.only != "file":
                _on_postgres(run, given.folder / "peers")
    return 1 if lost else 0


def _on_a_file(run: Run, widths: Sequence[int]) -> int:
    """Measure the stage on SQLite and all that it is compared with; how many sagas were lost."""
    machine = facts(ROOT)
    skipped = {} if has_option("--workers") else {TWO_WORKERS.name: NO_WORKERS}
    contestants = [each for each in CONTESTANTS if each.name not in skipped]
    with counting(run.nginx, run.folder / "collector") as spans:
        found = _measured(run, contestants, widths, spans.url)
        served = spans.served()
    kept = durability.check(run.neighbours, run.folder)
    shown = [
        *figures(found.samples, found.steady, ON_A_FILE, TAILS),
        exported(served, _sagas_of(run, TRACED)),
    ]
    members = {"machine": machine, "not_measured": skipped, "durability": asdict(kept)}
    _write(run, "throughput", found, shown, members)
    if WIDE in widths:
        titles = {each.name: each.title for each in contestants}
        chart = report.chart(medians(found.samples), WIDE, titles)
        (run.out / "throughput.svg").write_text(chart)
    return kept.lost


def _sagas_of(run: Run, contestant: Contestant) -> int:
    """All that are in its file, those included that wrk did not wait for at its end."""
    with closing(sqlite3.connect(run.folder / contestant.name / "0" / "stage.db")) as database:
        (count,) = database.execute("SELECT count(*) FROM saga").fetchone()
    return int(count)


def _on_postgres(run: Run, tools: Path) -> None:
    """Measure replicas on one server, and DBOS beside them where it can be had."""
    machine = facts(ROOT)
    python, skipped = None, {}
    try:
        python = dbos_python(tools)
    except Missing as missing:
        skipped[DBOS] = str(missing)
    try:
        with server_with(python) as (contestants, pid):
            found = _measured(run, contestants, SERVER_WIDTHS, run.neighbours, pid)
    except ChainError as error:
        print(f"PostgreSQL: not measured: {error}", file=sys.stderr)
        return
    shown = figures(found.samples, found.steady, ON_A_SERVER, contestants[:1])
    _write(run, "postgres", found, shown, {"machine": machine, "not_measured": skipped})


def _measured(
    run: Run,
    contestants: Sequence[Contestant],
    widths: Sequence[int],
    collector: str,
    server_pid: int | None = None,
) -> Measured:
    """Both loops, with a line for each sample as it is made."""
    samples: list[Sample] = []
    steady: list[Steady] = []
    with all_running(contestants, run.folder, run.neighbours, collector) as listening:
        warm_up(run.wrk, listening)
        for sample in closed_loop(
            run.wrk,
            listening,
            widths=widths,
            rounds=run.rounds,
            seconds=run.seconds,
            server_pid=server_pid,
        ):
            samples.append(sample)
            print(_line(sample), flush=True)
        for one in open_loop(listening, samples, rounds=run.rounds, seconds=run.seconds):
            steady.append(one)
            print(_steady_line(one), flush=True)
    return Measured(contestants=contestants, samples=samples, steady=steady)


def _write(
    run: Run, name: str, found: Measured, shown: Sequence[Figure], members: Mapping[str, Any]
) -> None:
    evidence = {
        **members,
        "rounds": run.rounds,
        "seconds": run.seconds,
        "titles": {each.name: each.title for each in found.contestants},
        "figures": [{**asdict(each), "reached": each.reached} for each in shown],
        "samples": raw(found.samples),
        "steady": raw(found.steady),
    }
    print(f"\n{printed(evidence)}\n\nwritten: {report.write(run.out, name, evidence)}\n")


def printed(evidence: Mapping[str, Any]) -> str:
    """The tables of a file of evidence, as docs/performance.md has them."""
    shown = [
        Figure(**{name: value for name, value in each.items() if name != "reached"})
        for each in evidence["figures"]
    ]
    samples = [Sample(**each) for each in evidence["samples"]]
    steady = [Steady(**each) for each in evidence["steady"]]
    parts = [report.tables(evidence["titles"], samples, steady), report.ratios(shown)]
    if kept := evidence.get("durability"):
        parts.append(
            f"durability: {kept['acknowledged']} acknowledged, then SIGKILL: {kept['lost']} lost,"
            f" {kept['unwritten']} ended after the restart, as told"
        )
    parts += [f"{name}: not measured: {why}" for name, why in evidence["not_measured"].items()]
    machine = ", ".join(f"{name} {value}" for name, value in evidence["machine"].items())
    return "\n\n".join([*parts, f"{evidence['rounds']} rounds; {machine}"])


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--connections", default="1,8,32,128")
    options.add_argument("--only", choices=("file", "postgres"), help="one of the two parts")
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    options.add_argument("--from", type=Path, dest="printed", metavar="FILE")
    return options


def _line(sample: Sample) -> str:
    return (
        f"round {sample.round}  {sample.contestant:29} {sample.connections:4} connections"
        f"  {sample.rate:7.0f}/s  p50 {sample.p50 * 1e3:7.2f} ms  p99 {sample.p99 * 1e3:7.1f} ms"
        f"  CPU {sample.cpu * 1e6:5.0f} us"
    )


def _steady_line(one: Steady) -> str:
    return (
        f"round {one.round}  {one.contestant:29} {one.offered:5.0f}/s offered   "
        f"            p50 {one.p50 * 1e3:7.2f} ms  p99 {one.p99 * 1e3:7.1f} ms"
        f"  CPU {one.cpu * 1e6:5.0f} us"
    )


if __name__ == "__main__":
    sys.exit(main())
