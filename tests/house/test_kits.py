"""The fault kits: level G is in `make prove`, and a kit that strikes too little fails the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _pytest.mark.expression import Expression

from tests.inner import run_pytest
from tests.kits import Strikes, Tally, add_up, keep, kept, shortcomings, table
from tests.prove import ALONE, RUNS, TOGETHER
from tests.sizes import TIERS, Kit, Sizes, chosen, kits

UNKNOWN = "F" + "99"
"""A kit of no page; in two parts, as the citations of this file are held to the pages."""

LEVEL_G = {
    "F1": {"sagas": 100_000},
    "F2": {"single faults": 700, "pairs of faults": 8_000},
    "F3": {"schedules": 16_000},
    "F4": {"defects": 40},
    "F5": {"kills": 150, "sagas": 20_000},
    "F6": {"kills": 140},
    "F7": {"cuts": 200, "recoveries": 20},
    "F8": {"cycles": 10},
    "F9": {"zombies": 30},
    "F10": {"messages": 5_000},
    "F11": {"requests": 120},
    "F12": {"connections": 1_200},
    "F13": {"seconds": 60},
    "F14": {"times": 20},
    "F15": {"cases": 41},
    "F16": {"kills": 14},
    "F17": {"refusals": 200, "replays": 10_000},
    "F18": {"addresses": 60},
    "F19": {"requests": 20_000},
    "F20": {"sagas": 500},
    "F21": {"outages": 50, "undos": 500},
    "F22": {"deploys": 1_000},
    "F23": {"faults": 20},
    "F24": {"jumps": 480, "skews": 9},
    "F25": {"strikes": 150, "sagas": 20_000},
    "F26": {"synchronous": 3, "asynchronous": 3},
    "F27": {"updates": 2},
    "F29": {"stories": 38, "sagas": 400, "kills": 40},
    "F30": {"incidents": 19},
    "F31": {"sagas": 1_100},
    "F32": {"sagas": 5_000},
}
"""The sizes that docs/guarantees.md promises, by figure and unit."""
ONE = {"F7": Kit("losses of power", {"cuts": 20, "recoveries": 2})}


def reported(figure: str, **counts: int) -> list[dict[str, Any]]:
    """The reports of one kit, as they travel from a worker to the summary."""
    reports: list[Any] = []
    for unit, count in counts.items():
        Strikes(figure, lambda _, value: reports.append(value)).report(unit, count)
    return reports


def test_prove_runs_every_kit_at_level_g() -> None:
    """No kit shrinks, and none is left out."""
    asked = kits(TIERS["prove"])

    assert LEVEL_G.keys() == asked.keys()
    for figure, units in LEVEL_G.items():
        assert units.keys() == asked[figure].asked.keys()
        assert all(asked[figure].asked[unit] >= count for unit, count in units.items()), figure


def test_the_environment_chooses_the_tier_and_changes_single_sizes() -> None:
    """CUTS=2000 changes the cuts alone; an unknown tier is refused by name."""
    tier, sizes = chosen({"CUTS": "2000", "RATE": "90.5"})

    assert ("test", 2000, 90.5) == (tier, sizes.cuts, sizes.rate)
    assert TIERS["test"].kills == sizes.kills
    assert ("prove", TIERS["prove"]) == chosen({"TIER": "prove"})
    with pytest.raises(ValueError, match="TIER=nightly is not a tier: use test or prove"):
        chosen({"TIER": "nightly"})


def test_the_smaller_tier_asks_every_kit_for_something() -> None:
    """A kit that strikes nothing would test nothing."""
    assert isinstance(TIERS["test"], Sizes)
    for figure, kit in kits(TIERS["test"]).items():
        assert all(asked > 0 for asked in kit.asked.values()), figure


def test_the_reports_of_a_kit_are_added_up() -> None:
    """Several tests, on several workers, are one kit."""
    reports = reported("F7", cuts=15) + reported("F7", cuts=5, recoveries=2)

    tally = add_up(reports, failed=["F7"])["F7"]

    assert {"cuts": 20, "recoveries": 2} == tally.counts
    assert 1 == tally.failed
    assert [] == shortcomings(ONE, add_up(reports))
    assert "20" in table(ONE, add_up(reports))[1]


@pytest.mark.parametrize(
    "tallies, wrong",
    [
        ({}, "F7 (losses of power) did not run"),
        ({"F7": Tally(failed=1)}, "F7 (losses of power) did not run"),
        (
            add_up(reported("F7", cuts=19, recoveries=2)),
            "F7 (losses of power): 19 of 20 cuts",
        ),
        (add_up(reported("F7", cuts=20)), "F7 (losses of power): 0 of 2 recoveries"),
        (
            add_up(reported("F7", cuts=20, recoveries=2) + reported(UNKNOWN, x=1)),
            f"{UNKNOWN} is in no",
        ),
    ],
    ids=["not run", "failed first", "too few", "part missing", "unknown"],
)
def test_a_kit_that_falls_short_is_named(tallies: dict[str, Tally], wrong: str) -> None:
    """The run ends red for each, and the text says which kit and by how much."""
    (found,) = shortcomings(ONE, tallies)

    assert found.startswith(wrong)


def test_violations_are_a_shortcoming() -> None:
    """Even if the test that reported them went on and passed."""
    reports = reported("F7", cuts=20, recoveries=2)
    reports[0]["violations"] = 3

    assert ["F7 (losses of power): 3 violations"] == shortcomings(ONE, add_up(reports))


def test_the_reports_of_two_runs_are_one(tmp_path: Path) -> None:
    """A kit of the first run counts in the table of the second, and so does what failed there."""
    file = tmp_path / "reports.jsonl"
    keep(file, reported("F7", cuts=15), ["F7"])
    keep(file, reported("F7", cuts=5, recoveries=2), [])

    tally = add_up(*kept(file))["F7"]

    assert ({"cuts": 20, "recoveries": 2}, 1) == (tally.counts, tally.failed)


@pytest.mark.parametrize(
    "marks, runs",
    [({"kit"}, 1), ({"kit", "quiet"}, 1), ({"oldest"}, 1), ({"quiet"}, 0), (set(), 0)],
    ids=["kit", "speed", "law", "no kit", "neither"],
)
def test_prove_runs_each_test_of_a_kit_once(marks: set[str], runs: int) -> None:
    """Together with others or by itself, and the last run judges what both reported."""

    def has(name: str, /, **_: str | int | bool | None) -> bool:
        return name in marks

    assert runs == sum(Expression.compile(each).evaluate(has) for each in (TOGETHER, ALONE))
    assert [TOGETHER, ALONE] == [run[run.index("-m") + 1] for run in RUNS]
    assert [False, True] == ["--every-kit" in run for run in RUNS]


def test_a_run_that_lacks_kits_ends_red(root: Path, tmp_path: Path) -> None:
    """With `--every-kit` the exit status and the last line of pytest both say so.

    A kit of an earlier run, whose reports it was given, is there.
    """
    file = tmp_path / "reports.jsonl"
    keep(file, reported("F1", sagas=LEVEL_G["F1"]["sagas"]), [])
    result = run_pytest(
        *("-p", "no:cacheprovider", "--every-kit", "tests/simulation/test_mutants.py"),
        *("-k", "test_a_planted_defect_is_found and the_tombstone_is_forgotten"),
        f"--kit-reports={file}",
        cwd=root,
    )

    *_, last = result.stdout.splitlines()
    assert 1 == result.returncode, result.stdout
    assert "1 passed" in last and f"{len(LEVEL_G) - 1} errors" in last
    assert "F4 (planted defects found): 1 of 40 defects" in result.stdout
    assert "F1 (simulated sagas)" not in result.stdout
    assert "F2 (every fault at every point) did not run" in result.stdout
