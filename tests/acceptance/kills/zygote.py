"""Real processes at the price of a fork: a program is imported once, each start of it is a child.

    python -m tests.acceptance.kills.zygote MODULE

A start by exec costs 0.6 s of processor time, which on two cores would be most of the trial; what
a start of ours does (open, migrate, take over, listen) is the same after a fork.

Told on standard input, a line of JSON each: `{"run": [arguments], "held": false}` forks a child
that calls `MODULE.main(arguments)`. Told on standard output: `forked PID`,
`ended PID STATUS` (negative: the signal that killed it), and between them what the child says
(`listening on ...`). A child that is `held` waits for SIGUSR1 first, so that a tracer can take hold
of it. Nothing outlives the end of standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

Main = Callable[[Sequence[str]], int | None]
HELD_BACK = (signal.SIGCHLD, signal.SIGUSR1)

_alive: set[int] = set()


def main() -> None:
    """Fork a child for every line, until told to end."""
    program: Main = importlib.import_module(sys.argv[1]).main
    signal.signal(signal.SIGCHLD, _reap)
    _say("ready")
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        # The fork and its line come before any news of its end.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        pid = os.fork()
        if pid == 0:
            _child(program, told["run"], held=told["held"])
        _alive.add(pid)
        _say(f"forked {pid}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    for pid in list(_alive):
        os.kill(pid, signal.SIGKILL)


def _child(program: Main, arguments: Sequence[str], *, held: bool) -> None:
    """Run the program in this process, which ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if held:
        signal.sigwait({signal.SIGUSR1})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    status = 1
    try:
        status = program(arguments) or 0
    except BaseException as error:
        print(f"failed: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _reap(*_: object) -> None:
    """Tell of every child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _alive.discard(pid)
        _say(f"ended {pid} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    # One write: a line of a child's must not come in between.
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
