"""`stage` as the first process of a container: the kernel keeps default actions of signals from it.

The container is a namespace of processes of its own, and no more than that.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import kill
from pathlib import Path

import pytest

from tests.forked import ROOT, inherited
from tests.processes import children

SECONDS_MAX = 60.0
NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
IMPORTS = """
import sys
import msgspec
from stage import Stage

print("importing", flush=True)
sys.stdin.readline()

class Order(msgspec.Struct):
    amount: int

stage = Stage("payment", accepts=Order)

@stage.transaction(compensation=None, reason="it reads")
async def look(tx, saga) -> None: ...
"""
SERVE = ("serve", "slow:stage", "--port", "0", "--database", "sqlite:///p.db", "--auth", "none")


def allowed() -> bool:
    """Whether this machine gives a namespace to this user."""
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not allowed(), reason="no namespace of processes is to be had")


@contextmanager
def first_process(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """`stage COMMAND` with the number 1, once it imports the author's module."""
    (folder / "slow.py").write_text(IMPORTS)
    with subprocess.Popen(
        [*NAMESPACE, sys.executable, "-m", "stage", *command],
        cwd=folder,
        env={**inherited(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "importing\n" == process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "command, status",
    [(SERVE, 0), ((*SERVE, "--workers", "2"), 0), (("check", "slow:stage"), 143)],
    ids=["serve", "workers", "check"],
)
def test_a_signal_during_the_first_imports_is_not_lost(
    tmp_path: Path, command: tuple[str, ...], status: int
) -> None:
    """It would serve until the platform kills it, and be given requests meanwhile."""
    with first_process(tmp_path, *command) as process:
        (first,) = children(process.pid)
        kill(first, signal.SIGTERM)
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write("go on\n")
            process.stdin.flush()
        assert "" == process.stdout.readline()  # a line of one that went on
        assert status == process.wait(SECONDS_MAX)
