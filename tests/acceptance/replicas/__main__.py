"""Runs one trial of replicas and says what came out (F25).

    python -m tests.acceptance.replicas --strikes 150 --sagas 20000 --seed 1 --out FILE

Exit status 0 when no promise was broken, 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.acceptance.kills.__main__ import STORIES_MAX, commit, machine, tell
from tests.acceptance.replicas.trial import LEASE_SECONDS, Result, Trial, run


# Long because it is one list of options and one table.
def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.replicas")
    parser.add_argument("--strikes", type=int, default=150)
    parser.add_argument("--sagas", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=110.0, help="sagas offered a second")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="end the load by then")
    parser.add_argument("--out", type=Path, help="file for the result, as JSON")
    parser.add_argument("--folder", type=Path, help="where databases and logs are kept")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="stage-replicas-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        trial = Trial(
            strikes=given.strikes,
            sagas=given.sagas,
            seed=given.seed,
            rate=given.rate,
            seconds=given.seconds,
            folder=folder,
        )
        result = asyncio.run(run(trial, tell))
    report, stories = _report(trial, result), result.stories[:STORIES_MAX]
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**report, "stories": stories}, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if result.broken:
        print("\n".join(stories), file=sys.stderr)
    return 1 if result.broken else 0


def _report(trial: Trial, result: Result) -> dict[str, Any]:
    repeat = f"python -m tests.acceptance.replicas --strikes {trial.strikes}"
    repeat += f" --sagas {trial.sagas} --seed {trial.seed} --rate {trial.rate:g}"
    measured = asdict(result)
    del measured["stories"]
    return {
        "figure": "F25",
        "repeat": repeat,
        "seed": trial.seed,
        **commit(),
        "machine": machine(),
        "lease_seconds": LEASE_SECONDS,
        "wanted": {"strikes": trial.strikes, "sagas": trial.sagas, "rate": trial.rate},
        **measured,
        "rate_below_95_percent": None if result.broken else 3 / max(result.sagas, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
