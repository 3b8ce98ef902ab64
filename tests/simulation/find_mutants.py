"""Plants one defect after the other and says which seed finds it: `make mutants`.

    python -m tests.simulation.find_mutants [NAME ...]

Without names all are looked for, and docs/evidence/mutants.json is written. A seed counts only
when the rules as they are pass at it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

import tests.simulation.mutants_around  # noqa: F401 - registers its defects
from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.level_l import EVIDENCE, commit, machine, write
from tests.simulation.mutants import ALWAYS, FURTHER, MUTANTS, planted

SEEDS_MAX = 2_000
SAGAS = 10
FILE = "mutants.json"
LONG = frozenset({"outage"})
"""Days of an outage cost a hundred times as much as a world without, and show no defect sooner."""


def find(name: str, seeds: Iterable[int] = range(SEEDS_MAX), sagas: int = SAGAS) -> Result | None:
    """The first world in which the planted defect is found; None when none is."""
    scenario = Scenario(sagas=sagas, always=ALWAYS.get(name, frozenset()), without=LONG)
    for seed in seeds:
        with planted(name):
            result = simulate_world(seed, scenario)
        if result.violations and not simulate_world(seed, scenario).violations:
            return result
    return None


def recorded() -> dict[str, int]:
    """The seed that found each defect when `make mutants` was last run."""
    document = msgspec.json.decode((EVIDENCE / FILE).read_bytes())
    return {one["name"]: one["seed"] for one in document["found"]}


def main(names: Sequence[str]) -> int:
    """Look for all that are named, or all; 0 when every one is found."""
    found: list[dict[str, Any]] = []
    for name in names or (*MUTANTS, *FURTHER):
        began = time.perf_counter()
        result = find(name)
        seconds = time.perf_counter() - began
        if result is None:
            print(f"NOT FOUND in {SEEDS_MAX} seeds: {name} ({seconds:.1f} s)", flush=True)
            continue
        first = result.violations[0]
        print(f"seed {result.seed:>4}  {name}: {first.invariant} {first.text[:100]}", flush=True)
        found.append(
            {
                "name": name,
                "seed": result.seed,
                "invariant": first.invariant,
                "text": first.text,
                "seconds": round(seconds, 2),
            }
        )
    if names:
        print(f"{len(found)} of {len(names)} found")
        return 0 if len(found) == len(names) else 1
    return _report(found)


def _report(found: Sequence[dict[str, Any]]) -> int:
    asked = sum(one["name"] in MUTANTS for one in found)
    document = {
        "what": "F4: planted defects of our own rules, and the first seed that finds each",
        "commit": commit(),
        "machine": machine(),
        "seeds_max": SEEDS_MAX,
        "sagas_per_seed": SAGAS,
        "planted": len(MUTANTS),
        "planted_further": len(FURTHER),
        "found": found,
    }
    write(FILE, document)
    print(f"{len(found) - asked} of {len(FURTHER)} further ones found")
    print(f"{asked} of {len(MUTANTS)} found")
    return 0 if len(found) == len(MUTANTS) + len(FURTHER) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
