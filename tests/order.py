"""The order of the tests: long ones come first, so that no worker idles at the end.

With `--dist worksteal` each worker begins with a share of the list as it stands, and one that is
done takes half of what another has left, from its end. So each share begins with its longest piece
and ends with short ones. A file is one piece, as its fixtures are made once, and so is a folder
with a row of its own, whose files keep what they have read for each other; a test with a row of its
own is a piece for each of its parameters, which several workers share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

DRIVEN_KILLS = "tests/acceptance/orchestrators/test_kills.py"
EVERY_POINT = "tests/simulation/test_every_point.py"
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
        "tests/acceptance/test_workers.py": 30,
        "tests/acceptance/test_overload.py": 22,
        "tests/acceptance/test_console.py": 50,
        "tests/acceptance/test_many_stuck.py": 25,
        "tests/scenario/test_answers.py": 20,
        "tests/scenario/test_sweeps.py": 20,
        "tests/acceptance/test_replicas.py": 18,
        "tests/unit/store/test_ownership.py": 18,
        "tests/unit/store/test_identity.py": 18,
        "tests/acceptance/test_operator.py": 18,
        "tests/acceptance/test_collectors.py": 18,
        "tests/acceptance/test_start_files.py": 20,
        "tests/unit/engine/test_replicas.py": 18,
        "tests/acceptance/orchestrators/test_credentials.py": 20,
        "tests/acceptance/orchestrators/test_temporal_engine.py": 17,
        "tests/scenario/attacks/test_author_attacks.py": 16,
        "tests/acceptance/orchestrators/test_temporal.py": 16,
        "tests/scenario/attacks/test_addresses.py": 15,
        "tests/acceptance/test_zombies.py": 14,
        "tests/integration/test_clients.py": 14,
        "tests/integration/test_neighbours.py": 15,
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
        "tests/acceptance/test_streams.py": 25,
        "tests/acceptance/test_demo.py": 10,
        "tests/simulation/test_mutants.py": 10,
        "tests/unit/cli/test_db.py": 10,
        "tests/house": 18,
        "tests/unit/stubs/test_processes.py": 8,
    },
    "prove": {
        "tests/simulation/test_invariants.py::test_every_invariant_holds_in_every_world": 130,
        "tests/simulation/test_invariants.py": 90,
        "tests/acceptance/test_kills.py": 170,
        "tests/acceptance/test_replicas.py": 260,
        "tests/acceptance/test_incidents.py": 110,
        "tests/acceptance/test_zombies.py": 200,
        "tests/simulation/test_schedules.py::test_every_schedule_ends_as_it_should": 4,
        f"{EVERY_POINT}::test_one_fault_at_every_point": 2,
        f"{EVERY_POINT}::test_a_second_fault_at_every_point_after_the_first": 9,
        "tests/acceptance/test_failover.py": 120,
        f"{DRIVEN_KILLS}::test_kills_lose_double_and_leave_nothing": 100,
        "tests/acceptance/orchestrators/test_conformance.py": 80,
        "tests/acceptance/test_many_stuck.py": 170,
        "tests/acceptance/test_overload.py": 100,
        "tests/scenario/attacks/test_canaries.py": 120,
        "tests/scenario/attacks/test_every_credential.py::test_replays_do_nothing_twice": 110,
        "tests/scenario/attacks/test_every_credential.py": 70,
        "tests/simulation/test_mutants.py": 60,
        "tests/acceptance/test_exact_kills.py::test_killed_at_any_call_the_books_agree": 40,
        "tests/acceptance/test_power_loss.py": 40,
        "tests/acceptance/test_erasure.py": 40,
        "tests/simulation/test_outages.py": 60,
        "tests/acceptance/test_rolling.py": 50,
        "tests/acceptance/test_whole_traces.py": 45,
        "tests/scenario/attacks/test_mutated.py": 40,
    },
}
"""By tier, how long a file takes, or a test for each of its parameters: what takes long has a row.

A wrong number costs time, and no test.
"""
SHORT = 1
"""Seconds of a file that stands in no row."""
IN_TURN: Mapping[str, Sequence[str]] = {
    "prove": (
        "tests/acceptance/test_kills.py",
        "tests/acceptance/test_replicas.py",
    ),
}
"""Those that offer sagas at a rate and use more than one core for it: one after the other."""


def order(tier: str, tests: Iterable[str], workers: int) -> list[int]:
    """Which test comes when, by its place in `tests`, which are named as pytest does."""
    rows = SECONDS[tier]
    places = pieces(rows, tests)
    counts = {piece: len(of_piece) for piece, of_piece in places.items()}
    seconds = {piece: rows.get(piece.partition("[")[0], SHORT) for piece in counts}
    dealt = shares(seconds, counts, workers, IN_TURN.get(tier, ()))
    return [place for share in dealt for piece in share for place in places[piece]]


def pieces(rows: Mapping[str, int], tests: Iterable[str]) -> dict[str, list[int]]:
    """The places of the tests by their piece: a test or a folder that has a row, or its file."""
    places: dict[str, list[int]] = {}
    for place, test in enumerate(tests):
        file = test.partition("::")[0]
        folder = file.rpartition("/")[0]
        alone = test.partition("[")[0] in rows
        piece = test if alone else folder if folder in rows else file
        places.setdefault(piece, []).append(place)
    return places


def shares(
    seconds: Mapping[str, int], counts: Mapping[str, int], workers: int, in_turn: Sequence[str] = ()
) -> list[list[str]]:
    """The pieces of each worker, the longest first. `counts` says how many tests each one has.

    A share is as many tests, however long they are. So a long piece goes where the least time is
    taken, and short ones, those with many tests first, fill up the numbers. The first share begins
    with those of `in_turn`, in that order.
    """
    taken, filled = [0] * workers, [0] * workers
    dealt: list[list[str]] = [[] for _ in range(workers)]

    def deal(piece: str, at: int) -> None:
        dealt[at].append(piece)
        taken[at] += seconds.get(piece, SHORT)
        filled[at] += counts[piece]

    for piece in in_turn:
        if piece in counts:
            deal(piece, 0)
    rest = counts.keys() - set(in_turn)
    for piece in sorted(rest, key=lambda each: (-seconds.get(each, SHORT), -counts[each], each)):
        is_long = seconds.get(piece, SHORT) > SHORT
        deal(piece, min(range(workers), key=(taken if is_long else filled).__getitem__))
    return dealt
