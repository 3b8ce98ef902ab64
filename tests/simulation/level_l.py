"""Level L of F1: many worlds on all cores, and a file that says what came of them.

    make sim SEEDS=20000 [SAGAS=50] [FIRST=0]

The file under docs/evidence/ holds the range of seeds, the commit, the machine, how often each
fault struck and how sagas ended. One seed is replayed with `python -m stage.simulation SEED`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from stage.simulation.summary import Summary, simulate_many
from stage.simulation.world import Scenario

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs" / "evidence"
CHUNK_SEEDS = 50


def chunk(first: int, last: int, sagas: int) -> Summary:
    """One range of seeds, in a process of its own."""
    return simulate_many(range(first, last), Scenario(sagas=sagas))


def machine() -> dict[str, Any]:
    """The machine that ran it."""
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit, with `+` when something was changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "stage", "tests/simulation"],
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write(name: str, document: dict[str, Any]) -> Path:
    """Write a result file."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    path = EVIDENCE / name
    body = msgspec.json.format(msgspec.json.encode(document), indent=1)
    path.write_bytes(body + b"\n")
    return path


def _counts(summary: Summary) -> dict[str, Any]:
    """The counts, each in the order of its names; the chains, which are many, come last."""
    counts = msgspec.to_builtins(summary)
    ordered = {
        name: dict(sorted(value.items())) if isinstance(value, dict) else value
        for name, value in counts.items()
    }
    return {**ordered, "chains": ordered.pop("chains")}


def simulate(first: int, seeds: int, sagas: int, processes: int) -> Summary:
    """All seeds, in chunks over processes; says how it goes."""
    whole = Summary()
    starts = range(first, first + seeds, CHUNK_SEEDS)
    with ProcessPoolExecutor(processes) as pool:
        parts: Iterator[Summary] = pool.map(
            chunk,
            starts,
            [min(start + CHUNK_SEEDS, first + seeds) for start in starts],
            [sagas] * len(starts),
        )
        for part in parts:
            whole.merge(part)
            line = f"{whole.seeds} of {seeds} seeds, {whole.sagas} sagas, {whole.violations} bad"
            print(f"\r{line}", end="", flush=True)
    print()
    return whole


def main() -> int:
    """Exit status 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--sagas", type=int, default=50)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    began, when = time.perf_counter(), datetime.now(UTC)
    summary = simulate(given.first, given.seeds, given.sagas, given.processes)
    seconds = time.perf_counter() - began
    document = {
        "what": "F1: simulated sagas over seeds, swarm faults, safety then liveness phase",
        "when": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine(),
        "first_seed": given.first,
        "last_seed": given.first + given.seeds - 1,
        "sagas_per_seed": given.sagas,
        "seconds": round(seconds, 1),
        "sagas_per_second": round(summary.sagas / seconds, 1),
        "violations": summary.violations,
        **_counts(summary),
    }
    path = write("simulation.json", document)
    print(f"{path.relative_to(ROOT)}: {summary.violations} violations in {summary.sagas} sagas")
    for failure in summary.failures[:3]:
        print(f"seed {failure.seed}: {failure.violation.invariant} {failure.violation.text}")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
