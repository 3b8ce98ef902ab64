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
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

Main = Callable[[Sequence[str]], int | None]
READ_BYTES_MAX = 65_536


def main() -> None:
    """Fork a child for every line until standard input ends, and tell of those that have ended."""
    program: Main = importlib.import_module(sys.argv[1]).main
    # A signal that comes just before a read would be noticed after it: both are waited for at once.
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    alive: set[int] = set()
    rest = b""
    _say("ready")
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, READ_BYTES_MAX)
            _reap(alive)
        if 0 in ready:
            if not (read := os.read(0, READ_BYTES_MAX)):
                break
            *lines, rest = (rest + read).split(b"\n")
            alive.update(_fork(program, json.loads(line)) for line in lines)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _fork(program: Main, order: dict[str, Any]) -> int:
    # A tracer may be there before the child waits for its signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    pid = os.fork()
    if pid == 0:
        _child(program, order["run"], held=order["held"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    _say(f"forked {pid}")
    return pid


def _child(program: Main, arguments: Sequence[str], *, held: bool) -> None:
    """Run the program in this process, which ends with it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if held:
        signal.sigwait({signal.SIGUSR1})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    status = 1
    try:
        status = program(arguments) or 0
    except BaseException as error:
        print(f"failed: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _reap(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        alive.discard(pid)
        _say(f"ended {pid} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    # In one write, and on a line of its own: a child may have died in the middle of one of its own.
    os.write(1, f"\n{line}\n".encode())


if __name__ == "__main__":
    main()
