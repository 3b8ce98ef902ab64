"""Replays one seed: `python -m stage.simulation SEED [--sagas N]` tells what went wrong in it."""

from __future__ import annotations

import argparse
import sys

from stage.simulation.summary import FILES_EVERY, failure_of, simulate_in_files
from stage.simulation.world import Scenario, simulate_world

SAGAS = 25


def main() -> int:
    """Exit status 1 when something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m stage.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--sagas", type=int, default=SAGAS)
    parser.add_argument("--stores", choices=("usual", "memory", "files"), default="usual")
    parser.add_argument("--all", action="store_true", help="show everything that happened")
    given = parser.parse_args()
    usual = "files" if given.seed % FILES_EVERY == FILES_EVERY - 1 else "memory"
    stores = usual if given.stores == "usual" else given.stores
    simulate = simulate_in_files if stores == "files" else simulate_world
    result = simulate(given.seed, Scenario(sagas=given.sagas))
    if given.all:
        for line in result.transcript.lines:
            print(f"{line.at:9.3f}  {line.saga:<10}  {line.who:<14}  {line.text}")
    print(f"seed {result.seed}: {result.chain}, {result.sagas} sagas, {dict(result.struck)}")
    if not result.violations:
        print("everything holds")
        return 0
    failure = failure_of(result)
    print(*failure.history, sep="\n")
    print(f"{failure.violation.invariant}: {failure.violation.text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
