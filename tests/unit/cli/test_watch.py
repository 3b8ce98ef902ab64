"""A command that is run anew after each change: it ends by a signal at any moment, with its child.

The commands are tiny programs; `tests/acceptance/test_dev.py` does it with a stage.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from stage.cli.failure import INTERRUPTED, Failure
from stage.cli.watch import Signals, run_anew

RUNS = "from time import sleep; sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
SAYS_ITS_NUMBER = """
import os, pathlib
part = pathlib.Path(f"{os.getpid()}.part")
part.touch()
part.rename(f"{os.getpid()}.pid")
"""


pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with one watched file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stage.toml").touch()
    return tmp_path


def command(program: str, *, first: str = "") -> list[str]:
    return [sys.executable, "-I", "-S", "-c", first + SAYS_ITS_NUMBER + program]


def numbers(here: Path) -> list[int]:
    """The numbers of the children that have run."""
    return [int(path.stem) for path in here.glob("*.pid")]


async def until(here: Path, count: int) -> list[int]:
    """The same, once so many have begun."""
    while len(numbers(here)) < count:  # noqa: ASYNC110  a child tells nobody
        await asyncio.sleep(0.01)
    return numbers(here)


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_signal_ends_the_child_too(here: Path) -> None:
    signals = Signals()
    running = asyncio.create_task(run_anew(command(RUNS), signals, "hint"))
    (child,) = await until(here, 1)

    signals.hear(INTERRUPTED)

    assert INTERRUPTED == await running
    assert not runs(child)


async def test_a_second_signal_does_not_wait_for_a_child_that_hears_none(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage.cli.watch.STOP_SECONDS_MAX", 600.0)
    signals = Signals()
    running = asyncio.create_task(run_anew(command(RUNS, first=DEAF), signals, "hint"))
    (child,) = await until(here, 1)

    signals.hear(0)
    signals.hear(INTERRUPTED)

    assert 0 == await running
    assert not runs(child)


async def test_a_signal_before_the_first_child_starts_none(here: Path) -> None:
    signals = Signals()
    signals.hear(INTERRUPTED)

    assert INTERRUPTED == await run_anew(command(RUNS), signals, "hint")
    assert [] == numbers(here)


async def test_a_signal_while_a_child_is_being_started_ends_it(here: Path) -> None:
    """It comes before anybody knows the number of the process."""
    signals = Signals()
    start = asyncio.create_subprocess_exec

    async def start_under_a_signal(*words: str) -> asyncio.subprocess.Process:
        signals.hear(INTERRUPTED)
        return await start(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.create_subprocess_exec", start_under_a_signal)
        assert INTERRUPTED == await run_anew(command(RUNS), signals, "hint")
    assert not any(runs(number) for number in numbers(here))


async def test_a_child_that_ends_before_a_change_ends_all_with_its_status() -> None:
    assert 2 == await run_anew(command("raise SystemExit(2)"), Signals(), "hint")


async def test_a_child_that_is_killed_before_a_change_is_named() -> None:
    with pytest.raises(Failure, match="signal 9"):
        await run_anew(command("os.kill(os.getpid(), 9)"), Signals(), "hint")


async def test_a_child_that_ends_after_a_change_waits_for_the_next(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in the code is mended by the next change of it."""
    ends_at_a_slip = "import sys; pathlib.Path('slip.txt').exists() and sys.exit(3);" + RUNS
    signals = Signals()
    running = asyncio.create_task(run_anew(command(ends_at_a_slip), signals, "or do that"))
    await until(here, 1)
    (here / "slip.txt").touch()

    (here / "stage.toml").write_text("# a slip")
    said = ""
    while "ended with status 3: mend it, or do that" not in said:
        await asyncio.sleep(0.01)
        said += capsys.readouterr().out

    (here / "slip.txt").unlink()
    (here / "other.py").touch()
    await until(here, 3)
    assert not running.done()
    signals.hear(0)
    assert 0 == await running


async def test_a_look_beside_each_child_ends_with_it(here: Path) -> None:
    """It begins anew with every child, and is stopped where it has not ended."""
    begun: list[int] = []
    stopped: list[int] = []

    async def beside() -> None:
        begun.append(len(begun))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(len(stopped))
            raise

    signals = Signals()
    running = asyncio.create_task(run_anew(command(RUNS), signals, "hint", beside))
    await until(here, 1)
    (here / "stage.toml").write_text("# another")
    await until(here, 2)
    assert ([0, 1], [0]) == (begun, stopped)
    signals.hear(0)
    assert 0 == await running
    assert [0, 1] == stopped
