"""`stage simulate` as an author runs it: on the demo's stage, and on one with a broken refund."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROKEN = "tests.simulation.broken_payment:returns_on_none"


async def simulate(*arguments: str) -> tuple[int, str, str]:
    """`stage simulate ARGUMENTS` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stage", "simulate", *arguments, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    async with asyncio.timeout(100):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.timeout(110)
async def test_the_stage_of_the_demo_ends_clean_within_a_minute() -> None:
    """Fifty worlds; faults struck, sagas ended both ways, and everything holds."""
    began = time.monotonic()
    status, out, err = await simulate("stage.demo.payment:payment", "--seeds", "50")
    assert (0, "") == (status, err), out
    assert time.monotonic() - began < 60
    assert "1000 sagas in 50 worlds" in out
    assert "lost 0, doubled 0, stuck 0, stands 0, rule broken 0" in out
    assert out.endswith("everything holds\n")
    for word in ("request_lost", "answer_lost", "crash", "disk_full", "zombie", "verb_retried"):
        assert re.search(rf"{word} [1-9]", out), word
    assert re.search(r"completed [1-9]", out) and re.search(r"compensated [1-9]", out)


@pytest.mark.timeout(110)
async def test_a_broken_refund_is_found_with_its_shortest_history() -> None:
    """The charge that a lost answer hid stays; the history shows it, and its line replays it."""
    few = ("--seeds", "30", "--sagas", "8")
    status, out, err = await simulate(BROKEN, "--model", "stage.demo.model", *few)
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

    again, output, _ = await simulate(*replay.group(1).split())

    assert 1 == again
    assert history == [line for line in output.splitlines() if re.match(r"  +\d+\.\d{3}  ", line)]


@pytest.mark.timeout(110)
@pytest.mark.parametrize(
    "name, word",
    [
        ("wrong_key", r"^STANDS: payment.* charge.* stands$"),
        ("not_released", r"^DOUBLED: payment is compensated, and stands 1x in its tables$"),
        ("forgotten", r"^STANDS: payment.* charge.* stands$"),
    ],
)
async def test_the_mistakes_of_an_author_are_found(name: str, word: str) -> None:
    """An undo under the wrong key, a row kept, an undo forgotten; only of what is known: above."""
    target = f"tests.simulation.broken_payment:{name}"
    few = ("--seeds", "60", "--sagas", "4")
    status, out, err = await simulate(target, "--model", "stage.demo.model", *few)
    assert (1, "") == (status, err), out
    assert re.search(word, out, re.MULTILINE), out


@pytest.mark.timeout(110)
@pytest.mark.parametrize(
    "name, word",
    [
        ("payment", r"^everything holds$"),
        ("hasty", r"^DOUBLED|^LOST|^STANDS|^RULE BROKEN|^STUCK"),
        ("deaf", r"^DOUBLED|^LOST|^STANDS|^RULE BROKEN|^STUCK"),
    ],
)
async def test_a_webhook_that_comes_twice_and_before_the_answer(name: str, word: str) -> None:
    """A stage that waits for it holds; one that takes "processing" or a no for a yes is found."""
    target = f"tests.simulation.hooked_payment:{name}"
    few = ("--model", "tests.simulation.hooked_payment", "--seeds", "8", "--sagas", "4")
    status, out, err = await simulate(target, *few)
    assert (int(name != "payment"), "") == (status, err), out
    assert re.search(word, out, re.MULTILINE), out


async def test_a_simulation_in_which_no_saga_completed_holds_nothing() -> None:
    """A model that refuses everything lets every property hold, and shows none."""
    target = "tests.simulation.refusing_payment:payment"
    status, out, err = await simulate(target, "--seeds", "3")
    assert (1, "") == (status, err), out
    assert "no saga completed, so nothing is shown" in out
    assert "everything holds" not in out


async def test_a_stage_that_cannot_be_simulated_is_refused_in_one_line() -> None:
    """A fault that there is not, a model that there is not."""
    for arguments, message in (
        (("--without", "rain"), "there is no fault 'rain'"),
        (("--model", "no.such.model"), "the model no.such.model cannot be imported"),
    ):
        status, out, err = await simulate("stage.demo.payment:payment", *arguments)
        assert (2, "") == (status, out)
        assert message in err and 1 == len(err.splitlines())
