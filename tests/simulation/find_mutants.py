"""Plants one defect after the other and says which seed finds it: `python -m …find_mutants`.

python -m tests.simulation.find_mutants [NAME ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.mutants import MUTANTS, planted

SEEDS_MAX = 2_000
SAGAS = 10


def find(name: str, seeds_max: int = SEEDS_MAX, sagas: int = SAGAS) -> Result | None:
    """The first world in which the planted defect is found; None when none is."""
    with planted(name):
        for seed in range(seeds_max):
            result = simulate_world(seed, Scenario(sagas=sagas))
            if result.violations:
                return result
    return None


def main(names: Sequence[str]) -> int:
    """Look for all that are named, or all; 0 when every one is found."""
    chosen = list(names) or list(MUTANTS)
    found = 0
    for name in chosen:
        began = time.perf_counter()
        result = find(name)
        seconds = time.perf_counter() - began
        if result is None:
            print(f"NOT FOUND  {name} in {SEEDS_MAX} seeds ({seconds:.1f} s)", flush=True)
            continue
        found += 1
        first = result.violations[0]
        print(
            f"seed {result.seed:>4}  {name}: {first.invariant} {first.text[:90]} ({seconds:.1f} s)",
            flush=True,
        )
    print(f"{found} of {len(chosen)} found")
    return 0 if found == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
