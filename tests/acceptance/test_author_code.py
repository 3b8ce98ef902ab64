"""Author code that blocks, exits or kills, in a real process watched from outside (rule 35)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.author_bench import DRAIN_SECONDS, SOURCE, Bench, running_bench
from tests.processes import children, lives

EXIT_SECONDS_MAX = DRAIN_SECONDS + 4.0 + 2.0
"""The drain time that is set, the time to end after it, and some for a busy machine."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path) as running:
        yield running


async def test_a_transaction_that_never_ends_is_reported_and_does_not_hold_the_exit(
    bench: Bench,
) -> None:
    """Not ready, the saga and the step named with the stack, counted; SIGTERM ends the process."""
    assert 200 == await bench.post("s-0")
    assert 200 == (await bench.get("/readyz"))[0]
    stuck = asyncio.create_task(bench.post("s-1", place="reserve", what="hang"))
    line = await bench.until_logged("code_stuck")
    assert ("s-1", "reserve", "writer") == (line["saga_id"], line["step"], line["thread"])
    assert "author.py" in line["stack"][-1] and "misbehave" in line["stack"][-1]
    assert 503 == (await bench.get("/readyz"))[0]
    _, metrics = await bench.get("/metrics")
    assert 'stage_code_stuck_total{thread="writer"} 1' in metrics
    await ended_by_force(bench)
    await stuck
    await bench.start()
    assert 200 == await bench.post("s-2")
    assert 200 == (await bench.get("/sagas/s-0"))[0]


async def test_a_call_that_blocks_the_event_loop_is_reported_and_does_not_hold_the_exit(
    bench: Bench,
) -> None:
    """Nobody is answered meanwhile, so only the watchdog's own thread can say it."""
    stuck = asyncio.create_task(bench.post("s-1", place="behind", what="loop"))
    line = await bench.until_logged("code_stuck")
    assert ("s-1", "charge", "loop") == (line["saga_id"], line["step"], line["thread"])
    assert "misbehave" in line["stack"][-1]
    assert 0 == (await bench.get("/readyz"))[0]
    await ended_by_force(bench)
    await stuck


async def ended_by_force(bench: Bench) -> None:
    """SIGTERM ends the process in time, and its last line says which thread was left."""
    asked = time.monotonic()
    bench.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(EXIT_SECONDS_MAX):
        assert 70 == await bench.process.wait()
    assert time.monotonic() - asked >= DRAIN_SECONDS
    stacks = (await bench.until_logged("exit_forced"))["stacks"]
    assert any("misbehave" in calls[-1] for calls in stacks.values()), stacks


@pytest.mark.parametrize("place, what", [("reserve", "hang"), ("behind", "loop")])
async def test_stuck_code_does_not_hold_workers_whose_parent_is_gone(
    bench: Bench, place: str, what: str
) -> None:
    """The next ones would wait for the file for good."""
    bench.process.terminate()
    await bench.process.wait()
    bench.options = ("--workers", "2")
    await bench.start()
    workers = children(bench.process.pid)
    stuck = asyncio.create_task(bench.post("s-1", place=place, what=what))
    await bench.until_logged("code_stuck")
    bench.process.kill()
    async with asyncio.timeout(EXIT_SECONDS_MAX):
        while any(map(lives, workers)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    assert bench.logged("exit_forced")
    await stuck


@pytest.mark.parametrize("place", ["reserve", "before"])
async def test_code_that_kills_before_anything_is_journaled_is_parked_at_the_third_start(
    bench: Bench, place: str
) -> None:
    """Two processes die without a trace in the journal; the third knows whose code it was."""
    for _ in range(2):
        assert 0 == await bench.post("s-1", place=place, what="kill")
        await bench.died()
        await bench.start()
        assert 404 == (await bench.get("/sagas/s-1"))[0]  # nothing of it was journaled
    assert 202 == await bench.post("s-1", place=place, what="kill")
    view = await bench.view_when_parked("s-1")
    assert "2 processes died" in view["parked_reason"], view
    assert 200 == await bench.post("s-2")
    assert 0o600 == (bench.folder / "stage.db.running").stat().st_mode & 0o777
    assert bench.process.returncode is None
    await bench.deploy(SOURCE.replace("os._exit(9)", "pass"))
    assert (await bench.get("/sagas/s-1"))[1]["parked"]  # mended code alone does not let it go on
    assert 200 == await bench.retry("s-1")
    assert 200 == await bench.post("s-1", place=place, what="kill")


async def test_the_crashes_of_one_saga_do_not_spend_the_attempts_of_others(bench: Bench) -> None:
    """Each death cuts the call of an innocent saga off; it goes on as if nobody had died."""
    bench.answers.clear()
    innocent = asyncio.create_task(bench.post("s-good"))
    for _ in range(2):
        await bench.until_asked(1)
        bench.asked.clear()
        assert 0 == await bench.post("s-bad", place="reserve", what="kill")
        await bench.died()
        await bench.start()
    await innocent
    bench.answers.set()
    assert 200 == await bench.post("s-good")
    _, journal = await bench.get("/sagas/s-good?view=journal")
    recovered = [each for each in journal["entries"] if each["event"] == "recovered"]
    assert [True] * 2 == [each.get("innocent") for each in recovered], journal


@pytest.mark.parametrize("place", ["reserve", "before", "behind"])
async def test_an_exit_in_author_code_ends_its_step_and_not_the_process(
    bench: Bench, place: str
) -> None:
    """`sys.exit` in a transaction, before the first request and behind its answer."""
    assert 409 == await bench.post("s-1", place=place, what="exit")
    assert 200 == await bench.post("s-2")
    assert {"s-2:payment:charge"} == bench.standing
    assert bench.process.returncode is None


async def test_a_frozen_process_takes_the_answers_that_had_arrived(bench: Bench) -> None:
    """Frozen for longer than the time-out of ten calls whose answers came meanwhile."""
    bench.answers.clear()
    sending = [asyncio.create_task(bench.post(f"s-{number}")) for number in range(10)]
    await bench.until_asked(10)
    bench.process.send_signal(signal.SIGSTOP)
    bench.answers.set()
    await asyncio.sleep(4.0)
    assert 10 == len(bench.standing)  # every answer was sent while nobody read
    bench.process.send_signal(signal.SIGCONT)
    await asyncio.gather(*sending)
    for number in range(10):
        assert 200 == await bench.post(f"s-{number}")
        _, journal = await bench.get(f"/sagas/s-{number}?view=journal")
        names = [each["event"] for each in journal["entries"]]
        assert "step_in_doubt" not in names, names
