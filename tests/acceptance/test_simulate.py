"""`stage simulate` as an author runs it: on the demo's stage, and on one with a broken refund."""

from __future__ import annotations

import re
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from tests.forked import ROOT, stage

HIDING = ("delay", "answer_lost", "deadline")
"""Faults by which a charge lands that nobody waits for any more."""
BROKEN = "tests.simulation.broken_payment:returns_on_none"


def used_seconds() -> float:
    """The processor time of processes that have ended: others beside them take none of it."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def simulate(*arguments: str) -> tuple[int, str, str]:
    """`stage simulate ARGUMENTS`; how it ended, and what it said."""
    return stage("simulate", *arguments, cwd=ROOT)


def test_the_stage_of_the_demo_ends_clean_within_a_minute() -> None:
    """Fifty worlds; faults struck, sagas ended both ways, and everything holds."""
    began = used_seconds()
    process = subprocess.run(
        [sys.executable, "-m", "stage", "simulate", "stage.demo.payment:payment", "--seeds", "50"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    out = process.stdout
    assert (0, "") == (process.returncode, process.stderr), out
    assert used_seconds() - began < 60
    assert "1000 sagas in 50 worlds" in out
    assert "lost 0, doubled 0, stuck 0, stands 0, rule broken 0" in out
    assert out.endswith("everything holds\n")
    for word in ("request_lost", "answer_lost", "crash", "disk_full", "zombie", "verb_retried"):
        assert re.search(rf"{word} [1-9]", out), word
    assert re.search(r"completed [1-9]", out) and re.search(r"compensated [1-9]", out)


def test_a_broken_refund_is_found_with_its_shortest_history() -> None:
    """The charge that a lost answer hid stays; the history shows it, and its line replays it."""
    few = ("--seeds", "30", "--sagas", "8", *(f"--only={fault}" for fault in HIDING))
    status, out, err = simulate(BROKEN, "--model", "stage.demo.model", *few)
    assert (1, "") == (status, err), out
    assert re.search(r"stands [1-9]", out)
    assert re.search(r"^STANDS: payment.* is compensated.* charge.* stands$", out, re.MULTILINE)
    history = [line for line in out.splitlines() if re.match(r"  +\d+\.\d{3}  ", line)]
    assert 5 < len(history) < 80
    assert any("EFFECT made for payment/charge" in line for line in history)
    assert any("journal: compensate charge: undone" in line for line in history)
    assert not any("EFFECT undone" in line and " psp " in line for line in history)
    replay = re.search(r"^replay: stage simulate (.*)$", out, re.MULTILINE)
    assert replay is not None

    again, output, _ = simulate(*replay.group(1).split())

    assert 1 == again
    assert history == [line for line in output.splitlines() if re.match(r"  +\d+\.\d{3}  ", line)]


@pytest.mark.parametrize(
    "name, word",
    [
        ("wrong_key", r"^STANDS: payment.* charge.* stands$"),
        ("not_released", r"^DOUBLED: payment is compensated, and stands 1x in its tables$"),
        ("forgotten", r"^STANDS: payment.* charge.* stands$"),
    ],
)
def test_the_mistakes_of_an_author_are_found(name: str, word: str) -> None:
    """An undo under the wrong key, a row kept, an undo forgotten; only of what is known: above."""
    target = f"tests.simulation.broken_payment:{name}"
    few = ("--seeds", "20", "--sagas", "4")
    status, out, err = simulate(target, "--model", "stage.demo.model", *few)
    assert (1, "") == (status, err), out
    assert re.search(word, out, re.MULTILINE), out


UNKEYED = "tests.simulation.unkeyed_payment"


@pytest.mark.parametrize(
    "target, model, faults, word",
    [
        (
            "tests.simulation.broken_payment:believes_a_410",
            "stage.demo.model",
            ("gateway_replaces",),
            r"^STANDS: payment.* charge.* stands$",
        ),
        (
            f"{UNKEYED}:believes_a_404",
            UNKEYED,
            ("delay", "route_lost"),
            r"^DOUBLED: payment/pay made 2 effects at bank$",
        ),
        (f"{UNKEYED}:payment", UNKEYED, ("delay", "route_lost"), r"^everything holds$"),
    ],
    ids=["410", "404", "own word"],
)
def test_a_code_that_is_believed_without_the_word_of_the_api_is_found(
    target: str, model: str, faults: tuple[str, ...], word: str
) -> None:
    """A gateway gives it as well, for an API that has acted; a stage that asks for more holds."""
    few = ("--seeds", "30", "--sagas", "8", *(f"--only={fault}" for fault in faults))
    status, out, err = simulate(target, "--model", model, *few)
    assert (int("holds" not in word), "") == (status, err), out
    assert re.search(word, out, re.MULTILINE), out


@pytest.mark.parametrize(
    "name, word",
    [
        ("payment", r"^everything holds$"),
        ("hasty", r"^DOUBLED|^LOST|^STANDS|^RULE BROKEN|^STUCK"),
        ("deaf", r"^DOUBLED|^LOST|^STANDS|^RULE BROKEN|^STUCK"),
    ],
)
def test_a_webhook_that_comes_twice_and_before_the_answer(name: str, word: str) -> None:
    """A stage that waits for it holds; one that takes "processing" or a no for a yes is found."""
    target = f"tests.simulation.hooked_payment:{name}"
    few = ("--model", "tests.simulation.hooked_payment", "--seeds", "8", "--sagas", "4")
    status, out, err = simulate(target, *few)
    assert (int(name != "payment"), "") == (status, err), out
    assert re.search(word, out, re.MULTILINE), out


def test_a_simulation_in_which_no_saga_completed_holds_nothing() -> None:
    """A model that refuses everything lets every property hold, and shows none."""
    target = "tests.simulation.refusing_payment:payment"
    status, out, err = simulate(target, "--seeds", "3")
    assert (1, "") == (status, err), out
    assert "no saga completed, so nothing is shown" in out
    assert "everything holds" not in out


def test_a_stage_that_cannot_be_simulated_is_refused_in_one_line() -> None:
    """A fault that there is not, a model that there is not."""
    for arguments, message in (
        (("--without", "rain"), "there is no fault 'rain'"),
        (("--model", "no.such.model"), "the model no.such.model cannot be imported"),
    ):
        status, out, err = simulate("stage.demo.payment:payment", *arguments)
        assert (2, "") == (status, out)
        assert message in err and 1 == len(err.splitlines())
