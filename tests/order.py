"""The order of the tests: files that take long come first, so that no worker idles at the end.

With `--dist worksteal` each worker begins with a share of the list as it stands, and one that is
done takes half of what another has left, from its end. So each share begins with its longest file
and ends with short ones. A file stays in one piece, as its fixtures are made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SECONDS: Mapping[str, Mapping[str, int]] = {
    "test": {
        "tests/acceptance/orchestrators/test_conformance.py": 60,
        "tests/acceptance/test_author_code.py": 35,
        "tests/acceptance/orchestrators/test_kills.py": 33,
        "tests/scenario/test_hard.py": 33,
        "tests/unit/store/test_contract.py": 32,
        "tests/acceptance/test_simulate.py": 30,
        "tests/acceptance/test_power_loss.py": 30,
        "tests/acceptance/test_postgres.py": 29,
        "tests/acceptance/test_failover.py": 27,
        "tests/acceptance/test_incidents.py": 26,
        "tests/simulation/test_invariants.py": 26,
        "tests/acceptance/test_kills.py": 23,
        "tests/acceptance/test_overload.py": 22,
        "tests/acceptance/test_console.py": 50,
        "tests/acceptance/test_many_stuck.py": 25,
        "tests/scenario/test_answers.py": 20,
        "tests/scenario/test_sweeps.py": 20,
        "tests/acceptance/test_replicas.py": 18,
        "tests/unit/store/test_ownership.py": 18,
        "tests/acceptance/test_operator.py": 18,
        "tests/acceptance/test_collectors.py": 18,
        "tests/unit/engine/test_replicas.py": 18,
        "tests/acceptance/orchestrators/test_credentials.py": 20,
        "tests/acceptance/orchestrators/test_temporal_engine.py": 17,
        "tests/scenario/attacks/test_author_attacks.py": 16,
        "tests/acceptance/orchestrators/test_temporal.py": 16,
        "tests/scenario/attacks/test_addresses.py": 15,
        "tests/acceptance/test_zombies.py": 14,
        "tests/integration/test_clients.py": 14,
        "tests/simulation/test_every_point.py": 13,
        "tests/simulation/test_outages.py": 13,
        "tests/acceptance/test_otlp.py": 12,
        "tests/acceptance/test_takeover.py": 12,
        "tests/acceptance/test_rolling.py": 12,
        "tests/acceptance/test_whole_traces.py": 12,
        "tests/scenario/attacks/test_stalled.py": 12,
        "tests/scenario/attacks/test_crash_attacks.py": 12,
        "tests/unit/store/test_postgres.py": 12,
        "tests/acceptance/test_wheel.py": 11,
        "tests/acceptance/test_exact_kills.py": 11,
        "tests/acceptance/test_demo.py": 10,
        "tests/simulation/test_mutants.py": 10,
        "tests/unit/cli/test_db.py": 10,
        "tests/house/test_names.py": 8,
        "tests/unit/stubs/test_processes.py": 8,
    },
    "prove": {
        "tests/simulation/test_invariants.py": 900,
        "tests/acceptance/test_kills.py": 320,
        "tests/acceptance/test_replicas.py": 300,
        "tests/acceptance/test_incidents.py": 180,
        "tests/acceptance/test_zombies.py": 170,
        "tests/simulation/test_schedules.py": 160,
        "tests/simulation/test_every_point.py": 150,
        "tests/acceptance/test_failover.py": 120,
        "tests/acceptance/orchestrators/test_kills.py": 100,
        "tests/acceptance/test_many_stuck.py": 300,
        "tests/acceptance/test_overload.py": 100,
        "tests/scenario/attacks/test_canaries.py": 90,
        "tests/scenario/attacks/test_every_credential.py": 70,
        "tests/simulation/test_mutants.py": 60,
        "tests/acceptance/test_exact_kills.py": 60,
        "tests/simulation/test_outages.py": 60,
        "tests/acceptance/test_rolling.py": 50,
        "tests/acceptance/test_whole_traces.py": 45,
        "tests/scenario/attacks/test_mutated.py": 40,
    },
}
"""By tier, how long a file takes, where it takes long. A wrong number costs time, and no test."""
SHORT = 1
"""Seconds of a file that stands in no row."""


def order(tier: str, files: Iterable[str], workers: int) -> list[int]:
    """Which test comes when, by its place in `files`, which names the file of each test."""
    places: dict[str, list[int]] = {}
    for place, file in enumerate(files):
        places.setdefault(file, []).append(place)
    counts = {file: len(of_file) for file, of_file in places.items()}
    dealt = shares(SECONDS[tier], counts, workers)
    return [place for share in dealt for file in share for place in places[file]]


def shares(seconds: Mapping[str, int], counts: Mapping[str, int], workers: int) -> list[list[str]]:
    """The files of each worker, the longest first. `counts` says how many tests each file has.

    A share is as many tests, however long they are. So a long file goes where the least time is
    taken, and short ones, those with many tests first, fill up the numbers.
    """
    taken, filled = [0] * workers, [0] * workers
    dealt: list[list[str]] = [[] for _ in range(workers)]
    for file in sorted(counts, key=lambda file: (-seconds.get(file, SHORT), -counts[file], file)):
        at = min(range(workers), key=(taken if file in seconds else filled).__getitem__)
        dealt[at].append(file)
        taken[at] += seconds.get(file, SHORT)
        filled[at] += counts[file]
    return dealt
