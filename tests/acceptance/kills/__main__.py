"""Runs one trial and says what came out.

    python -m tests.acceptance.kills --kills 150 --sagas 20000 --seed 1 --out f5.json

Exit status 0 when no promise was broken, 1 otherwise. The file holds the seed, the commit, the
machine and the raw counts; what broke is told on standard error with the command to repeat it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.acceptance.kills.processes import ROOT
from tests.acceptance.kills.supervisor import Result, Trial, run

STORIES_MAX = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.kills")
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--sagas", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=150.0, help="sagas offered a second")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="end the load by then")
    parser.add_argument("--out", type=Path, help="file for the result, as JSON")
    parser.add_argument("--folder", type=Path, help="where databases and logs are kept")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="stage-kills-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        trial = Trial(
            kills=options.kills,
            sagas=options.sagas,
            seed=options.seed,
            rate=options.rate,
            seconds=options.seconds,
            folder=folder,
        )
        result = asyncio.run(run(trial, tell))
    report = report_of(trial, result)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "stories"}, indent=2))
    if not result.clean:
        print("\n".join(result.stories[:STORIES_MAX]), file=sys.stderr)
        print(f"broken: {result.broken}\nrepeat: {report['repeat']}", file=sys.stderr)
    return 0 if result.clean else 1


def tell(line: str) -> None:
    """Show progress to the person who waits."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def report_of(trial: Trial, result: Result) -> dict[str, Any]:
    """The result with what is needed to judge and repeat it."""
    repeat = (
        f"python -m tests.acceptance.kills --kills {trial.kills} --sagas {trial.sagas}"
        f" --seed {trial.seed} --rate {trial.rate:g}"
    )
    measured = asdict(result)
    stories = measured.pop("stories")[:STORIES_MAX]
    del measured["struck"]
    return {
        "figure": "F5",
        "repeat": repeat,
        "seed": trial.seed,
        **commit(),
        "machine": machine(),
        "wanted": {"kills": trial.kills, "sagas": trial.sagas, "rate": trial.rate},
        **measured,
        "rate_below_95_percent": None if result.broken else 3 / max(result.sagas, 1),
        "stories": stories,
    }


def commit() -> dict[str, Any]:
    """The commit, and whether product files differ from it."""
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "stage"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": head.stdout.strip() or "unknown",
        "changed": [line.strip() for line in changed.stdout.splitlines()],
    }


def machine() -> dict[str, Any]:
    """The machine of the trial, without its name."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "load_before": round(os.getloadavg()[2], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
