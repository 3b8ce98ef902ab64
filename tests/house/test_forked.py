"""A process of a test is forked, and is in all that a test can see one that was started by exec."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forked

STARTED = (sys.executable, "-m", "tests.house.started")
FORKING = "tests.forked"


def command_of(pid: int) -> list[str]:
    """How the kernel says that the process was started."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def told(folder: Path) -> tuple[int, dict[str, Any], str]:
    """How it ended, what it says of itself, and what it wrote to stderr."""
    done = subprocess.run(
        [*STARTED, "a", "--b"],
        cwd=folder,
        env={"WORD": "wörd", "PYTHONPATH": str(forked.ROOT), "PATH": os.environ["PATH"]},
        input="given",
        capture_output=True,
        text=True,
        check=False,
    )
    own: dict[str, Any] = json.loads(done.stdout)
    assert own.pop("pid") != os.getpid()
    return done.returncode, own, done.stderr


def test_a_fork_is_as_a_start_by_exec(tmp_path: Path) -> None:
    """Arguments, directory, environment, path, parent, streams and exit status; nothing else."""
    by_fork = told(tmp_path)
    with forked.by_exec():
        by_exec = told(tmp_path)

    assert by_exec == by_fork
    assert str(tmp_path) == by_fork[1].pop("path")[0]
    assert (7, "and to stderr\n") == (by_fork[0], by_fork[2])
    assert {
        "arguments": ["a", "--b"],
        "cwd": str(tmp_path),
        "environ": {"WORD": "wörd", "HOME": None},
        "name": "__main__",
        "parent": os.getpid(),
        "read": "given",
        "descriptors": [0, 1, 2],
    } == by_fork[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_forked_process_is_killed_as_any_other(number: signal.Signals) -> None:
    """By the pid that it says it has; its end is seen, and it is gone."""
    process = await asyncio.create_subprocess_exec(*STARTED, "--wait", stdout=subprocess.PIPE)
    assert process.stdout is not None
    own = json.loads(await process.stdout.readline())
    assert process.pid == own["pid"]
    assert FORKING in command_of(process.pid)

    os.kill(process.pid, number)

    assert -number == await process.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.execs
async def test_a_test_of_a_start_starts_by_exec() -> None:
    """With its mark, a process is the command and nothing else."""
    process = await asyncio.create_subprocess_exec(*STARTED, "--wait", stdout=subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    assert [*STARTED, "--wait"] == command_of(process.pid)
    process.kill()
    await process.communicate()


@pytest.mark.parametrize(
    "command, more",
    [
        ([sys.executable, "-X", "utf8", "-m", "tests.house.started"], {}),
        ([sys.executable, "-c", "import tests"], {}),
        ([sys.executable, "-m", "json.tool", "--help"], {}),
        (["python3", *STARTED[1:]], {}),
        (list(STARTED), {"start_new_session": True}),
        (list(STARTED), {"pass_fds": (0,)}),
        (list(STARTED), {"close_fds": False}),
        (list(STARTED), {"umask": 0o77}),
    ],
    ids=["option", "code", "module", "python", "session", "descriptors", "all", "umask"],
)
def test_a_start_that_asks_for_more_is_by_exec(
    monkeypatch: pytest.MonkeyPatch, command: list[str], more: dict[str, Any]
) -> None:
    """A fork could not give it."""
    asked: list[object] = []
    monkeypatch.setattr(forked.Mother, "child", lambda _, order, __: asked.append(order))

    subprocess.run(
        command,
        cwd=forked.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        **more,
    )

    assert [] == asked


def test_a_directory_that_is_not_there_is_refused_as_ever(tmp_path: Path) -> None:
    """The error is that of a start by exec."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        subprocess.run(STARTED, cwd=tmp_path / "nowhere", check=False)


def test_the_step_of_subprocess_is_the_one_that_is_known() -> None:
    """Where it is not, every start is by exec, and the last lines of a run say so."""
    assert "" == forked.says()
    assert subprocess.Popen is forked.Forking
