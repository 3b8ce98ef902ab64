"""Plants one defect after the other and says which seed finds it: `make mutants`.

    python -m tests.simulation.find_mutants [--only NAME ...]

Writes docs/evidence/mutants.json; `--only` looks for a few and keeps the entries of the others. A
seed counts only when the rules as they are pass at it, and when an invariant was broken: a defect
that raises is one of the plant, whose rule has moved.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

import tests.simulation.mutants_around
import tests.simulation.mutants_of_answers
import tests.simulation.mutants_of_notifying
import tests.simulation.mutants_of_the_fast_path  # noqa: F401 - all of them register their defects
from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.level_l import EVIDENCE, commit, machine, write
from tests.simulation.mutants import ALWAYS, CHAINS, FURTHER, MUTANTS, planted

SEEDS_MAX = 2_000
SAGAS = 10
FILE = "mutants.json"
RAISED = "defect"
"""The invariant under which the books note that code raised."""
LONG = frozenset({"outage"})
"""Days of an outage cost a hundred times as much as a world without, and show no defect sooner."""


def find(name: str, seeds: Iterable[int] = range(SEEDS_MAX), sagas: int = SAGAS) -> Result | None:
    """The first world in which the planted defect is found; None when none is."""
    always, chain = ALWAYS.get(name, frozenset()), CHAINS.get(name, ())
    scenario = Scenario(sagas=sagas, chain=chain, always=always, without=LONG)
    for seed in seeds:
        with planted(name):
            result = simulate_world(seed, scenario)
        if not result.violations or result.violations[0].invariant == RAISED:
            continue
        if not simulate_world(seed, scenario).violations:
            return result
    return None


def recorded() -> dict[str, int]:
    """The seed that found each defect when `make mutants` was last run."""
    return {one["name"]: one["seed"] for one in _entries()}


def _entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode((EVIDENCE / FILE).read_bytes())["found"]
    return found


def _look_for(name: str) -> dict[str, Any] | None:
    began = time.perf_counter()
    result = find(name)
    seconds = time.perf_counter() - began
    if result is None:
        print(f"NOT FOUND in {SEEDS_MAX} seeds: {name} ({seconds:.1f} s)", flush=True)
        return None
    first = result.violations[0]
    print(f"seed {result.seed:>4}  {name}: {first.invariant} {first.text[:100]}", flush=True)
    return {
        "name": name,
        "seed": result.seed,
        "invariant": first.invariant,
        "text": first.text,
        "seconds": round(seconds, 2),
        "commit": commit(),
    }


def main(names: Sequence[str]) -> int:
    """Look for all that are named, or all; 0 when every one is found."""
    every = (*MUTANTS, *FURTHER)
    kept = {one["name"]: one for one in _entries()} if names else {}
    for name in names or every:
        entry = _look_for(name)
        if entry is None:
            kept.pop(name, None)
        else:
            kept[name] = entry
    return _report([kept[name] for name in every if name in kept])


def _report(found: Sequence[dict[str, Any]]) -> int:
    asked = sum(one["name"] in MUTANTS for one in found)
    document = {
        "what": "F4: planted defects of our own rules, and the first seed that finds each",
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
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=(*MUTANTS, *FURTHER), default=())
    sys.exit(main(parser.parse_args().only))
